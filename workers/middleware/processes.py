"""How a worker process behaves: what it fetches, and how it takes a stop signal."""

import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import dramatiq
import structlog
from sqlalchemy.exc import SQLAlchemyError

from workers import schema
from workers.database import Database
from workers.settings import refuse_to_start

log = structlog.stdlib.get_logger(__name__)


class FairPrefetch(dramatiq.Middleware):
    """Fetches no more messages than there are threads to run them.

    dramatiq's default, twice as many, lets messages wait in one process while another is idle. Its
    environment variable is one number for all processes, read when dramatiq is imported; here it
    follows ``--threads``.
    """

    def before_worker_boot(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        worker.queue_prefetch = worker.worker_threads


class SchemaGuard(dramatiq.Middleware):
    """Keeps workers from starting on a schema that they are too new, or too old, for.

    A database that cannot be reached is another matter: the workers wait for it.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def before_worker_boot(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        try:
            schema.require_current(self._database.engine)
        except schema.SchemaError as error:
            raise refuse_to_start(error) from None
        except SQLAlchemyError as error:
            log.warning("The database cannot be reached yet", reason=str(error).splitlines()[0])


class PatientSignals(dramatiq.Middleware):
    """Lets running jobs finish though the stop signal is repeated.

    A dyno manager, or honcho, signals every process of the group, and dramatiq's main process
    passes its own signal on: each worker process gets two, and dramatiq takes the second for an
    order to die at once. Repeats count only after the grace period.

    Args:
        grace_seconds: how long after the first signal repeats are ignored.
    """

    def __init__(self, grace_seconds: float) -> None:
        self.grace_seconds = grace_seconds

    def after_worker_boot(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        if threading.current_thread() is not threading.main_thread():
            return  # only a process that dramatiq runs has handlers to be patient with
        first_at: float | None = None

        def patient(handler: Callable[[int, FrameType | None], Any]) -> Any:
            def handle(signum: int, frame: FrameType | None) -> None:
                nonlocal first_at
                if first_at is None:
                    first_at = time.monotonic()
                elif time.monotonic() - first_at < self.grace_seconds:
                    return
                handler(signum, frame)

            return handle

        for signum in (signal.SIGTERM, signal.SIGHUP):
            handler = signal.getsignal(signum)
            if callable(handler):
                signal.signal(signum, patient(handler))
