"""A stop signal loses no work: what runs finishes in the grace period, or is given back whole."""

import signal
import threading

import psutil
import pytest
from sqlalchemy import text

from tests.probes import PATIENCE_SECONDS, Service, Workshop
from tests.rig.waiting import eventually
from workers import leftovers
from workers.database import Database
from workers.job import Run

pytest_plugins = ["tests.probe_fixtures"]

DEAF = ("probe_deaf_in_python", "probe_deaf_in_sql", "probe_deaf_in_c")


def test_jobs_that_work_in_batches_stop_at_their_next_commit_point(service: Service) -> None:
    # Given a job in the second of five batches
    service.do("INSERT INTO probe_rows SELECT generate_series(1, 10)")
    worker = service.start_worker()
    key = service.send("probe_batches", gated_row=3)
    worker.wait_for_output("at the gate", timeout_seconds=PATIENCE_SECONDS)

    # When its worker is told to stop, and the batch comes to its end
    worker.send_signal_to_group(signal.SIGTERM)
    worker.wait_for_output("Shutting down...")
    service.open_gate("batches")
    assert worker.wait(timeout_seconds=PATIENCE_SECONDS) == 0

    # Then what was committed stays, and no attempt was used
    run = service.run(key)
    assert (run.status, run.attempt, run.result) == ("retrying", 0, {"rows": 4})
    assert service.ask("SELECT sum(times) FROM probe_rows") == 4

    # And the next worker does the rest
    service.start_worker()
    run = service.wait_for_run(key)
    assert (run.status, run.attempt, run.result) == ("succeeded", 1, {"rows": 10})
    assert service.ask("SELECT count(*) FROM probe_rows WHERE times = 1") == 10


@pytest.mark.parametrize(
    ("jobs", "leaves_in_good_order"),
    [(DEAF[:2], True), (DEAF, False)],
    ids=["interrupted", "left behind"],
)
def test_what_does_not_end_in_the_grace_period_is_done_later_as_if_it_had_not_begun(
    service: Service, jobs: tuple[str, ...], *, leaves_in_good_order: bool
) -> None:
    # Given jobs that will not end by themselves
    env = {"SHUTDOWN_GRACE_SECONDS": "1", "LOG_FORMAT": "console"}
    worker = service.start_worker(threads=4, env=env)
    keys = [service.send(job) for job in jobs]
    worker.wait_for_output("working", count=len(jobs), timeout_seconds=PATIENCE_SECONDS)

    # When their worker is told to stop, then it does
    for _ in range(3):
        worker.send_signal_to_group(signal.SIGTERM)
    assert worker.wait(timeout_seconds=PATIENCE_SECONDS) == 0
    assert ("Worker has been shut down" in worker.output) is leaves_in_good_order
    assert worker.output.count("given back: it did not end in the grace period") == 2
    assert "Traceback" not in worker.output

    # And all are rolled back, and no attempt was used
    for key in keys:
        run = service.run(key)
        assert (run.status, run.attempt) == ("retrying", 0)
    assert service.effects() == 0
    eventually(lambda: service.rabbitmq.queue_counts("default").ready == len(jobs))

    # And the next worker does them
    service.open_gate("deaf")
    service.start_worker()
    for key in keys:
        run = service.wait_for_run(key)
        assert (run.status, run.attempt, run.error) == ("succeeded", 1, None)
        assert service.effects(key) == 1


def test_what_was_fetched_and_has_not_begun_goes_to_others_at_once(service: Service) -> None:
    # Given a worker that is busy, and has fetched another message
    service.declare("default", "low")
    env = {"SHUTDOWN_GRACE_SECONDS": "300"}
    busy = service.start_worker("default", "low", threads=1, env=env)
    long = service.send("probe_gated", gate="gate")
    busy.wait_for_output("at the gate", timeout_seconds=PATIENCE_SECONDS)
    fetched = service.send("probe_nightly", queue="low")
    eventually(lambda: service.rabbitmq.queue_counts("low").ready == 0)

    # When it is told to stop, and its long run goes on
    busy.send_signal_to_group(signal.SIGTERM)
    busy.wait_for_output("Shutting down...", timeout_seconds=PATIENCE_SECONDS)

    # Then it asks for no more, and another has done the rest before the long run ends
    for queue in ("default", "low"):
        eventually(lambda queue=queue: service.rabbitmq.queue_counts(queue).consumers == 0)  # type: ignore[misc]
    service.start_worker("default", "low")
    new = service.send("probe_effect")
    for key in (fetched, new):
        assert service.wait_for_run(key).attempt == 1
    assert busy.returncode is None
    assert service.run(long).status == "running"
    service.open_gate("gate")
    assert busy.wait(timeout_seconds=PATIENCE_SECONDS) == 0
    assert service.run(long).status == "succeeded"


@pytest.mark.parametrize("count", [1, 2])
def test_orphans_of_a_main_process_that_was_killed_stop_too(service: Service, count: int) -> None:
    workers = service.start_worker(processes=count)
    children = psutil.Process(workers.pid).children(recursive=True)
    assert len(children) >= count

    workers.send_signal(signal.SIGKILL)

    _, alive = psutil.wait_procs(children, timeout=PATIENCE_SECONDS)
    assert alive == []


def test_what_runs_in_one_process_with_its_broker_is_resumed_by_the_next(
    probe_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given the in-process broker, with a run that will not end by itself
    monkeypatch.setenv("SHUTDOWN_GRACE_SECONDS", "1")
    workshop = Workshop(probe_database)
    has_begun = threading.Event()

    def work(run: Run) -> None:
        if run.session.scalar(text("SELECT count(*) FROM probe_open_gates")):
            return
        has_begun.set()
        run.session.execute(text("SELECT pg_sleep(60)"))

    key = workshop.send(workshop.job(work))
    assert has_begun.wait(PATIENCE_SECONDS)

    # When it stops
    workshop.close()

    # Then no attempt was used, and another resumes it
    assert (workshop.run(key).status, workshop.run(key).attempt) == ("retrying", 0)
    workshop.do("INSERT INTO probe_open_gates VALUES ('gate')")
    successor = Workshop(probe_database)
    successor.run_to_the_end(successor.job(work, actor_name="another"))
    successor.job(work)
    assert leftovers.resume(successor.broker, probe_database) == 1
    assert successor.wait_for_run(key).attempt == 1
    successor.close()
