"""While RabbitMQ is away, a standby runs the schedule; nothing is done twice, nothing is lost."""

import threading
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import dramatiq
import pytest

from tests.probes import PATIENCE_SECONDS, Service, log_lines
from tests.rig.postgres import query
from tests.rig.processes import Process, Processes
from tests.rig.proxy import Proxy, proxy_to_postgres, proxy_to_rabbitmq
from tests.rig.rabbitmq import RabbitMQ
from tests.rig.waiting import eventually
from workers import leftovers
from workers import standby as standby_module
from workers.broker import build_broker
from workers.database import Database
from workers.models import JobRun
from workers.outbox import enqueue_many
from workers.periodic import daily, utc_now
from workers.rabbitmq import Rabbitmq, why_unreachable
from workers.settings import Settings
from workers.standby import HAND_OVER_AFTER_SECONDS, Standby, State

pytest_plugins = ["tests.probe_fixtures"]

MODULE = "tests.standby_jobs"
OFTEN_SECONDS = 3
MIDNIGHT = daily("00:00")
TAKES_OVER = "takes over the schedule"
HANDS_OVER = "hands the schedule over"
STATES = "SELECT state FROM service_processes WHERE kind = 'standby'"


class Town:
    """Workers, schedulers and standbys, whose RabbitMQ is behind a wire that can be cut."""

    def __init__(self, service: Service, wire: Proxy, rabbitmq_url: str) -> None:
        self.service = service
        self.wire = wire
        self.env = {
            **service.env,
            "RABBITMQ_URL": rabbitmq_url,
            "STANDBY_AFTER_SECONDS": "1",
            "LOG_FORMAT": "json",
        }

    def start_standby(self, **env: str) -> Process:
        standby = self.service.processes.start(
            "python", "-m", "workers", "standby", MODULE, env={**self.env, **env}
        )
        standby.wait_for_output("Watching RabbitMQ", timeout_seconds=PATIENCE_SECONDS)
        return standby

    def start_worker(self) -> Process:
        worker = self.service.processes.start(
            *("dramatiq", "workers", MODULE, "--processes", "1", "--threads", "4"),
            *("--queues", "default", "low"),
            env=self.env,
        )
        worker.wait_for_output("ready for action", timeout_seconds=PATIENCE_SECONDS)
        return worker

    def start_scheduler(self) -> Process:
        scheduler = self.service.processes.start("periodiq", "workers", MODULE, env=self.env)
        scheduler.wait_for_output("often", timeout_seconds=PATIENCE_SECONDS)
        return scheduler

    def often(self, broker: str) -> list[JobRun]:
        """Return what was run of the job of every few seconds, on one kind of broker."""
        return [
            run
            for run in self.service.runs("often")
            if run.broker == broker and run.status == "succeeded"
        ]

    def wait_for_often(self, broker: str, count: int = 1) -> None:
        before = len(self.often(broker))
        eventually(
            lambda: len(self.often(broker)) >= before + count,
            timeout_seconds=PATIENCE_SECONDS,
            message=f"The schedule does not go on ({broker})",
        )


@pytest.fixture
def town(service: Service) -> Iterator[Town]:
    wire, url = proxy_to_rabbitmq(service.rabbitmq.url)
    yield Town(service, wire, url)
    service.processes.kill_all()
    wire.close()


def key_of(job: str) -> str:
    """Name the run of today's slot."""
    return f"{job}@{MIDNIGHT.slot_at(utc_now()):%Y-%m-%dT%H:%M:%SZ}"


def did(process: Process, job: str, outcome: str) -> bool:
    return any(
        (line.get("job"), line.get("outcome")) == (job, outcome) for line in log_lines(process)
    )


