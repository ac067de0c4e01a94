"""A message that is sent with a transaction shares its fate, whatever happens around it."""

import json
from collections.abc import Iterator
from typing import Any

import dramatiq
import pytest
from sqlalchemy import NullPool, create_engine, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from tests.probes import PATIENCE_SECONDS, Service, Workshop
from tests.relays import Outbox, take_all
from tests.rig.processes import Process
from tests.rig.rabbitmq import RabbitMQ
from tests.rig.statements import count_statements
from tests.rig.waiting import eventually
from workers import runs
from workers.database import Database
from workers.job import Run
from workers.models import JobRun
from workers.outbox import Message, enqueue, enqueue_many

pytest_plugins = ["tests.probe_fixtures"]


class Stub:
    """The actor of a job that other processes declare, as far as `enqueue` needs it."""

    def __init__(self, name: str, queue: str = "default") -> None:
        self.name = name
        self.queue = queue

    def message(self, *args: Any, **kwargs: Any) -> dramatiq.Message[Any]:
        return dramatiq.Message(self.queue, self.name, args, kwargs, {"broker_priority": 5})


EFFECT = Stub("probe_effect")
GATED = Stub("probe_gated")


@pytest.fixture
def session(database_url: str) -> Iterator[Session]:
    """A session as the web app has it: of its own engine, on the same database."""
    engine = create_engine(database_url, poolclass=NullPool)
    with Session(engine) as session:
        yield session


@pytest.fixture
def outbox(probe_database: Database, clean_rabbitmq: RabbitMQ) -> Iterator[Outbox]:
    outbox = Outbox(probe_database, clean_rabbitmq.url)
    yield outbox
    outbox.close()


def bodies(session: Session) -> list[dict[str, Any]]:
    stored = session.scalars(text("SELECT body FROM outbox_messages ORDER BY id"))
    return [json.loads(body) for body in stored]


class TestAMessage:
    def test_whose_transaction_commits_runs_once(self, service: Service, session: Session) -> None:
        worker = service.start_worker()
        worker.wait_for_output("relays the outbox", timeout_seconds=PATIENCE_SECONDS)
        service.open_gate("gate 7")

        message = enqueue(session, GATED, gate="gate 7")
        assert service.effects() == 0
        session.commit()

        run = service.wait_for_run(message.message_id)
        assert (run.status, run.attempt, run.slot) == ("succeeded", 1, None)
        assert service.effects(message.message_id) == 2

    def test_whose_transaction_is_rolled_back_never_runs(
        self, service: Service, session: Session
    ) -> None:
        # Given a worker that takes one message after the other
        service.start_worker(threads=1)

        enqueue(session, EFFECT)
        session.rollback()
        message = enqueue(session, EFFECT)
        session.commit()

        # Then what was committed later is all that has run
        service.wait_for_run(message.message_id)
        assert [run.message_id for run in service.runs("probe_effect")] == [message.message_id]
        assert service.effects() == 1

    def test_outlives_the_process_that_committed_it(
        self, service: Service, database_url: str
    ) -> None:
        # Given a process that is gone as soon as it has committed, and nobody who relays
        program = (
            "import os, signal, sys\n"
            "from sqlalchemy import create_engine\n"
            "from sqlalchemy.orm import Session\n"
            "from tests.test_outbox import EFFECT\n"
            "from workers.outbox import enqueue\n"
            "with Session(create_engine(sys.argv[1])) as session:\n"
            "    print(enqueue(session, EFFECT).message_id, flush=True)\n"
            "    session.commit()\n"
            "    os.kill(os.getpid(), signal.SIGKILL)\n"
        )
        process = service.processes.start("python", "-c", program, database_url, env=service.env)
        assert process.wait(timeout_seconds=PATIENCE_SECONDS) == -9
        message_id = process.output.strip()
        assert service.ask("SELECT count(*) FROM outbox_messages") == 1

        # Then whoever relays next publishes it
        service.start_worker()
        assert service.wait_for_run(message_id).status == "succeeded"

    def test_that_is_published_twice_runs_once(self, service: Service, session: Session) -> None:
        worker = service.start_worker()
        message = enqueue(session, EFFECT)
        session.commit()
        service.wait_for_run(message.message_id)
        eventually(
            lambda: service.ask("SELECT published_at FROM outbox_messages"),
            timeout_seconds=PATIENCE_SECONDS,
        )

        # Given a relay that was killed after it published, before it could say so
        service.do("UPDATE outbox_messages SET published_at = NULL")
        service.do("NOTIFY outbox")

        # Then the second message finds the work done
        worker.wait_for_output('"outcome": "duplicate"', timeout_seconds=PATIENCE_SECONDS)
        assert service.effects() == 1

    def test_that_is_committed_while_rabbitmq_is_away_runs_when_it_is_back(
        self, service: Service, session: Session
    ) -> None:
        service.start_worker()
        service.rabbitmq.stop()

        message = enqueue(session, EFFECT)
        session.commit()

        service.rabbitmq.start()
        assert service.wait_for_run(message.message_id).status == "succeeded"
        assert service.effects() == 1

    def test_finds_its_queue_though_nobody_has_declared_it(
        self, outbox: Outbox, session: Session, clean_rabbitmq: RabbitMQ
    ) -> None:
        message = enqueue(session, EFFECT)
        session.commit()

        outbox.start_relay()

        outbox.wait_until_published()
        (stored,) = clean_rabbitmq.peek("default")
        assert dramatiq.Message.decode(stored.body) == message
        assert stored.properties.priority == 5
        assert stored.properties.delivery_mode == 2

    def test_may_carry_whatever_json_can(self, session: Session) -> None:
        odd = "NUL \x00, half a pair \ud83c, Zoë 🎫"

        enqueue(session, EFFECT, odd, nested={"list": [1, None, True]})

        (body,) = bodies(session)
        assert body["args"] == [odd]
        assert body["kwargs"] == {"nested": {"list": [1, None, True]}}

    def test_that_cannot_be_sent_fails_where_it_is_written(self, session: Session) -> None:
        with pytest.raises(TypeError, match="JSON"):
            enqueue(session, EFFECT, object())
        with pytest.raises(IntegrityError, match="outbox_messages_body_check"):
            enqueue(session, EFFECT, "x" * 256 * 1024)


