"""What arrives is looked at, settled where it came from, and if refused, told to the ledger."""

import json
import random
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from queue import PriorityQueue
from typing import Any

import dramatiq
import pytest
from dramatiq.errors import ConnectionClosed
from dramatiq.worker import ConsumerThread

from tests import garbage
from tests.probes import PATIENCE_SECONDS, Ledger, Service, log_lines
from tests.rig.rabbitmq import RabbitMQ
from tests.rig.waiting import eventually
from workers.broker import build_broker
from workers.consumer import Consumer, Delivered
from workers.database import Database
from workers.job import Job, Run
from workers.models import JobRun
from workers.periodic import every, utc_now
from workers.rabbitmq import Rabbitmq
from workers.settings import Settings

pytest_plugins = ["tests.probe_fixtures"]

UNREACHABLE = "postgresql+psycopg2://nobody@127.0.0.1:1/nothing"


def on_demand(run: Run) -> None: ...


def half_minutely(run: Run) -> None: ...


def make_broker(rabbitmq: RabbitMQ, database: Database) -> Rabbitmq:
    broker = build_broker(Settings(rabbitmq_url=rabbitmq.url), database, ())
    assert isinstance(broker, Rabbitmq)
    dramatiq.actor(actor_class=Job, broker=broker)(on_demand)
    dramatiq.actor(actor_class=Job, broker=broker, periodic=every(seconds=30))(half_minutely)
    return broker


@pytest.fixture
def broker(clean_rabbitmq: RabbitMQ, database: Database) -> Iterator[Rabbitmq]:
    broker = make_broker(clean_rabbitmq, database)
    yield broker
    broker.close()


@contextmanager
def consume(broker: Rabbitmq, queue: str = "default") -> Iterator[Consumer]:
    consumer = broker.consume(queue, prefetch=10, timeout=200)
    assert isinstance(consumer, Consumer)
    yield consumer
    with suppress(ConnectionClosed):
        consumer.close()


def take(consumer: Consumer) -> Delivered:
    """Take the next message that is handed on."""
    message = eventually(lambda: next(consumer), timeout_seconds=PATIENCE_SECONDS)
    assert message is not None
    return message


def fields_of(job: str = "on_demand", **changed: Any) -> dict[str, Any]:
    return {**garbage.good(random.Random(), job=job, queue="default"), **changed}


def send(broker: Rabbitmq) -> str:
    job: Any = broker.actors["on_demand"]
    return str(job.send_with_options().message_id)


class TestAcknowledging:
    def test_through_another_consumer_does_nothing(
        self, broker: Rabbitmq, clean_rabbitmq: RabbitMQ
    ) -> None:
        # Given messages in flight, whose consumer is replaced
        first, second = send(broker), send(broker)
        with consume(broker) as old:
            in_flight = [take(old), take(old)]
        assert [each.message_id for each in in_flight] == [first, second]
        with consume(broker) as new:
            again = [take(new), take(new)]

            # When they are settled through the new one, by numbers that are in use there
            new.ack(in_flight[0])
            new.nack(in_flight[1])

            # Then nothing is settled
            assert new.known_tags == {each._tag for each in again}
        eventually(lambda: clean_rabbitmq.queue_counts("default").ready == 2)
        assert clean_rabbitmq.queue_counts("default.XQ").ready == 0

    def test_through_its_own_consumer_settles_it(
        self, broker: Rabbitmq, clean_rabbitmq: RabbitMQ
    ) -> None:
        send(broker)
        dead = send(broker)
        with consume(broker) as consumer:
            consumer.ack(take(consumer))
            consumer.nack(take(consumer))

        assert clean_rabbitmq.queue_counts("default").ready == 0
        (letter,) = clean_rabbitmq.peek("default.XQ")
        assert json.loads(letter.body)["message_id"] == dead


def test_a_deleted_queue_is_declared_again(broker: Rabbitmq, clean_rabbitmq: RabbitMQ) -> None:
    # Given a consumer of a queue that somebody deletes
    with consume(broker) as consumer:
        clean_rabbitmq.delete_queues(["default"])
        with pytest.raises(ConnectionClosed):
            take(consumer)

    # Then its connection is not left open, as dramatiq does if the channel is closed already
    assert not consumer.connection.is_open

    # And the next one has a queue
    with consume(broker) as consumer:
        send(broker)
        assert take(consumer).actor_name == "on_demand"


