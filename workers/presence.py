"""Which processes of the service are alive: each says so every few seconds, in the database.

So operators see schedulers, workers and standbys wherever they run, also where nobody can reach
into them. Nothing that the service guarantees depends on it: a database that is away, or slow,
makes processes look silent and does no other harm.

Ages are told, not times: clocks of machines differ, the database's is one.
"""

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence

from sqlalchemy import select, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from workers.database import Database
from workers.models import ProcessKind, ServiceProcess

log = logging.getLogger(__name__)

BEAT_SECONDS = 10
"""How often a process says that it lives."""

SILENT_AFTER_SECONDS = 45
"""Of a process that has not been seen for so long, nobody can say whether it lives: four beats, and
more than a scheduler may need, which wakes every 30 s and is heard of at the next beat."""

FORGET_AFTER_SECONDS = 3600
"""How long a process that was killed, and so said no goodbye, is still shown as silent."""

FORGET_REPLACED_AFTER_SECONDS = 300
"""How long a silent scheduler is shown while another lives. `periodiq` dies of its stop signal, so
that each deploy leaves one behind of which nobody need know."""

BEAT = text("""
    INSERT INTO service_processes (name, kind, queues, state, seen_at)
    VALUES (:name, :kind, :queues, :state, now() - make_interval(secs => :idle_seconds))
    ON CONFLICT (name, kind) DO UPDATE
    SET queues = excluded.queues, state = excluded.state, seen_at = excluded.seen_at
""")

# A name may be that of an earlier process: process ids come again.
ARRIVE = text("DELETE FROM service_processes WHERE name = :name AND kind = :kind")

FORGET = text("""
    DELETE FROM service_processes
    WHERE (name, kind) IN (
        SELECT name, kind FROM service_processes
        WHERE seen_at < now() - make_interval(secs => :age_seconds)
           OR kind = 'scheduler' AND seen_at < now() - make_interval(secs => :replaced_seconds)
              AND EXISTS (SELECT FROM service_processes
                          WHERE kind = 'scheduler'
                            AND seen_at > now() - make_interval(secs => :silent_seconds))
        LIMIT :limit FOR UPDATE SKIP LOCKED
    )
    RETURNING 1
""")


def process_name() -> str:
    """Name this process among all of the service: ``host:pid``."""
    return f"{socket.gethostname()}:{os.getpid()}"


class Heartbeat(threading.Thread):
    """The thread that says that this process lives, until it is stopped.

    Args:
        database: where to say so.
        kind: as what the process lives.
        queues: what it serves.
        state: tells what it is doing, in a word, for people.
    """

    def __init__(
        self,
        database: Database,
        kind: ProcessKind,
        *,
        queues: Sequence[str] = (),
        state: Callable[[], str | None] = lambda: None,
    ) -> None:
        super().__init__(name=f"heartbeat of the {kind}", daemon=True)
        self._database = database
        self._kind = kind
        self._queues = list(queues)
        self._state = state
        self._is_stopping = threading.Event()
        self._last_sign: float | None = None

    def give_sign(self) -> None:
        """Let this process count as alive since its last sign, not since the last beat.

        For a loop that may hang while this thread goes on beating. Returns at once.
        """
        self._last_sign = time.monotonic()

    def run(self) -> None:
        self._say(ARRIVE, name=process_name(), kind=self._kind)
        while not self._is_stopping.is_set():
            idle_seconds = 0.0 if self._last_sign is None else time.monotonic() - self._last_sign
            self._say(
                BEAT,
                name=process_name(),
                kind=self._kind,
                queues=self._queues,
                state=self._state(),
                idle_seconds=idle_seconds,
            )
            self._is_stopping.wait(BEAT_SECONDS)
        self._say(ARRIVE, name=process_name(), kind=self._kind)

    def stop(self) -> None:
        """Say goodbye, and end."""
        self._is_stopping.set()
        self.join(BEAT_SECONDS)

    def _say(self, statement: object, **parameters: object) -> None:
        try:
            with self._database.transaction() as session:
                session.execute(statement, parameters)  # type: ignore[call-overload]
        except SQLAlchemyError as error:
            log.debug("Could not say that this process lives: %s", error)


def list_processes(session: Session) -> Sequence[ServiceProcess]:
    """Return the processes that were seen not long ago, by kind, then by name."""
    query = select(ServiceProcess).order_by(ServiceProcess.kind, ServiceProcess.name)
    return session.scalars(query).all()


def forget_silent(session: Session, limit: int) -> bool:
    """Delete up to `limit` processes that have not been seen for long, or that have a successor.

    Returns:
        whether there may be more.
    """
    parameters = {
        "age_seconds": FORGET_AFTER_SECONDS,
        "replaced_seconds": FORGET_REPLACED_AFTER_SECONDS,
        "silent_seconds": SILENT_AFTER_SECONDS,
        "limit": limit,
    }
    return len(session.execute(FORGET, parameters).all()) >= limit