class TestManyMessages:
    def test_take_one_statement(self, session: Session) -> None:
        messages = [EFFECT.message(number) for number in range(5000)]

        with count_statements(session.get_bind()) as statements:  # type: ignore[arg-type]
            enqueue_many(session, messages)

        assert len(statements) == 1
        assert [body["args"] for body in bodies(session)] == [[number] for number in range(5000)]

    def test_may_be_none(self, session: Session) -> None:
        none: list[Message] = []
        with count_statements(session.get_bind()) as statements:  # type: ignore[arg-type]
            enqueue_many(session, none)
        assert statements == []

    def test_all_arrive(self, outbox: Outbox, session: Session, clean_rabbitmq: RabbitMQ) -> None:
        messages = [EFFECT.message(number) for number in range(5000)]
        enqueue_many(session, messages)
        session.commit()

        outbox.start_relay()

        outbox.wait_until_published()
        received = [json.loads(body) for _, _, body in take_all(clean_rabbitmq, "default")]
        assert sorted(body["args"][0] for body in received) == list(range(5000))
        assert {body["message_id"] for body in received} == {
            message.message_id for message in messages
        }


class TestAJob:
    def test_that_fails_sends_nothing(self, workshop: Workshop) -> None:
        next_job = workshop.job(lambda _run: None, actor_name="follow_up")
        attempts = iter([1, 2])

        def fail_once(run: Run) -> None:
            enqueue(run.session, next_job)
            if next(attempts) == 1:
                raise LookupError

        first = workshop.run_to_the_end(workshop.job(fail_once))

        # The message of the second attempt is all there is
        assert (first.status, first.attempt) == ("succeeded", 2)
        message_id = workshop.ask("SELECT string_agg(message_id, ' ') FROM outbox_messages")
        assert workshop.wait_for_run(message_id).job == "follow_up"


class TestWithoutRabbitMQ:
    """``python -m workers run``, with the probe jobs."""

    PROGRAM = (
        "import runpy, sys, workers, tests.probe_jobs\n"
        "sys.argv = ['workers', 'run']\n"
        "runpy.run_module('workers', run_name='__main__')\n"
    )

    def start(self, service: Service, **env: str) -> Process:
        env = {"DATABASE_URL": service.env["DATABASE_URL"], "LOG_LEVEL": "DEBUG", **env}
        return service.processes.start("python", "-c", self.PROGRAM, env=env)

    def test_a_message_outlives_the_process_that_had_it_in_memory(
        self, service: Service, session: Session
    ) -> None:
        # Given a process that is killed in the middle of the run
        process = self.start(service)
        message = enqueue(session, GATED, gate="gate")
        session.commit()
        process.wait_for_output("at the gate", timeout_seconds=PATIENCE_SECONDS)
        process.kill()
        assert service.ask("SELECT published_at FROM outbox_messages") is None

        # Then the next one runs it again, with its arguments, and that settles it
        service.open_gate("gate")
        self.start(service)
        run = service.wait_for_run(message.message_id)
        assert (run.status, run.attempt) == ("succeeded", 2)
        assert service.effects(message.message_id) == 2
        eventually(
            lambda: service.ask("SELECT published_at FROM outbox_messages"),
            timeout_seconds=PATIENCE_SECONDS,
        )

    def test_a_message_comes_back_from_the_outbox_alone(
        self, database: Database, session: Session
    ) -> None:
        # Given two runs that a process took with it, of which one has its message in the outbox
        message = enqueue(session, EFFECT, "an argument")
        session.commit()
        with database.transaction() as writing:
            for message_id in (message.message_id, "of the schedule"):
                writing.add(
                    JobRun(
                        run_key=message_id,
                        message_id=message_id,
                        job="probe_effect",
                        queue="default",
                        status="running",
                        broker="in-process",
                    )
                )

        # Then only the other is resumed from the ledger, which knows no arguments
        with database.transaction() as reading:
            (resumed,) = runs.unfinished_in_process(reading)
        assert resumed.message_id == "of the schedule"

    def test_an_event_counts_as_published_once_it_is_logged(
        self, service: Service, outbox: Outbox
    ) -> None:
        outbox.record("key", [1], event_type="tests.happened")

        process = self.start(service)

        outbox.wait_until_published()
        assert "Event tests.happened, key key" in process.output

    def test_an_event_waits_for_a_rabbitmq_that_is_only_away(
        self, service: Service, outbox: Outbox, session: Session
    ) -> None:
        outbox.record("key", [1])
        message = enqueue(session, EFFECT)
        session.commit()

        # Given a process that fell back to its own queues
        self.start(service, RABBITMQ_URL="amqp://guest:guest@127.0.0.1:1")
        assert service.wait_for_run(message.message_id).status == "succeeded"
        assert not outbox.published()

        # Then a relay with a connection has its turn though that process lives on
        outbox.start_relay()
        outbox.wait_until_published()
