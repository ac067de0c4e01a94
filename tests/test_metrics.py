"""What Prometheus is told: of the whole service, and by each worker process of itself."""

import socket
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import text

from tests.probes import Service, Workshop, log_lines
from tests.rig.ports import free_port_range, free_ports
from tests.rig.processes import Process
from tests.rig.waiting import eventually
from workers import metrics, runs
from workers.batches import Counts
from workers.database import Database
from workers.job import Job, Run
from workers.middleware.metrics import PORTS, WorkerMetrics
from workers.periodic import every
from workers.runs import clear_ended
from workers.settings import Settings
from workers.status import collect

pytest_plugins = ["tests.probe_fixtures"]

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def parse(exposed: str) -> list[Metric]:
    return list(text_string_to_metric_families(exposed))


def samples(exposed: str) -> Samples:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in parse(exposed)
        for sample in family.samples
    }


def value(found: Samples, name: str, **labels: str) -> float | None:
    return found.get((name, frozenset(labels.items())))


def scrape(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        return str(answer.read().decode())


class TestTheService:
    """`workers.metrics.render`, from ledger and broker."""

    def render(self, workshop: Workshop) -> Samples:
        status = collect(Settings(), workshop.database, workshop.broker)
        return samples(metrics.render(status).decode())

    def job(self, workshop: Workshop, function: Callable[[Run], Any], **options: Any) -> Job:
        return workshop.job(function, actor_name="job", queue_name="low", **options)

    def test_counts_runs_by_outcome_from_zero_on(self, workshop: Workshop) -> None:
        self.job(workshop, lambda _run: {}, periodic=every(seconds=60))

        found = self.render(workshop)

        for outcome in ("succeeded", "retrying", "dead", "skipped", "lost"):
            labels = {"job": "job", "queue": "low", "outcome": outcome}
            assert value(found, "jobs_runs_total", **labels) == 0

    def test_tells_what_happened(self, workshop: Workshop) -> None:
        attempts = iter(range(9))

        def fail_once(_run: Run) -> Counts:
            if next(attempts) == 0:
                raise RuntimeError("no")
            return {}

        job = self.job(workshop, fail_once, periodic=every(seconds=60))
        slot = every(seconds=60).slot_at(datetime.now(UTC))
        workshop.send(job, slot=slot)
        run = workshop.wait_for_run(runs.run_key("job", slot, ""), "succeeded")
        assert run.finished_at is not None

        found = self.render(workshop)

        of_job = {"job": "job", "queue": "low"}
        assert value(found, "jobs_runs_total", **of_job, outcome="succeeded") == 1
        assert value(found, "jobs_runs_total", **of_job, outcome="retrying") == 1
        assert value(found, "jobs_queue_wait_seconds_count", **of_job) == 1
        name = "jobs_run_duration_seconds"
        assert value(found, f"{name}_count", **of_job, outcome="succeeded") == 1
        assert value(found, f"{name}_bucket", **of_job, outcome="retrying", le="+Inf") == 1
        assert value(found, f"{name}_bucket", **of_job, outcome="succeeded", le="1800") == 1
        finished = run.finished_at.timestamp()
        assert value(found, "jobs_last_success_timestamp_seconds", **of_job) == finished
        assert value(found, "jobs_last_success_slot_timestamp_seconds", **of_job) == (
            slot.timestamp()
        )
        assert value(found, "jobs_interval_seconds", **of_job) == 60
        assert value(found, "jobs_overdue_seconds", **of_job) == 0
        assert value(found, "jobs_database_up") == 1
        assert value(found, "jobs_broker_in_use", broker="in-process") == 1

    def test_never_takes_back_what_it_counted(self, workshop: Workshop) -> None:
        job = self.job(workshop, lambda _run: {})
        workshop.run_to_the_end(job)
        before = self.render(workshop)

        workshop.do("UPDATE job_runs SET finished_at = now() - interval '99 days'")
        with workshop.database.transaction() as session:
            clear_ended(session, 100, age_days=14)
        assert workshop.ask("SELECT count(*) FROM job_runs") == 0

        after = self.render(workshop)
        counters = {key for key in before if key[0].endswith(("_total", "_count", "_bucket"))}
        assert counters
        assert {key: after.get(key) for key in counters} == {key: before[key] for key in counters}

    def test_says_that_the_database_is_away_and_nothing_that_it_cannot_know(self) -> None:
        (port,) = free_ports(1)
        database = Database(f"postgresql+psycopg2://me@127.0.0.1:{port}/x")
        workshop = Workshop(database)
        self.job(workshop, lambda _run: {}, periodic=every(seconds=60))

        found = self.render(workshop)

        assert value(found, "jobs_database_up") == 0
        assert value(found, "jobs_problems", code="database_away", severity="page") == 1
        assert value(found, "jobs_interval_seconds", job="job", queue="low") == 60
        unknown = ("jobs_runs", "jobs_overdue", "jobs_processes", "jobs_schema", "jobs_dead")
        assert not [name for name, _ in found if name.startswith(unknown)]

    def test_labels_come_from_the_code_alone(self, workshop: Workshop) -> None:
        """Whatever somebody writes into the ledger makes no new series."""
        self.job(workshop, lambda _run: {})
        before = self.render(workshop).keys()
        workshop.do("""
            INSERT INTO job_runs (run_key, job, message_id, queue, status, started_at)
            SELECT n, 'job' || n, 'm', 'queue' || n, 'running', now()
            FROM generate_series(1, 50) AS n
        """)
        assert self.render(workshop).keys() == before


class TestAWorkerProcess:
    """`workers.middleware.metrics`, around jobs of the test's own."""

    @pytest.fixture
    def counted(self, workshop: Workshop) -> Callable[[], Samples]:
        (middleware,) = (
            each for each in workshop.broker.middleware if isinstance(each, WorkerMetrics)
        )
        return lambda: samples(generate_latest(middleware.registry).decode())

    def deliveries(self, found: Samples) -> dict[str, float]:
        return {
            dict(labels)["outcome"]: number
            for (name, labels), number in found.items()
            if name == "jobs_worker_deliveries_total"
        }

    def test_counts_deliveries_by_what_became_of_them(
        self, workshop: Workshop, counted: Callable[[], Samples]
    ) -> None:
        def job(_run: Run) -> Counts:
            return {}

        def failing(_run: Run) -> Counts:
            raise RuntimeError("no")

        good = workshop.job(job, periodic=every(seconds=60))
        message_id = workshop.send(good)
        workshop.wait_for_run(message_id)
        workshop.send_again(good, message_id)
        long_ago = every(seconds=60).slot_at(datetime.now(UTC)) - timedelta(hours=1)
        workshop.send(good, slot=long_ago)
        workshop.wait_for_run(workshop.send(workshop.job(failing, max_retries=1)), "dead")
        expected = {"succeeded": 1, "duplicate": 1, "skipped": 1, "retrying": 1, "dead": 1}
        eventually(lambda: self.deliveries(counted()) == expected, message=str(counted()))

        found = counted()
        of_good = {"job": "job", "queue": "default"}
        # What did not run took no time, and waited for nothing
        name = "jobs_worker_run_duration_seconds_count"
        assert value(found, name, **of_good, outcome="succeeded") == 1
        assert value(found, name, **of_good, outcome="skipped") is None
        assert value(found, "jobs_worker_queue_wait_seconds_count", **of_good) == 1
        # A retry is not counted as waiting; it was meant to
        of_failing = {"job": "failing", "queue": "default"}
        assert value(found, "jobs_worker_queue_wait_seconds_count", **of_failing) == 1
        assert value(found, "jobs_worker_deliveries_in_progress", **of_good) == 0
        assert value(found, "jobs_worker_threads") == 2

    def test_shows_what_is_in_its_hands(
        self, workshop: Workshop, counted: Callable[[], Samples]
    ) -> None:
        seen: list[float | None] = []

        def job(_run: Run) -> Counts:
            labels = {"job": "job", "queue": "default"}
            seen.append(value(counted(), "jobs_worker_deliveries_in_progress", **labels))
            return {}

        workshop.run_to_the_end(workshop.job(job))
        assert seen == [1]

    def test_counts_what_the_database_kept_from_beginning_as_postponed(
        self, workshop: Workshop, counted: Callable[[], Samples]
    ) -> None:
        def job(_run: Run) -> Counts:
            return {}

        with workshop.database.transaction() as session:
            session.execute(text("ALTER TABLE job_runs RENAME TO away"))
        workshop.send(workshop.job(job, retry_delay_seconds=60))
        eventually(lambda: self.deliveries(counted()) == {"postponed": 1})


class TestTheRealCommands:
    """Several processes on one machine, one `METRICS_PORT`."""

    def port_of(self, worker: Process) -> int:
        worker.wait_for_output("Serving metrics")
        (port,) = (
            line["port"] for line in log_lines(worker) if line.get("event") == "Serving metrics"
        )
        return int(port)

    def test_each_have_a_port_of_their_own_and_leave_no_files(
        self, service: Service, tmp_path: Path
    ) -> None:
        first_port = free_port_range(PORTS)
        env = {"METRICS_PORT": str(first_port)}
        workers = [service.start_worker("default", env=env) for _ in range(2)]
        ports = [self.port_of(worker) for worker in workers]
        assert ports == [first_port, first_port + 1]

        run = service.wait_for_run(service.send("probe_effect"))
        labels = {"job": run.job, "queue": "default", "outcome": "succeeded"}

        def counted() -> list[float]:
            found = [samples(scrape(port)) for port in ports]
            counts = [value(each, "jobs_worker_deliveries_total", **labels) for each in found]
            return [count for count in counts if count is not None]

        # By the one that ran it, and no other
        eventually(lambda: counted() == [1])
        resident = value(samples(scrape(first_port)), "process_resident_memory_bytes")
        assert resident is not None
        assert resident > 10e6

        # Whoever goes, also by a kill, gives the port back to the next
        workers[0].kill()
        heir = service.start_worker("default", env=env)
        assert self.port_of(heir) == first_port
        assert list((tmp_path / "work").iterdir()) == []

    def test_work_on_if_all_ports_are_taken(self, service: Service) -> None:
        first_port = free_port_range(PORTS)
        with ExitStack() as stack:
            for port in range(first_port, first_port + PORTS):
                stack.enter_context(socket.create_server(("", port)))
            worker = service.start_worker("default", env={"METRICS_PORT": str(first_port)})
            worker.wait_for_output("the ports after it are taken")
            service.wait_for_run(service.send("probe_effect"), "succeeded")
        worker.terminate()
        assert worker.wait() == 0

    def test_serve_nothing_unless_told_to(self, service: Service) -> None:
        worker = service.start_worker("default")
        service.wait_for_run(service.send("probe_effect"))
        assert "Serving metrics" not in worker.output