@pytest.mark.timeout(240)
def test_the_schedule_goes_on_while_rabbitmq_is_away_and_no_slot_is_done_twice(town: Town) -> None:
    # Given the whole service, with two standbys, and a run that takes long
    worker = town.start_worker()
    town.start_scheduler()
    standbys = [town.start_standby() for _ in range(2)]
    worker.wait_for_output("at the gate", timeout_seconds=PATIENCE_SECONDS)
    town.wait_for_often("rabbitmq")

    # When RabbitMQ goes away, then the schedule goes on in a standby
    town.wire.cut()
    for standby in standbys:
        standby.wait_for_output(TAKES_OVER, timeout_seconds=PATIENCE_SECONDS)
    town.wait_for_often("in-process", 2)
    eventually(
        lambda: {row.state for row in query(town.env["DATABASE_URL"], STATES)} == {"active"},
        timeout_seconds=PATIENCE_SECONDS,
        message="Operators do not see it",
    )

    # And the long run is left to the worker that has it in hand
    eventually(
        lambda: all(did(standby, "gated", "postponed") for standby in standbys),
        timeout_seconds=PATIENCE_SECONDS,
    )
    town.service.open_gate("gated")
    run = town.service.wait_for_run(key_of("gated"), "succeeded")
    assert (run.attempt, run.broker) == (1, "rabbitmq")

    # When RabbitMQ is back, then the schedule goes back
    town.wire.restore()
    for standby in standbys:
        standby.wait_for_output(HANDS_OVER, timeout_seconds=PATIENCE_SECONDS)
    town.wait_for_often("rabbitmq")

    # And from the first slot of the standby on, none was left out
    slots = sorted(run.slot for run in town.service.runs("often") if run.slot)
    first = min(run.slot for run in town.often("in-process") if run.slot)
    assert [slot for slot in slots if slot >= first] == every_slot(first, slots[-1])

    # Nor was one done twice
    repeated = "SELECT count(*) - count(DISTINCT message_id) FROM probe_effects"
    assert town.service.ask(repeated) == 0
    assert town.service.ask("SELECT max(attempt) FROM job_runs WHERE job IN ('often','gated')") == 1
    for standby in standbys:
        assert log_lines(standby)[-1]["event"] != "run"
        standby.terminate()
        assert standby.wait(timeout_seconds=PATIENCE_SECONDS) == 0


def every_slot(first: datetime, last: datetime) -> list[datetime]:
    count = (last - first) // timedelta(seconds=OFTEN_SECONDS) + 1
    return [first + number * timedelta(seconds=OFTEN_SECONDS) for number in range(count)]


@pytest.mark.timeout(240)
def test_what_began_in_a_standby_is_finished_there_or_given_back(town: Town) -> None:
    # Given a RabbitMQ that takes connections and never answers
    town.wire.pause()
    standby = town.start_standby()
    standby.wait_for_output("at the gate", timeout_seconds=PATIENCE_SECONDS)

    # And a run there that has failed and is to be tried again, and one on demand
    town.service.wait_for_run(key_of("unlucky"), "retrying")
    on_demand: dramatiq.Message[Any] = dramatiq.Message(
        queue_name="default", actor_name="on_demand", args=("key",), kwargs={}, options={}
    )
    with town.service.database.transaction() as session:
        enqueue_many(session, [on_demand])
    assert town.service.wait_for_run(on_demand.message_id).broker == "in-process"

    # When RabbitMQ is back, the standby hands over though one of its runs goes on
    town.service.open_gate("luck")
    town.wire.restore()
    standby.wait_for_output(HANDS_OVER, timeout_seconds=PATIENCE_SECONDS)

    # Then its failed run is retried by a worker, in its time
    worker = town.start_worker()
    retried = town.service.wait_for_run(key_of("unlucky"), "succeeded")
    assert (retried.broker, retried.attempt) == ("rabbitmq", 2)
    failed_at = next(
        datetime.fromisoformat(line["timestamp"])
        for line in log_lines(standby)
        if (line.get("job"), line.get("outcome")) == ("unlucky", "retrying")
    )
    assert retried.started_at
    assert retried.started_at >= failed_at + timedelta(seconds=10)

    # And the one that goes on is left to it
    town.start_scheduler()
    eventually(lambda: did(worker, "gated", "postponed"), timeout_seconds=PATIENCE_SECONDS)
    town.service.open_gate("gated")
    finished = town.service.wait_for_run(key_of("gated"), "succeeded")
    assert (finished.broker, finished.attempt) == ("in-process", 1)
    assert town.service.ask("SELECT count(*) FROM probe_effects WHERE job = 'gated'") == 1


