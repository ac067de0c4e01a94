"""A snapshot says how the service is doing, what is wrong and what to do, whatever is away."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dramatiq
import pytest
from sqlalchemy import URL, TextClause, make_url, text

from tests.probes import Workshop
from tests.rig.frozen import FrozenServer
from tests.rig.ports import free_ports
from tests.rig.rabbitmq import RabbitMQ
from tests.rig.waiting import eventually
from workers import runs
from workers.batches import Counts
from workers.broker import build_broker
from workers.database import Database
from workers.job import QUEUES, Job, Run
from workers.periodic import every
from workers.rabbitmq import Rabbitmq
from workers.settings import Settings
from workers.status import PATIENCE_SECONDS, JobStatus, QueueStatus, Status, collect
from workers.status.ledger import DEAD, LAST_RUNS, UNFINISHED

pytest_plugins = ["tests.probe_fixtures"]

DUE_EVERY = timedelta(seconds=60)


class Watched:
    """The service around one job of the test's own, and what can happen to it."""

    def __init__(self, workshop: Workshop) -> None:
        self.workshop = workshop
        self.database = workshop.database
        self.job = workshop.job(idle, periodic=every(seconds=60), queue_name="low")

    def look(self) -> Status:
        return collect(Settings(), self.database, self.workshop.broker)

    def do(self, statement: str, **parameters: Any) -> None:
        self.workshop.do(statement, **parameters)

    def succeed(self) -> None:
        """Let the current slot be done."""
        slot = every(seconds=60).slot_at(datetime.now(UTC))
        self.workshop.send(self.job, slot=slot)
        self.workshop.wait_for_run(runs.run_key("idle", slot, ""))

    def add_process(
        self, kind: str, *, silent_seconds: float = 0, state: str | None = None
    ) -> None:
        self.do(
            """
            INSERT INTO service_processes (name, kind, queues, state, seen_at)
            VALUES (:name, :kind, :queues, :state, now() - make_interval(secs => :silent_seconds))
            """,
            name=f"host:{kind}{silent_seconds}",
            kind=kind,
            queues=[*QUEUES, "low.DQ"],
            state=state,
            silent_seconds=silent_seconds,
        )

    def add_run(self, status: str, *, age_seconds: float = 0, attempt: int = 1) -> None:
        self.do(
            """
            INSERT INTO job_runs (run_key, job, message_id, queue, status, attempt, broker,
                                  enqueued_at, started_at, finished_at, error)
            SELECT gen_random_uuid(), 'idle', 'm', 'low', :status, :attempt, 'in-process',
                   moment, moment, CASE WHEN :status <> 'running' THEN moment END, 'Oh: no\nline 2'
            FROM (SELECT now() - make_interval(secs => :age_seconds) AS moment) AS past
            """,
            status=status,
            attempt=attempt,
            age_seconds=age_seconds,
        )


def idle(_run: Run) -> Counts:
    return {"done": 1}


@pytest.fixture
def watched(workshop: Workshop) -> Watched:
    return Watched(workshop)


@pytest.fixture
def healthy(watched: Watched) -> Watched:
    """All is well: the job is on time, somebody sends it, somebody serves it."""
    watched.add_process("scheduler")
    watched.add_process("worker")
    watched.succeed()
    return watched


def problems(status: Status) -> list[tuple[str, str]]:
    return [(problem.code, problem.subject) for problem in status.problems]


def only_job(status: Status) -> JobStatus:
    (job,) = status.jobs
    return job


