"""One measurement, in a process of its own: ``python -m bench.worker VARIANT CASE [SAMPLE]``.

The job runs as it does in production: its real actor, on a worker thread, through the real
middleware, with claim, ledger and a commit for each batch. Loop and limit get the same process,
minus the worker. `DATABASE_URL` says where; what was measured goes to standard output, as JSON.
"""

import json
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, cast

import dramatiq
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.orm import Session

from bench.cases import BY_NAME, Case
from bench.memory import PeakMemory
from workers import app, embedded, runs
from workers.job import Job
from workers.periodic import utc_now


@dataclass
class Outcome:
    """What one variant took."""

    now: str
    """The `now` of the run."""
    seconds: float
    idle_bytes: int
    """The process's memory before."""
    memory_bytes: int
    """How much more it was at most."""
    longest_transaction_seconds: float
    transactions: int
    units: int
    """How many things the loop looked at, the job changed."""
    result: dict[str, int] = field(default_factory=dict)


class Transactions:
    """Times each transaction of an engine, from its first statement until COMMIT has returned.

    By connection and by thread: meanwhile the threads that relay, and that say that the process
    lives, have transactions of their own.
    """

    def __init__(self, engine: Engine) -> None:
        self._began_at: dict[Any, float] = {}
        self._seconds: list[tuple[int, float]] = []
        event.listen(engine, "begin", self._begin)
        # SQLAlchemy's own event of this name comes before the server is asked to commit, and the
        # locks are held until it has.
        commit = engine.dialect.do_commit

        def do_commit(connection: Any) -> None:
            commit(connection)
            seconds = time.perf_counter() - self._began_at[connection.dbapi_connection]
            self._seconds.append((threading.get_ident(), seconds))

        setattr(engine.dialect, "do_commit", do_commit)  # noqa: B010 - mypy: a method

    def _begin(self, connection: Connection) -> None:
        self._began_at[connection.connection.dbapi_connection] = time.perf_counter()

    def of_thread(self, thread_id: int) -> list[float]:
        """Return how many seconds each transaction took that this thread committed."""
        return [seconds for committed_by, seconds in self._seconds if committed_by == thread_id]


WARM_UP = "check_expired_invitation_codes"
"""A job that has nothing to do here. A worker has been running for days, has its connection, and
has done something before."""


class Runner(dramatiq.Middleware):
    """Sends jobs one by one, and tells when each has been dealt with."""

    def __init__(self) -> None:
        self._is_done = threading.Event()
        self.finished_at = 0.0
        self.thread_id = 0
        """The thread that dealt with it."""

    def run(self, job: str) -> str:
        """Send the message of a job, wait until it is done, and return the message's id."""
        self._is_done.clear()
        message = cast("Job", app.broker.actors[job]).send_with_options()
        self._is_done.wait()
        return message.message_id

    def after_process_message(self, *_arguments: Any, **_more: Any) -> None:
        self.finished_at = time.perf_counter()
        self.thread_id = threading.get_ident()
        self._is_done.set()


def measure_job(case: Case) -> Outcome:
    """Send the job's message to a worker in this process, and wait until it is done."""
    if case.job not in app.broker.actors:
        raise SystemExit(f"there is no job {case.job} yet")
    runner = Runner()
    app.broker.add_middleware(runner)
    grace_seconds = app.settings.shutdown_grace_seconds
    workers = embedded.Workers(app.broker, grace_seconds=grace_seconds)
    workers.start()
    runner.run(WARM_UP)
    transactions = Transactions(app.database.engine)
    memory = PeakMemory()
    began_at = time.perf_counter()
    message_id = runner.run(case.job)
    memory_bytes = memory.stop()
    timed = transactions.of_thread(runner.thread_id)
    workers.stop()
    run = runs.find_run(app.database, message_id)
    if run is None or run.status != "succeeded" or run.started_at is None:
        raise SystemExit(f"the run did not succeed: {run and run.error}")
    result = run.result or {}
    return Outcome(
        now=run.started_at.isoformat(),
        seconds=runner.finished_at - began_at,
        idle_bytes=memory.idle_bytes,
        memory_bytes=memory_bytes,
        longest_transaction_seconds=max(timed),
        transactions=len(timed),
        units=result[case.changed],
        result=result,
    )


def measure_loop(case: Case, sample: int) -> Outcome:
    """Run the loop over a sample, in one transaction."""
    loop = case.loop
    if loop is None:
        raise SystemExit(f"{case.name} has no loop")

    def run(connection: Connection, now: datetime) -> int:
        with Session(connection) as session:
            units = loop(session, now, sample)
            session.flush()
        return units

    return _measure(run)


def measure_limit(case: Case) -> Outcome:
    """Execute the limit's statements, in one transaction."""
    parameters: dict[str, Any] = {}
    if case.changed_ids:
        with _engine().connect() as connection:
            parameters["changed"] = connection.scalar(text(case.changed_ids))

    def run(connection: Connection, now: datetime) -> int:
        case.limit.execute(connection, now=now, **parameters)
        return 0

    return _measure(run)


def _measure(run: Callable[[Connection, datetime], int]) -> Outcome:
    with _engine().connect() as connection:
        # The first statement of a connection asks the server for a few things of its own.
        connection.execute(text("SELECT 1"))
        connection.rollback()
        memory = PeakMemory()
        now = utc_now()
        began_at = time.perf_counter()
        with connection.begin():
            units = run(connection, now)
        seconds = time.perf_counter() - began_at
        memory_bytes = memory.stop()
    return Outcome(
        now=now.isoformat(),
        seconds=seconds,
        idle_bytes=memory.idle_bytes,
        memory_bytes=memory_bytes,
        longest_transaction_seconds=seconds,
        transactions=1,
        units=units,
    )


def _engine() -> Engine:
    if app.settings.database_url is None:
        raise SystemExit("DATABASE_URL: must say which database to measure on")
    return create_engine(app.settings.database_url)


def main(variant: str, case_name: str, sample: str = "0") -> None:
    """Measure, and say what was measured."""
    case = BY_NAME[case_name]
    if variant == "job":
        outcome = measure_job(case)
    elif variant == "loop":
        outcome = measure_loop(case, int(sample))
    else:
        outcome = measure_limit(case)
    sys.stdout.write(json.dumps(asdict(outcome)) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
