"""Keeps a sample marketplace busy, with short transactions, as the web backend would.

People arrive one after the other, each with an errand; between them, what is under way goes on:
customers write in their chats until they fall silent, agents answer, tasks are taken and done.
"""

import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping

from sqlalchemy.exc import DBAPIError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from workers.database import Database
from workers.periodic import utc_now
from workers.simulate.acting import Action
from workers.simulate.bustle import BUSTLE
from workers.simulate.errands import ERRANDS

__all__ = ["simulate"]

log = logging.getLogger(__name__)

ARRIVAL_SECONDS = 1.0
"""Between two arrivals, where no end is set over which they could be spread."""

SHORTEST_ARRIVAL_SECONDS = 0.1
"""Between two arrivals, however many people are to come in however little time."""

BUSTLE_SECONDS = 0.4
"""Between two events that nobody has to arrive for; less, where people arrive faster."""

AWAY_SECONDS = 1.0
"""Before the database is tried again."""


def simulate(
    database: Database,
    *,
    seconds: float | None,
    people: int,
    on_event: Callable[[str], object] = log.info,
    stop: threading.Event | None = None,
    seed: int | None = None,
) -> dict[str, int]:
    """Let people arrive until all have come, the time is up, or `stop` is set.

    While the database cannot be used, which is reported once, nobody arrives; then it goes on.

    Args:
        database: the marketplace; may be empty, people come all the same.
        seconds: how long at most; arrivals are spread over it. None: no limit, one a second.
        people: how many arrive at most.
        on_event: called with a line for everything that happens.
        stop: ends the simulation early, from another thread or a signal handler.
        seed: makes the choices repeatable; they also depend on what is in the database.

    Returns:
        how often each thing happened.
    """
    return _Simulation(database, on_event, stop or threading.Event(), random.Random(seed)).run(
        seconds, people
    )


class _Simulation:
    def __init__(
        self,
        database: Database,
        on_event: Callable[[str], object],
        stop: threading.Event,
        chance: random.Random,
    ) -> None:
        self._database = database
        self._on_event = on_event
        self._stop = stop
        self._chance = chance
        self._counts: Counter[str] = Counter()
        self._is_database_unusable = False

    def run(self, seconds: float | None, people: int) -> dict[str, int]:
        began = time.monotonic()
        ends_at = began + (float("inf") if seconds is None else seconds)
        arrival_seconds = ARRIVAL_SECONDS
        if seconds is not None and people:
            arrival_seconds = max(seconds / people, SHORTEST_ARRIVAL_SECONDS)
        bustle_seconds = min(arrival_seconds, BUSTLE_SECONDS)
        next_arrival_at = next_bustle_at = began
        while people and not self._stop.is_set() and (now := time.monotonic()) < ends_at:
            if now >= next_arrival_at and self._do(ERRANDS):
                people -= 1
                self._counts["arrived"] += 1
                next_arrival_at = now + arrival_seconds
            if now >= next_bustle_at and self._do(BUSTLE):
                next_bustle_at = now + bustle_seconds
            next_at = min(next_arrival_at, next_bustle_at, ends_at)
            if self._is_database_unusable:
                next_at = min(time.monotonic() + AWAY_SECONDS, ends_at)
            self._stop.wait(max(0, next_at - time.monotonic()))
        return dict(self._counts)

    def _do(self, actions: Mapping[Action, int]) -> bool:
        """Do one of the actions, chosen by weight; False if the database did not let us."""
        (action,) = self._chance.choices([*actions], [*actions.values()])
        try:
            with self._database.transaction() as session:
                event = action(session, self._chance, utc_now())
        except ProgrammingError:
            # A table that is not there, say: no waiting helps.
            raise
        except (DBAPIError, PoolTimeoutError) as error:
            self._report_failure(error)
            return False
        if self._is_database_unusable:
            self._is_database_unusable = False
            self._on_event("The database can be used again")
        if event is not None:
            self._counts[action.__name__] += 1
            self._on_event(event)
        return True

    def _report_failure(self, error: Exception) -> None:
        self._counts["failed"] += 1
        if not self._is_database_unusable:
            self._is_database_unusable = True
            reason = str(getattr(error, "orig", None) or error).strip().splitlines() or [
                "no reason"
            ]
            self._on_event(f"The database cannot be used: {reason[0]}")