class TestAHealthyService:
    def test_has_no_problems_and_is_ready(self, healthy: Watched) -> None:
        status = healthy.look()

        assert status.problems == ()
        assert status.is_ready
        assert status.database.is_reachable
        assert status.schema.is_current
        assert (status.broker.kind, status.broker.is_reachable) == ("in-process", True)

    def test_shows_each_job_by_the_clock_and_by_its_runs(self, healthy: Watched) -> None:
        before = datetime.now(UTC)
        job = only_job(healthy.look())

        assert (job.name, job.queue, job.schedule) == ("idle", "low", "every 1 min")
        assert job.interval_seconds == 60
        assert job.current_slot is not None
        assert job.next_due == job.current_slot + DUE_EVERY
        assert job.next_due > before - DUE_EVERY
        assert (job.running, job.retrying, job.dead, job.stuck) == (0, 0, 0, 0)
        assert (job.is_overdue, job.missed_slots) == (False, 0)
        assert job.outcomes == {"started": 1, "succeeded": 1}
        assert job.last_run is not None
        assert (job.last_run.status, job.last_run.result) == ("succeeded", {"done": 1})
        assert job.last_success is not None
        assert job.last_success.at == job.last_run.finished_at
        assert job.last_success.slot == job.last_run.slot

    def test_shows_its_processes(self, healthy: Watched) -> None:
        processes = healthy.look().processes
        assert processes is not None
        seen = {(each.kind, each.queues, each.is_silent) for each in processes}
        assert {("scheduler", QUEUES, False), ("worker", QUEUES, False)} <= seen
        assert all(0 <= each.seen_seconds_ago < 60 for each in processes)

    def test_can_be_told_in_json(self, healthy: Watched) -> None:
        healthy.add_run("dead")
        report = json.loads(json.dumps(healthy.look().report()))

        (problem, _) = report["problems"]
        assert problem["severity"] == "warning"
        assert problem["runbook"] == "docs/runbook.md#a-run-failed-for-good"
        assert report["jobs"][0]["next_due"].endswith("Z")
        assert report["jobs"][0]["is_overdue"] is False
        assert report["is_ready"] is True

    def test_is_looked_at_without_its_pool(self, healthy: Watched, database_url: str) -> None:
        """So that it can be looked at when all connections of the process are taken."""
        database = Database(database_url)
        with ExitStack() as stack:
            for _ in range(25):
                stack.enter_context(database.engine.connect())
            status = collect(Settings(), database, healthy.workshop.broker)
            assert status.database.is_reachable
        database.close()


class TestProblems:
    @pytest.mark.parametrize(
        ("fault", "expected"),
        [
            pytest.param(
                lambda service: service.add_run("dead"),
                [("job_dead", "idle"), ("dead_letters", "low")],
                id="a run failed for good",
            ),
            pytest.param(
                lambda service: service.add_run("retrying", attempt=2),
                [("job_failing", "idle")],
                id="a run failed twice",
            ),
            pytest.param(
                lambda service: service.add_run("running", age_seconds=1861),
                [("run_stuck", "idle")],
                id="a run takes longer than any may",
            ),
            pytest.param(
                lambda service: service.add_run("retrying", age_seconds=1861),
                [("run_stuck", "idle")],
                id="a retry never came",
            ),
            pytest.param(
                lambda service: service.do(
                    "UPDATE job_totals SET last_at = now() - interval '5 minutes'"
                ),
                [("job_overdue", "idle")],
                id="a job is overdue",
            ),
            pytest.param(
                lambda service: service.do(
                    "UPDATE service_processes SET seen_at = now() - interval '61 seconds' "
                    "WHERE kind = 'scheduler'"
                ),
                [("no_scheduler", "")],
                id="the scheduler is silent",
            ),
            pytest.param(
                lambda service: service.do("DELETE FROM service_processes WHERE kind = 'worker'"),
                [("no_worker", queue) for queue in QUEUES],
                id="no worker",
            ),
            pytest.param(
                lambda service: service.add_process("standby", state="active"),
                [("standby_active", "")],
                id="a standby is active",
            ),
            pytest.param(
                lambda service: service.do(
                    "INSERT INTO outbox_events (type, key, payload, created_at) "
                    "VALUES ('t', 'k', '{}', now() - interval '61 seconds')"
                ),
                [("outbox_old", "")],
                id="the outbox is old",
            ),
            pytest.param(
                lambda service: service.do("UPDATE alembic_version SET version_num = '0001'"),
                [("schema_behind", "")],
                id="the schema is behind",
            ),
        ],
    )
    def test_are_told_of(
        self,
        healthy: Watched,
        fault: Callable[[Watched], None],
        expected: list[tuple[str, str]],
    ) -> None:
        # Real heartbeats of this process would hide what is simulated.
        eventually(lambda: healthy.workshop.ask("SELECT count(*) FROM service_processes") >= 3)
        healthy.workshop.close()
        fault(healthy)

        status = healthy.look()

        assert problems(status) == expected
        for problem in status.problems:
            assert problem.summary
            assert problem.advice
            assert "{" not in problem.advice

    @pytest.mark.parametrize(
        "change",
        [
            pytest.param(lambda service: service.add_run("running", age_seconds=600), id="running"),
            pytest.param(lambda service: service.add_run("retrying"), id="failed once"),
            pytest.param(
                lambda service: service.add_process("standby", state="watching"), id="watching"
            ),
            pytest.param(
                lambda service: service.add_process("worker", silent_seconds=99),
                id="a second worker is silent",
            ),
            pytest.param(
                lambda service: service.do(
                    "INSERT INTO outbox_events (type, key, payload) VALUES ('t', 'k', '{}')"
                ),
                id="an event was just recorded",
            ),
        ],
    )
    def test_are_not_what_is_usual(
        self, healthy: Watched, change: Callable[[Watched], None]
    ) -> None:
        change(healthy)
        assert healthy.look().problems == ()

    def test_of_dead_runs_fade_when_they_are_old_and_the_job_succeeds(
        self, healthy: Watched
    ) -> None:
        healthy.add_run("dead", age_seconds=3700)
        # The letter remains, and is what there is to be settled
        assert problems(healthy.look()) == [("dead_letters", "low")]

    def test_a_scheduler_that_died_is_told_of_with_its_age(self, watched: Watched) -> None:
        watched.add_process("scheduler", silent_seconds=125)
        summaries = [problem.summary for problem in watched.look().problems]
        assert "No scheduler is alive; the last was seen 2 min ago" in summaries

    def test_that_keep_all_jobs_from_running_make_it_unready(self, watched: Watched) -> None:
        watched.add_process("worker")
        assert not watched.look().is_ready


