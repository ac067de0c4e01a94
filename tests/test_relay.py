"""The relay publishes all that was committed, in order, once more rather than not at all."""

import re
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta

import pytest
from sqlalchemy import text

from tests.probes import Service
from tests.relays import (
    EVENT_TYPE,
    PATIENCE_SECONDS,
    Outbox,
    Subscriber,
    numbers_of,
)
from tests.rig.postgres import Postgres
from tests.rig.rabbitmq import RabbitMQ
from tests.rig.waiting import eventually
from workers import relay as relay_module
from workers.database import Database
from workers.outbox import record_events
from workers.periodic import utc_now
from workers.publishers.rabbitmq import CONNECTION_NAME

pytest_plugins = ["tests.probe_fixtures"]

IS_RELAY = "This process relays the outbox"


@pytest.fixture
def subscribe(clean_rabbitmq: RabbitMQ) -> Iterator[Callable[..., Subscriber]]:
    """Bind a queue of one's own to events: all, unless told otherwise."""
    subscribers: list[Subscriber] = []

    def subscribe(*binding_keys: str, **arguments: object) -> Subscriber:
        subscriber = Subscriber(clean_rabbitmq, f"tests.events.{len(subscribers)}")
        subscriber.delete()
        subscriber.bind(*(binding_keys or ("#",)), **arguments)
        subscribers.append(subscriber)
        return subscriber

    yield subscribe
    clean_rabbitmq.start()
    for subscriber in subscribers:
        subscriber.delete()


@pytest.fixture
def subscriber(subscribe: Callable[..., Subscriber]) -> Subscriber:
    """Somebody who gets all events."""
    return subscribe()


@pytest.fixture
def outbox(database: Database, clean_rabbitmq: RabbitMQ) -> Iterator[Outbox]:
    outbox = Outbox(database, clean_rabbitmq.url)
    yield outbox
    outbox.close()


