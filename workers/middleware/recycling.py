"""Worker processes are renewed after so many runs, or when they have grown too large.

Libraries leak, and memory that was once needed is seldom given back. dramatiq has nothing for
that; it does renew all worker processes of a main process at a SIGHUP, each in good order. So the
first one that is due asks for it, by one signal: it, and each sibling, knows then that it is to
stop, and asks for nothing more. Two that are due in the same moment may both ask; a repeated signal
is ignored (`workers.middleware.shutdown`).
"""

import resource
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import dramatiq
import structlog
from dramatiq.broker import MessageProxy

from workers.middleware import main_process
from workers.middleware.in_progress import RunsInProgress
from workers.settings import ConfigurationError, refuse_to_start

log = structlog.stdlib.get_logger(__name__)

MEGABYTE = 1024 * 1024


class Recycling(dramatiq.Middleware):
    """Has this process renewed when it is due.

    Args:
        in_progress: knows how many runs there were. Messages that led to no run do not count.
        max_tasks: after how many runs a process is due.
        max_memory_mb: at what size (resident, in MiB) it is due; None: at none.
    """

    def __init__(
        self, in_progress: RunsInProgress, *, max_tasks: int, max_memory_mb: int | None
    ) -> None:
        self._in_progress = in_progress
        self._max_tasks = max_tasks
        self._max_memory_mb = max_memory_mb
        self._has_asked = threading.Lock()

    def before_worker_boot(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        if not main_process.is_ours() or self._max_memory_mb is None:
            return
        if (size := memory_mb()) >= self._max_memory_mb:
            # It would be renewed without end.
            raise refuse_to_start(
                ConfigurationError(
                    f"MAX_MEMORY_MB_PER_PROCESS: must be more than the {size} MiB that a worker "
                    f"process has before its first run, not {self._max_memory_mb}"
                )
            )

    def after_process_message(
        self,
        broker: dramatiq.Broker,
        message: MessageProxy,
        *,
        result: Any = None,
        exception: BaseException | None = None,
    ) -> None:
        if not main_process.is_ours() or self._in_progress.is_stopping.is_set():
            return
        reason = self._why_due()
        if reason and self._has_asked.acquire(blocking=False):
            log.info("The worker processes are renewed", reason=reason)
            main_process.ask_for_renewal()

    def _why_due(self) -> str | None:
        if self._in_progress.ended_count >= self._max_tasks:
            return f"this one has had {self._in_progress.ended_count} runs"
        if self._max_memory_mb is not None and (size := memory_mb()) >= self._max_memory_mb:
            return f"this one has grown to {size} MiB"
        return None


def memory_mb() -> int:
    """Return the memory that this process holds (where the system does not tell: has ever held)."""
    with suppress(FileNotFoundError):
        resident_pages = int(Path("/proc/self/statm").read_text().split()[1])
        return resident_pages * resource.getpagesize() // MEGABYTE
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // (MEGABYTE if sys.platform == "darwin" else 1024)
