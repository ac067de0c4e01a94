"""How a process stops: what runs may finish, and what does not is given back.

From the first stop signal on, the process takes on nothing new, and returns to RabbitMQ what it has
fetched and not begun. What runs has the grace period to finish. A job that works in batches stops
at its next commit point: what it has committed stays, and whoever is handed the message goes on
from there. When the grace is over, the other runs are interrupted. In all these cases the run is
rolled back, its attempt is given back in the ledger, and its message is returned, since a stop is
no failure of the job.

A thread inside a call of C notices nothing of an interruption. Its connection is closed by the
server then, so that nothing of it can be committed; its attempt is given back; and the process
ends, with the thread in it. RabbitMQ delivers again what the connection of a process that ended had
not acknowledged.
"""

import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, Protocol, runtime_checkable

import dramatiq
import structlog
from dramatiq import middleware as stock
from dramatiq.common import iter_queue
from sqlalchemy.exc import SQLAlchemyError

from workers import runs
from workers.database import Database
from workers.middleware import main_process
from workers.middleware.in_progress import RunInProgress, RunsInProgress

log = structlog.stdlib.get_logger(__name__)

LOOK_SECONDS = 0.1
INTERRUPT_SECONDS = 1.5
"""How long runs that are interrupted have to end, before they are taken for deaf."""

CLOSE_SECONDS = 2
"""How long connections have to close after that, before the process ends all the same."""


@runtime_checkable
class Returnable(Protocol):
    """A message that can be returned to where it came from, to be delivered again at once."""

    def give_back(self) -> None:
        """Return it; never raises. What is in the memory of this process alone cannot be."""


class Shutdown(dramatiq.Middleware):
    """Sees to the end of a worker process.

    A dyno manager, or honcho, signals every process of the group, and dramatiq's main process
    passes its own signal on: each worker process gets two, and dramatiq takes the second for an
    order to die at once. Here only the first counts, and what it begins has an end of its own.

    Args:
        database: where attempts are given back.
        in_progress: the runs to see to.
        grace_seconds: how long after the first signal runs may go on.
    """

    def __init__(
        self, database: Database, in_progress: RunsInProgress, grace_seconds: float
    ) -> None:
        self.grace_seconds = grace_seconds
        self._database = database
        self._in_progress = in_progress
        self._began: float | None = None
        self._have_stopped = threading.Event()

    def before_worker_boot(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        self._began = None
        self._have_stopped.clear()
        self._in_progress.is_stopping.clear()
        if main_process.is_ours():
            for signum in (signal.SIGTERM, signal.SIGHUP):
                signal.signal(signum, self._once(signal.getsignal(signum)))
            # Nobody would stop this process, or see its log, and the platform starts another.
            main_process.when_gone(lambda: os.kill(os.getpid(), signal.SIGTERM))

    def before_worker_shutdown(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        began = self._begin()
        threading.Thread(
            target=self._see_to_the_end, args=(began,), name="shutdown", daemon=True
        ).start()
        _give_back_what_has_not_begun(worker)

    def after_worker_shutdown(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        self._have_stopped.set()

    def _once(self, handler: Any) -> Callable[[int, FrameType | None], None]:
        def handle(signum: int, frame: FrameType | None) -> None:
            if self._began is None:
                self._begin()
                handler(signum, frame)

        return handle

    def _begin(self) -> float:
        if self._began is None:
            self._began = time.monotonic()
            self._in_progress.is_stopping.set()
        return self._began

    def _see_to_the_end(self, began: float) -> None:
        grace_ends = began + self.grace_seconds
        while time.monotonic() < grace_ends and not self._only_lost_ones_run():
            if self._is_over():
                return
        interrupts_end = time.monotonic() + INTERRUPT_SECONDS
        while time.monotonic() < interrupts_end and not self._only_lost_ones_run():
            for run in self._in_progress.all():
                run.interrupt(stock.Shutdown)
            if self._is_over():
                return
        left = self._in_progress.all()
        has_lost_none = False
        try:
            has_lost_none = give_back_all(self._database, self._in_progress)
        finally:
            if left or not self._have_stopped.wait(CLOSE_SECONDS):
                main_process.leave(is_failure=not has_lost_none)

    def _is_over(self) -> bool:
        """Wait a moment; tell whether the workers have stopped by then."""
        return self._have_stopped.wait(LOOK_SECONDS)

    def _only_lost_ones_run(self) -> bool:
        runs = self._in_progress.all()
        return bool(runs) and all(run.is_beyond_hard_limit for run in runs)


def give_back_all(database: Database, in_progress: RunsInProgress) -> bool:
    """Take the runs in progress from their threads, but those beyond their hard time limit.

    Returns:
        whether no attempt is lost.
    """
    outcomes = [_give_back(database, run) for run in in_progress.all()]
    return all(outcomes)


def _give_back(database: Database, run: RunInProgress) -> bool:
    if run.is_beyond_hard_limit:
        return False
    try:
        runs.give_back(database, run.claim, backend_pid=run.lease.backend_pid)
    except SQLAlchemyError as error:
        reason = str(error).partition("\n")[0]
        log.warning("An attempt could not be given back", job=run.delivery.job, reason=reason)
        return False
    return True


def _give_back_what_has_not_begun(worker: dramatiq.Worker) -> None:
    # Otherwise it would wait here, for as long as the others run, while another process is idle.
    for item in iter_queue(worker.work_queue):
        if isinstance(item.message, Returnable):
            item.message.give_back()
