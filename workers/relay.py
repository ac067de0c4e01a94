"""The relay publishes what committed transactions left in the outbox (see `workers.outbox`).

A thread of every worker process wants to be the relay of its database. An advisory lock chooses
one; the others look again every two seconds. The lock is on the connection on which the relay reads
and marks, so that a relay which loses it can mark nothing any more, and one that is killed makes
way at once.

The relay goes in rounds: read the oldest unpublished rows, publish them, mark those that the broker
has confirmed, in one statement. Wherever it dies in between, the rows are unmarked and the next
relay publishes them again. So:

- *At least once*: a row is marked only after the broker has it. Whoever receives a row twice knows
  it by its id; for messages, the run ledger does.
- *In order for each key*: rows are read in the order of their ids, and a publisher sends an event
  only after the one before it of the same key was confirmed, and none after one that was not. A
  successor begins with the oldest that is not marked. So whatever was received twice, the first
  receptions are in order.
- *Nothing is skipped*: a row that becomes visible late, behind others with higher ids, is read in
  the next round, since each round looks for unmarked rows and for nothing else.

Between rounds it sleeps until a commit adds to the outbox (a trigger notifies), and looks every few
seconds all the same, should a notification be lost. If the broker or the database fails, the
relay gives its lock back, so that one with a better connection can have it, and tries again.
"""

import logging
import math
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from typing import Protocol

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from workers import outbox
from workers.database import Database, Lease
from workers.outbox import Stored

log = logging.getLogger(__name__)

BATCH_SIZE = 1000
"""Rows of each table that one round publishes at most."""

POLL_SECONDS = 5
"""How often the relay looks though nothing was notified."""

AGAIN_SECONDS = 1
"""How soon it looks again for rows that the broker did not take."""

STANDBY_SECONDS = 2
"""How often a process that is not the relay tries to become it."""

STOP_SECONDS = 3
"""How long a stop waits for the round in progress, which may be abandoned anywhere."""

CLEAR_EVERY_SECONDS = 60
CLEAR_BATCH_SIZE = 10_000


Chore = Callable[[Session, int], bool]
"""Clears up to so many old rows away, and returns whether there may be more."""


class PublisherError(Exception):
    """The broker cannot be reached, or refuses; one line says why."""


class Publisher(Protocol):
    """A connection to a broker."""

    def publish(self, pending: Sequence[Stored]) -> Sequence[Stored]:
        """Publish, and return what the broker is known to have. Events of one key keep their order.

        Raises:
            PublisherError: if the connection was lost before; nothing is published then.
        """

    def keep_alive(self) -> None:
        """Let the broker know that we are here.

        Raises:
            PublisherError: if the connection is lost.
        """

    def close(self) -> None:
        """End the connection; never raises."""


class Relay(threading.Thread):
    """The thread that is, or waits to be, the relay of its database.

    Args:
        database: where the outbox is.
        connect: makes the publisher, when this thread has become the relay.
        with_events: whether the publisher has a place for events. One that has none must not keep
            the relay that has from its work: the lock is another.
        chores: what the relay clears away now and then, since it is the one process that is chosen.
    """

    def __init__(
        self,
        database: Database,
        connect: Callable[[], Publisher],
        *,
        with_events: bool,
        chores: Sequence[Chore] = (),
    ) -> None:
        super().__init__(name="relay", daemon=True)
        self._database = database
        self._connect = connect
        self._with_events = with_events
        self._chores = chores
        self._lock_name = "relay" if with_events else "relay:messages"
        self._is_stopping = threading.Event()
        self._wake, self._alarm = socket.socketpair()
        self._complaint: str | None = None
        self._cleared_at = -math.inf

    def run(self) -> None:
        with self._wake, self._alarm:
            while not self._is_stopping.is_set():
                try:
                    with self._database.lease() as lease:
                        if self._is_chosen(lease):
                            self._relay(lease)
                except (PublisherError, SQLAlchemyError) as error:
                    self._complain(str(error).partition("\n")[0])
                except Exception:
                    log.exception("The relay failed; it tries again")
                self._is_stopping.wait(STANDBY_SECONDS)

    def stop(self) -> None:
        """Finish the round in progress, and end."""
        self._is_stopping.set()
        with suppress(OSError):  # it has ended already
            self._alarm.send(b"!")
        self.join(STOP_SECONDS)

    def _is_chosen(self, lease: Lease) -> bool:
        with lease.transaction():
            return lease.try_lock(self._lock_name)

    def _relay(self, lease: Lease) -> None:
        lease.listen(outbox.NOTIFY_CHANNEL)
        with closing(self._connect()) as publisher:
            log.info("This process relays the outbox")
            self._complaint = None
            while not self._is_stopping.is_set():
                pending, published = self._publish(lease, publisher)
                has_cleared_all = self._clear(lease)
                publisher.keep_alive()
                if has_cleared_all and (pending < BATCH_SIZE or not published):
                    seconds = POLL_SECONDS if published == pending else AGAIN_SECONDS
                    lease.wait(seconds, wake=self._wake)

    def _publish(self, lease: Lease, publisher: Publisher) -> tuple[int, int]:
        """Go one round.

        Returns:
            how many rows were found, and how many of them are published.
        """
        with lease.transaction() as session:
            pending = outbox.pending(session, limit=BATCH_SIZE, with_events=self._with_events)
        published = publisher.publish(pending) if pending else []
        if published:
            with lease.transaction() as session:
                outbox.mark_published(session, published)
        return len(pending), len(published)

    def _clear(self, lease: Lease) -> bool:
        """Now and then, clear a batch away; return whether that is all there is to clear."""
        if time.monotonic() - self._cleared_at < CLEAR_EVERY_SECONDS:
            return True
        has_more = False
        for chore in self._chores:
            with lease.transaction() as session:
                has_more |= chore(session, CLEAR_BATCH_SIZE)
        if not has_more:
            self._cleared_at = time.monotonic()
        return not has_more

    def _complain(self, reason: str) -> None:
        # A broker that is away for an hour is no news every two seconds.
        level = logging.WARNING if reason != self._complaint else logging.DEBUG
        self._complaint = reason
        log.log(level, "The outbox cannot be published; trying again: %s", reason)