@pytest.mark.timeout(240)
def test_a_standby_gives_back_what_a_killed_one_left(town: Town) -> None:
    # Given a standby that is killed with a run in hand
    town.wire.cut()
    killed = town.start_standby()
    killed.wait_for_output("at the gate", timeout_seconds=PATIENCE_SECONDS)
    killed.kill()
    town.wire.restore()
    town.service.open_gate("gated")

    # When another one comes, and RabbitMQ is there, then it is done by a worker
    town.start_worker()
    standby = town.start_standby()

    run = town.service.wait_for_run(key_of("gated"), "succeeded")
    assert (run.broker, run.attempt) == ("rabbitmq", 2)
    standby.wait_for_output("Gave runs back", timeout_seconds=PATIENCE_SECONDS)
    assert TAKES_OVER not in standby.output


@pytest.mark.timeout(240)
def test_a_standby_survives_a_database_that_is_away(town: Town) -> None:
    # Given a run that some process left, and neither RabbitMQ nor a database
    town.service.open_gate("gated")
    with town.service.database.transaction() as session:
        session.add(
            JobRun(
                run_key="left",
                message_id="left",
                job="gated",
                queue="low",
                status="running",
                broker="in-process",
            )
        )
    town.wire.cut()
    wire, url = proxy_to_postgres(town.service.env["DATABASE_URL"])
    wire.cut()
    standby = town.start_standby(DATABASE_URL=url)
    assert "The database cannot be reached yet" in standby.output
    standby.wait_for_output(TAKES_OVER, timeout_seconds=PATIENCE_SECONDS)
    eventually(lambda: did(standby, "often", "postponed"), timeout_seconds=PATIENCE_SECONDS)

    # When the database is back, then the schedule goes on, and with it what was left
    wire.restore()
    town.wait_for_often("in-process")
    assert town.service.wait_for_run("left").status == "succeeded"

    # And so it does after another time without
    wire.cut()
    outages = standby.output.count("postponed")
    standby.wait_for_output("postponed", count=outages + 1, timeout_seconds=PATIENCE_SECONDS)
    wire.restore()
    town.wait_for_often("in-process")
    standby.terminate()
    assert standby.wait(timeout_seconds=PATIENCE_SECONDS) == 0
    wire.close()


@pytest.mark.parametrize(
    ("arguments", "env", "complaint"),
    [
        ((), {}, "RABBITMQ_URL: is not set"),
        ((), {"RABBITMQ_URL": "http://x"}, "RABBITMQ_URL (or CLOUDAMQP_URL): must look like"),
        (
            (),
            {"RABBITMQ_URL": "amqp://127.0.0.1", "STANDBY_AFTER_SECONDS": "0"},
            "STANDBY_AFTER_SECONDS: ",
        ),
        (
            ("no.such.module",),
            {"RABBITMQ_URL": "amqp://127.0.0.1"},
            "Invalid value for 'MODULE': cannot import 'no.such.module'",
        ),
    ],
)
def test_a_standby_refuses_what_it_cannot_work_with(
    processes: Processes,
    database_url: str,
    arguments: tuple[str, ...],
    env: dict[str, str],
    complaint: str,
) -> None:
    done = processes.run(
        *("python", "-m", "workers", "standby", *arguments),
        env={"DATABASE_URL": database_url, **env},
    )

    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert complaint in line