class TestDelayedMessages:
    def test_are_kept_while_their_queue_takes_nothing(self, service: Service) -> None:
        # Given a queue that refuses all that is published to it, and a message that waits for it
        service.declare("default")
        definition = json.dumps({"max-length": 0, "overflow": "reject-publish"})
        service.rabbitmq.ctl("set_policy", "full", "^default$", definition)
        worker = service.start_worker()
        fields = garbage.good(random.Random(), job="probe_effect", queue="default.DQ")
        fields["options"] = {"eta": 1}
        service.rabbitmq.publish("default.DQ", garbage.encode(fields))
        worker.wait_for_output("Restarting consumer", count=2, timeout_seconds=PATIENCE_SECONDS)

        # When the queue takes messages again
        service.rabbitmq.ctl("clear_policy", "full")

        # Then the message is done, once
        service.wait_for_run(str(fields["message_id"]), "succeeded")
        assert service.effects() == 1
        assert service.dead_letters() == []

    def test_are_forgotten_with_their_connection(self, broker: Rabbitmq) -> None:
        # Given a consumer that holds a delayed message, as dramatiq does
        broker.enqueue(broker.actors["on_demand"].message(), delay=60_000)
        thread = ConsumerThread(
            broker=broker,
            queue_name="default.DQ",
            prefetch=10,
            work_queue=PriorityQueue(),
            worker_timeout=200,
        )
        with consume(broker, "default.DQ") as consumer:
            thread.consumer = consumer
            thread.handle_message(take(consumer))
            assert thread.delay_queue.qsize() == 1

            # When it is closed after an error
            thread.close()

        # Then RabbitMQ has the message, and it alone
        assert thread.delay_queue.qsize() == 0
        with consume(broker, "default.DQ") as consumer:
            assert take(consumer).actor_name == "on_demand"


