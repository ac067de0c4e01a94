"""The runs in progress in this process, and how to interrupt one from outside.

An exception raised in another thread arrives there between two steps of Python, so it does not
reach a thread that waits for PostgreSQL; and a job whose statement is cancelled may go on to the
next. So an interruption does both, and goes on doing both until the run has ended: it raises in the
thread, and has the server cancel what the run's connection executes.

It must not strike anything but the run. The same thread settles the failure next, and the same
connection is lent to another run. A run has therefore a lock: under it the run is interrupted, and
under it the run ends. What was raised before arrives while it ends, and is dropped there.
Afterwards nothing is raised, or cancelled, any more.

What no interruption reaches is a thread inside a call of C (``time.sleep``, a socket of a library):
see `workers.middleware.shutdown` and `workers.middleware.limits` for what becomes of it.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from dramatiq.middleware import Interrupt
from dramatiq.threading import raise_thread_exception

from workers.database import Lease
from workers.runs import Claim, Delivery

T = TypeVar("T")

AGAIN_SECONDS = 1
"""How long an interrupted run has to end before it is interrupted again."""


@dataclass(frozen=True)
class TimeLimits:
    """How long a run may take: a soft limit interrupts it, a hard one ends its process."""

    soft_seconds: float
    hard_seconds: float


@dataclass(eq=False)
class RunInProgress:
    """A run, between its claim and the end of its last transaction."""

    delivery: Delivery
    claim: Claim
    lease: Lease
    limits: TimeLimits
    thread_id: int = field(default_factory=threading.get_ident)
    started: float = field(default_factory=time.monotonic)
    interruption: type[Interrupt] | None = None
    is_beyond_hard_limit: bool = False
    has_ended: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def seconds(self) -> float:
        """How long it has been running."""
        return time.monotonic() - self.started

    def interrupt(self, reason: type[Interrupt]) -> None:
        """Have `reason` raised in the run, again and again until it has ended."""
        if self.interruption is None:
            self.interruption = reason
            threading.Thread(target=self._insist, name="interruption", daemon=True).start()

    def end(self) -> None:
        """From now on, nothing interrupts this thread or this connection any more.

        Raises:
            Interrupt: if the run was interrupted just now; it is to be called again then.
        """
        with self._lock:
            self.has_ended.set()

    def _insist(self) -> None:
        while not self.has_ended.is_set():
            with self._lock:
                if not self.has_ended.is_set():
                    raise_thread_exception(self.thread_id, self.interruption)
                    # This may take long if the network is cut: hence a thread for each run.
                    self.lease.cancel_statement()
            self.has_ended.wait(AGAIN_SECONDS)


class RunsInProgress:
    """All that run in this process now."""

    def __init__(self) -> None:
        self.is_stopping = threading.Event()
        """Set when this process is to take on nothing new."""
        self.ended_count = 0
        """How many runs have ended, well or badly."""
        self._runs: set[RunInProgress] = set()
        self._lock = threading.Lock()

    def all(self) -> list[RunInProgress]:
        with self._lock:
            return list(self._runs)

    def execute(self, run: RunInProgress, function: Callable[[], T]) -> T:
        """Call a function that may be interrupted; when this returns or raises, it no longer may.

        Raises:
            Interrupt: the reason, if the run was interrupted, whatever it was that it raised then.
        """
        try:
            with self._lock:
                self._runs.add(run)
            return function()
        except BaseException as error:
            if run.interruption is None:
                raise
            raise run.interruption(f"interrupted after {run.seconds:.1f} s") from error
        finally:
            # Python delivers an exception at the next call, so that none outlasts the lock.
            while True:
                try:
                    run.end()
                    break
                except Interrupt:
                    continue
            with self._lock:
                self._runs.discard(run)
                self.ended_count += 1