class TestAnEvent:
    def test_arrives_whole_where_somebody_bound_a_queue_for_it(
        self, outbox: Outbox, subscribe: Callable[..., Subscriber]
    ) -> None:
        subscriber, other = subscribe("tickets.*"), subscribe("chats.#")
        outbox.start_relay()

        with outbox.database.transaction() as session:
            record_events(session, "tickets.closed", [("42", {"ticket_id": 42, "by": "Zoë 🎫"})])

        (event,) = subscriber.wait_for(1)
        assert event.routing_key == "tickets.closed"
        assert event.payload == {"ticket_id": 42, "by": "Zoë 🎫"}
        assert event.properties.delivery_mode == 2
        assert event.properties.content_type == "application/json"
        assert event.properties.headers is not None
        assert event.properties.headers["key"] == "42"
        created_at = datetime.fromisoformat(event.properties.headers["created_at"])
        assert abs(utc_now() - created_at) < timedelta(hours=1)
        outbox.wait_until_published()
        assert outbox.published() == {event.id}
        assert other.count() == 0

    def test_that_nobody_bound_a_queue_for_counts_as_published(self, outbox: Outbox) -> None:
        outbox.record("key", range(3), event_type="tests.of-no-interest")

        outbox.start_relay()

        outbox.wait_until_published()

    def test_of_a_transaction_that_is_rolled_back_never_leaves(
        self, outbox: Outbox, subscriber: Subscriber
    ) -> None:
        outbox.start_relay()

        with pytest.raises(ZeroDivisionError), outbox.database.transaction() as session:
            record_events(session, EVENT_TYPE, [("key", {"number": 1})])
            raise ZeroDivisionError
        # What is committed after it is all that comes
        outbox.record("key", [2])

        assert numbers_of(subscriber.wait_for(1)) == {"key": [2]}
        outbox.wait_until_published()
        assert subscriber.count() == 0

    def test_leaves_without_delay_when_its_transaction_commits(
        self, outbox: Outbox, subscriber: Subscriber, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Given a relay that never looks of itself
        monkeypatch.setattr(relay_module, "POLL_SECONDS", 3600)
        outbox.start_relay()
        outbox.record("key", [1])
        subscriber.wait_for(1)

        # Then it is told of each commit
        for number in (2, 3, 4):
            outbox.record("key", [number])
            assert numbers_of(subscriber.wait_for(1)) == {"key": [number]}

    def test_leaves_though_nothing_was_notified(
        self, outbox: Outbox, subscriber: Subscriber, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(relay_module, "POLL_SECONDS", 0.1)
        with outbox.database.transaction() as session:
            session.execute(text("DROP TRIGGER outbox_events_notify ON outbox_events"))
        outbox.start_relay()
        outbox.record("key", [1])
        subscriber.wait_for(1)

        outbox.record("key", [2])

        assert numbers_of(subscriber.wait_for(1)) == {"key": [2]}

    def test_is_not_skipped_when_its_transaction_commits_long_after_later_ones(
        self, outbox: Outbox, subscriber: Subscriber
    ) -> None:
        outbox.start_relay()
        with outbox.database.transaction() as slow:
            record_events(slow, EVENT_TYPE, [("slow", {"number": 1})])
            outbox.record("fast", [1])
            assert numbers_of(subscriber.wait_for(1)) == {"fast": [1]}
            outbox.wait_until_published()

        assert numbers_of(subscriber.wait_for(1)) == {"slow": [1]}
        outbox.wait_until_published()


class TestAWarning:
    def test_arrives_where_it_is_subscribed_to(
        self, service: Service, subscribe: Callable[..., Subscriber]
    ) -> None:
        # Given somebody who wants to know of warnings, and a chat that fell silent
        subscriber = subscribe("customer_service.timeout_warning")
        service.do("INSERT INTO users (id, name) VALUES (1, 'Ada B.')")
        service.do("INSERT INTO customer_service_agents (id, name) VALUES (2, 'Agent Ana')")
        service.do("""
            INSERT INTO customer_service_chats (id, user_id, agent_id, last_message_at)
            VALUES (3, 1, 2, now() - interval '70 seconds')""")

        # When the job has found it
        service.start_worker("customer_service")
        service.send("send_timeout_warnings", queue="customer_service")

        # Then both sides can be warned
        (event,) = subscriber.wait_for(1)
        assert event.routing_key == "customer_service.timeout_warning"
        assert event.key == "3"
        seconds_left = event.payload.pop("seconds_left")
        assert 0 < seconds_left <= 50
        assert event.payload == {"chat_id": 3, "user_id": 1, "agent_id": 2}


class TestTheOrderOfAKey:
    # Few keys, so that a relay is busy publishing, rather than reading or marking, when it is hit.
    KEYS = 4
    EACH = 2500

    def all_of_them(self) -> dict[str, list[int]]:
        return {f"key {key}": list(range(self.EACH)) for key in range(self.KEYS)}

    def test_holds_though_a_queue_refuses_one_of_its_events(
        self, outbox: Outbox, subscribe: Callable[..., Subscriber]
    ) -> None:
        # Given a queue that takes one event and refuses more, and one that takes all
        full = subscribe("full", **{"x-max-length": 1, "x-overflow": "reject-publish"})
        open_to_all = subscribe("full", "open")
        outbox.record("other", [0], event_type="full")
        outbox.start_relay()
        outbox.wait_until_published()
        open_to_all.take()

        # When an event is refused, and another of its key would not be
        with outbox.database.transaction() as session:
            record_events(session, "full", [("key", {"number": 1})])
            record_events(session, "open", [("key", {"number": 2}), ("another", {"number": 1})])

        # Then that of another key passes, and its own wait for it
        def has_another_arrived() -> bool:
            arrived = open_to_all.take()
            assert all(each.payload["number"] == 1 for each in arrived)
            return any(each.key == "another" for each in arrived)

        eventually(has_another_arrived, timeout_seconds=PATIENCE_SECONDS)
        # It arrives a moment before that is written down.
        eventually(lambda: outbox.unpublished() == 2, timeout_seconds=PATIENCE_SECONDS)

        # Until there is room again
        full.take()
        outbox.wait_until_published()
        assert numbers_of(open_to_all.take()) == {"key": [1, 2]}

    def test_holds_and_nothing_is_lost_however_often_the_relay_is_killed(
        self, service: Service, outbox: Outbox, subscriber: Subscriber
    ) -> None:
        count = outbox.fill(keys=self.KEYS, each=self.EACH)

        # Given relays that are killed in the middle of it
        for part in (1, 2, 3):
            worker = service.start_worker("low", threads=1)
            eventually(
                lambda part=part: subscriber.count() >= count * part // 5,  # type: ignore[misc]
                timeout_seconds=PATIENCE_SECONDS,
            )
            worker.kill()
            assert 0 < outbox.unpublished() < count

        # When one may finish
        service.start_worker("low", threads=1)
        outbox.wait_until_published()

        # Then all have come, some more than once, and in order
        received = subscriber.take()
        print(f"{len(received) - count} of {count} events came twice")  # noqa: T201
        assert numbers_of(received) == self.all_of_them()

    def test_holds_when_the_broker_is_killed_and_nothing_counts_that_it_did_not_confirm(
        self, outbox: Outbox, subscriber: Subscriber, clean_rabbitmq: RabbitMQ
    ) -> None:
        # Given a broker that is killed in the middle of a batch
        count = outbox.fill(keys=self.KEYS, each=self.EACH)
        relay = outbox.start_relay()
        eventually(lambda: len(outbox.published()) >= count // 4, timeout_seconds=PATIENCE_SECONDS)
        clean_rabbitmq.kill()
        relay.stop()

        # Then what is marked as published is on the queue
        published = outbox.published()
        assert count // 4 <= len(published) < count
        clean_rabbitmq.start()
        received = subscriber.take()
        assert published <= {each.id for each in received}

        # And the rest follows, in order
        outbox.start_relay()
        outbox.wait_until_published()
        received += subscriber.take()
        assert numbers_of(received) == self.all_of_them()


class TestTheRelay:
    def test_is_one_of_many_and_another_takes_over_when_it_is_killed(
        self, service: Service, outbox: Outbox, subscriber: Subscriber
    ) -> None:
        # Given three worker processes
        workers = [service.start_worker("low", threads=1) for _ in range(3)]
        for number in range(len(workers)):
            # When one relays, then it alone has a connection for it
            (relay,) = eventually(
                lambda: [worker for worker in workers if IS_RELAY in worker.output],
                timeout_seconds=PATIENCE_SECONDS,
            )
            outbox.record("key", [number])
            assert numbers_of(subscriber.wait_for(1)) == {"key": [number]}
            assert self.connections(service.rabbitmq) == 1

            # And when it is killed, another does
            workers.remove(relay)
            relay.kill()
        assert [IS_RELAY in worker.output for worker in workers] == []

    def connections(self, rabbitmq: RabbitMQ) -> int:
        # A killed process's connection may stand in the list for a moment.
        listed = rabbitmq.ctl("list_connections", "state", "client_properties")
        return len(re.findall(rf"running.*{CONNECTION_NAME}", listed))

    def test_goes_on_when_the_broker_is_back(
        self, outbox: Outbox, subscriber: Subscriber, clean_rabbitmq: RabbitMQ
    ) -> None:
        outbox.start_relay()
        outbox.record("key", [1])
        subscriber.wait_for(1)
        clean_rabbitmq.stop()

        outbox.record("key", [2])
        assert outbox.unpublished() == 1

        clean_rabbitmq.start()
        assert numbers_of(subscriber.wait_for(1)) == {"key": [2]}

    def test_goes_on_when_the_database_is_back(
        self, outbox: Outbox, subscriber: Subscriber, postgres: Postgres
    ) -> None:
        outbox.start_relay()
        outbox.record("key", [1])
        subscriber.wait_for(1)

        postgres.restart()

        outbox.record("key", [2])
        # The mark on the first may have been lost with the server.
        eventually(lambda: outbox.unpublished() == 0, timeout_seconds=PATIENCE_SECONDS)
        assert 2 in numbers_of(subscriber.take())["key"]

    def test_takes_any_node_of_a_cluster_that_answers(
        self, database: Database, clean_rabbitmq: RabbitMQ, subscriber: Subscriber
    ) -> None:
        outbox = Outbox(database, f"amqp://guest:guest@127.0.0.1:1;{clean_rabbitmq.url}")
        outbox.start_relay()

        outbox.record("key", [1])

        assert numbers_of(subscriber.wait_for(1)) == {"key": [1]}
        outbox.close()

    def test_gives_way_when_it_stops(self, outbox: Outbox, subscriber: Subscriber) -> None:
        relay = outbox.start_relay()
        outbox.record("key", [1])
        subscriber.wait_for(1)

        relay.stop()

        assert not relay.is_alive()
        with outbox.database.lease() as lease, lease.transaction():
            assert lease.try_lock("relay")

    def test_goes_on_while_its_workers_finish_and_ends_with_them(
        self, service: Service, outbox: Outbox, subscriber: Subscriber
    ) -> None:
        # Given a worker that is told to stop in the middle of a run
        worker = service.start_worker()
        worker.wait_for_output(IS_RELAY, timeout_seconds=PATIENCE_SECONDS)
        service.send("probe_gated", gate="gate")
        worker.wait_for_output("at the gate", timeout_seconds=PATIENCE_SECONDS)
        worker.terminate()
        worker.wait_for_output("Shutting down", timeout_seconds=PATIENCE_SECONDS)

        # Then what is committed meanwhile still leaves
        outbox.record("key", [1])
        subscriber.wait_for(1)
        assert worker.returncode is None

        service.open_gate("gate")
        assert worker.wait(timeout_seconds=PATIENCE_SECONDS) == 0
        assert "Traceback" not in worker.output

    def test_waits_out_an_alarm_of_the_broker(
        self,
        outbox: Outbox,
        subscriber: Subscriber,
        clean_rabbitmq: RabbitMQ,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        # Given a broker that takes nothing for want of memory, without refusing it either
        outbox.start_relay()
        try:
            clean_rabbitmq.ctl("set_vm_memory_high_watermark", "0.0000001")
            outbox.record("key", [1])
            eventually(
                lambda: "cannot be published" in caplog.text, timeout_seconds=PATIENCE_SECONDS
            )
            assert outbox.unpublished() == 1
        finally:
            # When it has some again
            clean_rabbitmq.ctl("set_vm_memory_high_watermark", "0.4")

        # Then it comes
        outbox.wait_until_published()
        assert numbers_of(subscriber.take()) == {"key": [1]}

    def test_clears_away_what_was_published_long_ago(
        self, outbox: Outbox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Given more than one batch of old rows
        monkeypatch.setattr(relay_module, "CLEAR_BATCH_SIZE", 2)
        outbox.record("old", range(5))
        outbox.record("new", range(3))
        with outbox.database.transaction() as session:
            session.execute(
                text("""
                    UPDATE outbox_events SET created_at = now() - interval '1 week',
                        published_at = now() - CASE key WHEN 'old' THEN interval '25 hours'
                                                        ELSE interval '23 hours' END""")
            )
            # And one as old that was never published
            session.execute(
                text("""INSERT INTO outbox_events (type, key, payload, created_at)
                        VALUES ('t', 'unpublished', '{}', now() - interval '1 week')""")
            )
        outbox.start_relay()

        def keys() -> list[str]:
            with outbox.database.transaction() as session:
                return list(session.scalars(text("SELECT key FROM outbox_events ORDER BY id")))

        expected = ["new"] * 3 + ["unpublished"]
        eventually(lambda: keys() == expected, timeout_seconds=PATIENCE_SECONDS)
        outbox.wait_until_published()
        assert keys() == expected

    def test_clears_away_runs_that_ended_well_long_ago_and_no_others(
        self, outbox: Outbox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Given runs of each status, kept for 14 days, older by a day and younger by one
        monkeypatch.setattr(relay_module, "CLEAR_BATCH_SIZE", 1)
        with outbox.database.transaction() as session:
            session.execute(
                text("""
                    INSERT INTO job_runs
                        (run_key, job, message_id, queue, status, attempt, finished_at)
                    SELECT status || ' ' || age, 'job', '', 'default', status, 1,
                           now() - make_interval(days => age)
                    FROM unnest(ARRAY['running', 'succeeded', 'retrying', 'dead', 'skipped'])
                         AS status, unnest(ARRAY[13, 15]) AS age""")
            )
        outbox.start_relay()

        def run_keys() -> list[str]:
            with outbox.database.transaction() as session:
                return list(session.scalars(text("SELECT run_key FROM job_runs ORDER BY id")))

        expected = {
            f"{status} {age}"
            for status in ("running", "succeeded", "retrying", "dead", "skipped")
            for age in (13, 15)
        } - {"succeeded 15", "skipped 15"}
        eventually(lambda: set(run_keys()) == expected, timeout_seconds=PATIENCE_SECONDS)
