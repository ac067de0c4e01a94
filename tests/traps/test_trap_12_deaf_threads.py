"""Trap 12: dramatiq's time limit does not reach a thread that waits for PostgreSQL, or sits in any
other call of C.

So the server is told to cancel the statement, and has a timeout of its own. What is deaf to all
that is ended with its process at the hard limit (see test_limits.py).
"""

from collections.abc import Iterator

import dramatiq
import pytest
from dramatiq.brokers.stub import StubBroker
from dramatiq.middleware import TimeLimit
from sqlalchemy import text

from tests.probes import PATIENCE_SECONDS, Workshop
from tests.rig.waiting import eventually
from workers.database import Database
from workers.job import Run

pytest_plugins = ["tests.probe_fixtures"]

LOCK = "SELECT pg_advisory_xact_lock(42)"
WAITING = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"


@pytest.fixture
def locked(probe_database: Database) -> Iterator[None]:
    """While somebody holds what a job waits for."""
    with probe_database.transaction() as session:
        session.execute(text(LOCK))
        yield


@pytest.mark.usefixtures("locked")
def test_the_trap_is_there(workshop: Workshop, caplog: pytest.LogCaptureFixture) -> None:
    # Given a job that waits for PostgreSQL, under dramatiq's own time limit
    database = workshop.database
    outcomes: list[str] = []

    def wait() -> None:
        with database.transaction() as session:
            session.execute(text("SET LOCAL lock_timeout = 0"))
            try:
                session.execute(text(LOCK))
            finally:
                outcomes.append("ended")

    broker = StubBroker(middleware=[TimeLimit(time_limit=50, interval=50)])
    job = dramatiq.actor(broker=broker)(wait)
    broker.emit_after("process_boot")
    worker = dramatiq.Worker(broker, worker_threads=1, worker_timeout=50)
    worker.start()
    job.send()

    # When it is over the limit, and dramatiq has raised an exception in its thread
    eventually(lambda: "Time limit exceeded" in caplog.text)

    # Then it goes on waiting, until PostgreSQL answers
    assert workshop.ask(WAITING) == 1
    assert outcomes == []
    workshop.do(
        "SELECT pg_cancel_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    )
    eventually(lambda: outcomes == ["ended"], timeout_seconds=PATIENCE_SECONDS)
    worker.stop()


@pytest.mark.usefixtures("locked")
def test_a_run_that_waits_for_postgresql_is_interrupted(workshop: Workshop) -> None:
    def wait(run: Run) -> None:
        # Nothing but the interruption would end this: not even the server's own timeout.
        run.session.execute(text("SET LOCAL lock_timeout = 0"))
        run.session.execute(text("SET LOCAL statement_timeout = 0"))
        run.session.execute(text(LOCK))

    run = workshop.run_to_the_end(workshop.job(wait, max_retries=0, soft_time_limit_seconds=0.1))

    assert run.status == "dead"
    assert run.error
    assert run.error.startswith("TimeLimitExceeded")
    eventually(lambda: workshop.ask(WAITING) == 0)