class TestALedgerWithMuchInIt:
    def test_the_last_run_is_found_behind_skipped_ones(self, healthy: Watched) -> None:
        for _ in range(3):
            healthy.add_run("skipped")
        last_run = only_job(healthy.look()).last_run
        assert last_run is not None
        assert last_run.status == "succeeded"

    def test_errors_are_shown_by_their_first_line(self, healthy: Watched) -> None:
        healthy.add_run("dead")
        last_run = only_job(healthy.look()).last_run
        assert last_run is not None
        assert last_run.error == "Oh: no"

    @pytest.mark.parametrize("statement", [LAST_RUNS, UNFINISHED, DEAD])
    def test_is_read_by_its_indexes(self, healthy: Watched, statement: TextClause) -> None:
        """However long the history, a snapshot reads little of it."""
        healthy.do("""
            INSERT INTO job_runs (run_key, job, message_id, queue, status, started_at, finished_at)
            SELECT 'old' || n, 'other', 'm', 'low', 'succeeded', now(), now()
            FROM generate_series(1, 5000) AS n
        """)
        healthy.do("ANALYZE job_runs")
        with healthy.database.transaction() as session:
            plan = session.execute(
                text(f"EXPLAIN {statement.text}"),
                {"jobs": ["idle"], "limit": 100, "stuck_after_seconds": 60},
            )
            lines = "\n".join(plan.scalars())
        assert "Seq Scan on job_runs" not in lines, lines
        assert "job_runs_" in lines


class TestADatabase:
    def look(self, url: str) -> Status:
        broker = build_broker(Settings(), Database(url), (), in_process=True)
        return collect(Settings(), Database(url), broker)

    def check_away(self, status: Status, reason: str) -> None:
        assert not status.database.is_reachable
        assert reason in status.database.reason
        assert "\n" not in status.database.reason
        assert status.schema.is_current is None
        assert (status.processes, status.outbox) == (None, None)
        assert problems(status) == [("database_away", "")]
        assert not status.is_ready

    def test_that_refuses_is_away(self) -> None:
        (port,) = free_ports(1)
        status = self.look(f"postgresql+psycopg2://me:secret@127.0.0.1:{port}/x")
        self.check_away(status, "Connection refused")
        assert "secret" not in json.dumps(status.report())

    def test_that_is_locked_is_away(self, healthy: Watched) -> None:
        with healthy.database.transaction() as session:
            session.execute(text("LOCK TABLE job_totals IN ACCESS EXCLUSIVE MODE"))
            status = healthy.look()
        assert not status.database.is_reachable
        assert "timeout" in status.database.reason

    def test_that_is_newer_than_the_code_is_read_all_the_same(self, healthy: Watched) -> None:
        healthy.do("UPDATE alembic_version SET version_num = '9999'")
        status = healthy.look()
        assert status.schema.is_current is False
        assert "deploy the newer code" in status.schema.reason
        assert only_job(status).last_success is not None


def _address(url: str) -> tuple[str, int] | str:
    parsed = make_url(url)
    host = parsed.host or parsed.query.get("host")
    assert isinstance(host, str)
    port = parsed.port or 5432
    return str(Path(host) / f".s.PGSQL.{port}") if host.startswith("/") else (host, port)