class TestLooking:
    """Whether RabbitMQ is there."""

    @pytest.fixture
    def wire(self, clean_rabbitmq: RabbitMQ) -> Iterator[tuple[Proxy, Rabbitmq]]:
        wire, url = proxy_to_rabbitmq(clean_rabbitmq.url)
        yield wire, Rabbitmq(urls=[url], queue_type="classic", middleware=[])
        wire.close()

    def test_finds_one_that_answers(self, wire: tuple[Proxy, Rabbitmq]) -> None:
        _, broker = wire
        assert why_unreachable(broker, timeout_seconds=5) is None

    def test_finds_none_that_takes_connections_but_does_not_answer(
        self, wire: tuple[Proxy, Rabbitmq]
    ) -> None:
        proxy, broker = wire
        proxy.pause()

        assert why_unreachable(broker, timeout_seconds=0.5) is not None

    def test_finds_none_that_lets_nobody_in(self, clean_rabbitmq: RabbitMQ) -> None:
        url = clean_rabbitmq.url.replace("guest:guest", "guest:wrong")
        broker = Rabbitmq(urls=[url], queue_type="classic", middleware=[])

        reason = why_unreachable(broker, timeout_seconds=5)

        assert reason
        assert "wrong" not in reason

    def test_takes_any_node_that_answers(self, clean_rabbitmq: RabbitMQ) -> None:
        urls = ["amqp://guest:guest@127.0.0.1:1", clean_rabbitmq.url]
        broker = Rabbitmq(urls=urls, queue_type="classic", middleware=[])

        assert why_unreachable(broker, timeout_seconds=5) is None

    def test_finds_one_that_is_there_but_takes_nothing(
        self, wire: tuple[Proxy, Rabbitmq], clean_rabbitmq: RabbitMQ
    ) -> None:
        _, broker = wire
        clean_rabbitmq.ctl("set_vm_memory_high_watermark", "0.000001")
        try:
            assert why_unreachable(broker, timeout_seconds=5) is None
        finally:
            clean_rabbitmq.ctl("set_vm_memory_high_watermark", "0.4")


class TestTheSwitch:
    """When it takes over and hands over; by a clock of the test's own."""

    AFTER_SECONDS = 15

    def changes(
        self, monkeypatch: pytest.MonkeyPatch, outages: list[tuple[float, float]]
    ) -> list[tuple[float, State]]:
        """Let a standby watch for two minutes with outages, and tell when it changed."""
        now = 0.0
        stop = threading.Event()
        changes: list[tuple[float, State]] = []

        def look(*_: Any, **__: Any) -> str | None:
            return "cut" if any(begin <= now < end for begin, end in outages) else None

        def wait(seconds: float) -> None:
            nonlocal now
            now += seconds
            if now >= 120:
                stop.set()

        class Idle:
            """A shift in which nothing happens."""

            def __init__(self, *_: Any) -> None: ...
            def begin(self) -> None: ...
            def resume(self) -> None: ...
            def end(self) -> None: ...

        monkeypatch.setattr(standby_module, "why_unreachable", look)
        monkeypatch.setattr(standby_module, "Shift", Idle)
        monkeypatch.setattr(leftovers, "give_back", lambda *_: 0)
        monkeypatch.setattr(time, "monotonic", lambda: now)
        monkeypatch.setattr(stop, "wait", wait)
        settings = Settings(
            rabbitmq_url="amqp://localhost", standby_after_seconds=self.AFTER_SECONDS
        )
        database = Database("postgresql+psycopg2://nobody@127.0.0.1:1/nothing")
        broker = build_broker(settings, database, ())
        assert isinstance(broker, Rabbitmq)
        standby = Standby(
            broker, database, settings, (), on_change=lambda state: changes.append((now, state))
        )
        assert standby.state == "watching"
        standby.watch_until(stop)
        assert standby.state == "watching"
        return changes

    def test_comes_when_rabbitmq_has_been_away_for_long_enough(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (taken, active), (handed, watching) = self.changes(monkeypatch, [(20, 60)])

        assert (active, watching) == ("active", "watching")
        assert 20 + self.AFTER_SECONDS <= taken <= 20 + self.AFTER_SECONDS + 5
        assert 60 + HAND_OVER_AFTER_SECONDS <= handed <= 60 + HAND_OVER_AFTER_SECONDS + 5

    def test_does_not_come_for_a_moment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        outages = [(float(begin), begin + 12.0) for begin in range(5, 120, 20)]

        assert self.changes(monkeypatch, outages) == []

    def test_does_not_go_back_to_one_that_is_back_for_a_moment(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        changes = self.changes(monkeypatch, [(0, 30), (36, 60), (65, 80)])

        assert [state for _, state in changes] == ["active", "watching"]
        assert changes[1][0] >= 80 + HAND_OVER_AFTER_SECONDS

    def test_comes_for_one_that_was_never_there(self, monkeypatch: pytest.MonkeyPatch) -> None:
        changes = self.changes(monkeypatch, [(0, 200)])

        # At its end it is active no more.
        assert [state for _, state in changes] == ["active", "watching"]
        assert changes[0][0] <= self.AFTER_SECONDS + 5