class TestRefusals:
    @pytest.fixture
    def ledger(self, database: Database) -> Ledger:
        return Ledger(database)

    def refuse(self, broker: Rabbitmq, rabbitmq: RabbitMQ, body: bytes) -> None:
        """Have a consumer refuse a message."""
        with consume(broker) as consumer:
            rabbitmq.publish("default", body)
            eventually(
                lambda: next(consumer) is None and rabbitmq.queue_counts("default.XQ").ready == 1,
                timeout_seconds=PATIENCE_SECONDS,
            )

    def test_are_shown_as_the_dead_run_that_was_asked_for(
        self, broker: Rabbitmq, clean_rabbitmq: RabbitMQ, ledger: Ledger
    ) -> None:
        fields = fields_of(args=[1])

        self.refuse(broker, clean_rabbitmq, garbage.encode(fields))

        run = ledger.run(str(fields["message_id"]))
        assert (run.status, run.job, run.attempt, run.queue) == ("dead", "on_demand", 0, "default")
        assert run.error is not None
        assert run.error.startswith("Its message was refused: its arguments do not fit on_demand:")
        assert run.finished_at

    def test_end_the_wait_of_a_run_for_its_retry(
        self, broker: Rabbitmq, clean_rabbitmq: RabbitMQ, ledger: Ledger
    ) -> None:
        # Given a run that waits for its retry, of a job that no worker knows any more
        fields = fields_of("gone", options={"scheduled_at": "2026-11-23T19:30:00"})
        with ledger.database.transaction() as session:
            session.add(
                JobRun(
                    run_key="gone@2026-11-23T19:30:00Z",
                    job="gone",
                    message_id=str(fields["message_id"]),
                    queue="default",
                    status="retrying",
                    attempt=1,
                    error="LookupError: not found",
                )
            )

        self.refuse(broker, clean_rabbitmq, garbage.encode(fields))

        run = ledger.run("gone@2026-11-23T19:30:00Z")
        assert run.status == "dead"
        assert run.error == (
            "Its message was refused: there is no actor 'gone'\n\nLookupError: not found"
        )

    @pytest.mark.parametrize("status", ["running", "succeeded", "skipped", "dead"])
    def test_leave_other_runs_as_they_are(
        self, broker: Rabbitmq, clean_rabbitmq: RabbitMQ, ledger: Ledger, status: str
    ) -> None:
        fields = fields_of(options=None)
        key = str(fields["message_id"])
        with ledger.database.transaction() as session:
            session.add(
                JobRun(run_key=key, job="on_demand", message_id=key, queue="default", status=status)
            )

        self.refuse(broker, clean_rabbitmq, garbage.encode(fields))

        run = ledger.run(key)
        assert (run.status, run.error) == (status, None)

    def test_of_a_slot_have_its_key(
        self, broker: Rabbitmq, clean_rabbitmq: RabbitMQ, ledger: Ledger
    ) -> None:
        options = {"scheduled_at": "2026-11-23T19:30:10+00:00"}
        fields = fields_of("half_minutely", options=options, args=[1])

        self.refuse(broker, clean_rabbitmq, garbage.encode(fields))

        assert ledger.run("half_minutely@2026-11-23T19:30:00Z").status == "dead"

    @pytest.mark.parametrize(
        "body",
        [
            b"\xff",
            garbage.encode(fields_of("make_coffee")),
            garbage.encode(fields_of(message_id="nul \x00")),
            garbage.encode(fields_of("half_minutely", options={"scheduled_at": "soon"})),
        ],
        ids=["no message", "no such job", "odd id", "odd slot"],
    )
    def test_without_a_job_and_a_key_leave_no_row(
        self, broker: Rabbitmq, clean_rabbitmq: RabbitMQ, ledger: Ledger, body: bytes
    ) -> None:
        self.refuse(broker, clean_rabbitmq, body)
        assert ledger.ask("SELECT count(*) FROM job_runs") == 0

    def test_do_not_need_the_database(
        self, clean_rabbitmq: RabbitMQ, caplog: pytest.LogCaptureFixture
    ) -> None:
        broker = make_broker(clean_rabbitmq, Database(UNREACHABLE))

        self.refuse(broker, clean_rabbitmq, garbage.encode(fields_of(options=None)))

        assert "The ledger was not told of a dead letter" in caplog.text
        broker.close()

    def test_do_not_stop_the_queue_if_the_fault_is_ours(
        self,
        broker: Rabbitmq,
        clean_rabbitmq: RabbitMQ,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def fail(*_: Any, **__: Any) -> None:
            raise ZeroDivisionError

        with monkeypatch.context() as patched:
            patched.setattr("workers.messages.read", fail)
            self.refuse(broker, clean_rabbitmq, garbage.encode(fields_of()))

        send(broker)
        with consume(broker) as consumer:
            assert take(consumer).actor_name == "on_demand"

    def test_are_logged_in_a_line_without_what_is_in_them(self, service: Service) -> None:
        # Given messages with secrets in them
        service.declare("default")
        named = fields_of("probe_effect", args=["s3cret"], kwargs={"token": "s3cret"})
        nameless = fields_of("probe_effect", args=["s3cret"], message_id=None)
        for body in (
            *map(garbage.encode, (named, nameless)),
            b"no message, token=" + b"x" * 10_000,
        ):
            service.rabbitmq.publish("default", body)

        worker = service.start_worker()
        worker.wait_for_output("Dead-lettered", count=3, timeout_seconds=PATIENCE_SECONDS)

        lines = [line for line in log_lines(worker) if line["event"].startswith("Dead-lettered")]
        assert [line["message_id"] for line in lines] == [named["message_id"], None, None]
        assert all(line["reason"] and line["queue"] == "default" for line in lines)
        assert all(len(json.dumps(line)) < 500 for line in lines)
        assert "s3cret" not in worker.output
        assert "Traceback" not in worker.output


def test_a_refused_run_is_done_when_its_message_fits_again(service: Service) -> None:
    # Given a run that a worker refused, since its job was unknown or took other arguments then
    fields = fields_of("probe_effect")
    with service.database.transaction() as session:
        session.add(
            JobRun(
                run_key=str(fields["message_id"]),
                job="probe_effect",
                message_id=str(fields["message_id"]),
                queue="default",
                status="dead",
                finished_at=utc_now(),
            )
        )

    # When its message comes again, then it runs: it has not used up any attempt
    service.declare("default")
    service.rabbitmq.publish("default", garbage.encode(fields))
    service.start_worker()
    assert service.wait_for_run(str(fields["message_id"]), "succeeded").attempt == 1