class TestRabbitmq:
    @pytest.fixture
    def broker_at(self, database: Database) -> Iterator[Callable[[str], dramatiq.Broker]]:
        brokers = []

        def build(url: str) -> dramatiq.Broker:
            broker = build_broker(Settings(rabbitmq_url=url), database, ())
            brokers.append(broker)
            dramatiq.actor(actor_class=Job, broker=broker, queue_name="low")(idle)
            return broker

        yield build
        for broker in brokers:
            broker.close()

    def look(self, url: str, database: Database, broker: dramatiq.Broker) -> Status:
        return collect(Settings(rabbitmq_url=url), database, broker)

    def test_tells_of_its_queues(
        self,
        clean_rabbitmq: RabbitMQ,
        database: Database,
        broker_at: Callable[[str], dramatiq.Broker],
    ) -> None:
        broker = broker_at(clean_rabbitmq.url)
        status = self.look(clean_rabbitmq.url, database, broker)
        assert status.broker.is_reachable
        # Those that nobody has declared yet are empty
        empty = {"ready": 0, "delayed": 0, "consumers": 0, "dead_letters": 0}
        assert status.queues == tuple(QueueStatus(name=queue, **empty) for queue in QUEUES)

        assert isinstance(broker, Rabbitmq)
        broker.declare_queue("low", ensure=True)
        for queue in ("low", "low", "low", "low.DQ", "low.XQ", "low.XQ"):
            clean_rabbitmq.publish(queue, b"{}")
        with clean_rabbitmq.channel() as channel:
            channel.basic_qos(prefetch_count=1)
            channel.basic_consume("low", lambda *_: None)
            eventually(lambda: clean_rabbitmq.queue_counts("low").ready == 2)
            status = self.look(clean_rabbitmq.url, database, broker)

        low = QueueStatus(name="low", ready=2, delayed=1, consumers=1, dead_letters=2)
        assert status.queues[2] == low
        assert [each for each in problems(status) if each[1] == "low"] == [("dead_letters", "low")]
        assert ("no_worker", "default") in problems(status)

    def test_that_refuses_is_away(
        self, database: Database, broker_at: Callable[[str], dramatiq.Broker]
    ) -> None:
        (port,) = free_ports(1)
        url = f"amqp://me:secret@127.0.0.1:{port}"
        status = self.look(url, database, broker_at(url))

        assert (status.broker.kind, status.broker.is_reachable) == ("rabbitmq", False)
        assert "Connection refused" in status.broker.reason
        assert status.queues == tuple(QueueStatus(name=queue) for queue in QUEUES)
        assert ("broker_away", "") in problems(status)
        # What follows from it is not told as well
        assert not [code for code, _ in problems(status) if code == "no_worker"]
        assert not status.is_ready
        assert "secret" not in json.dumps(status.report())


class TestDatabaseAndRabbitmqAtOnce:
    """Each of them is waited for while the other is."""

    def look(self, database_url: str, rabbitmq_url: str) -> Status:
        settings, database = Settings(rabbitmq_url=rabbitmq_url), Database(database_url)
        broker = build_broker(settings, database, ())
        began = time.monotonic()
        status = collect(settings, database, broker)
        assert time.monotonic() - began < 2 * PATIENCE_SECONDS
        assert [code for code, _ in problems(status)] == ["database_away", "broker_away"]
        return status

    def test_are_away_if_they_never_answer(self) -> None:
        with FrozenServer() as postgres, FrozenServer() as rabbitmq:
            status = self.look(
                f"postgresql+psycopg2://me@127.0.0.1:{postgres.port}/x",
                f"amqp://127.0.0.1:{rabbitmq.port}",
            )
        assert "timeout expired" in status.database.reason
        assert "Timeout" in status.broker.reason

    def test_are_away_if_they_fall_silent_and_nothing_is_left_behind(
        self, clean_rabbitmq: RabbitMQ, database_url: str
    ) -> None:
        node = make_url(clean_rabbitmq.url.split(";")[0])
        assert node.host
        with (
            FrozenServer(_address(database_url), lambda data: b"job_totals" in data) as postgres,
            FrozenServer(
                (node.host, node.port or 5672), lambda data: b"customer_service" in data
            ) as rabbitmq,
        ):
            status = self.look(_through(postgres, make_url(database_url)), _through(rabbitmq, node))
            silence = f"no answer within {PATIENCE_SECONDS} s"
            assert (status.database.reason, status.broker.reason) == (silence, silence)
            assert postgres.was_hung_up.wait(10)
            assert rabbitmq.was_hung_up.wait(30)


def _through(server: FrozenServer, url: URL) -> str:
    url = url.set(host="127.0.0.1", port=server.port, query={})
    return url.render_as_string(hide_password=False)
