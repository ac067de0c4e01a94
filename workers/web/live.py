"""The snapshot that all viewers share, and the news that there is a newer one.

One loop a process looks at the service every `PERIOD_SECONDS`, however many look at the page, and
only while somebody does. Viewers are told in a stream of server-sent events: a beat each time, by
which they know that the page is alive, and a change only when there is something new to see. They
then ask for the page that they are on, and show what has changed.

Whatever hangs, hangs in a thread (`workers.web.threads`): the page goes on with the last snapshot,
and says how old it is.
"""

import asyncio
import contextlib
import hashlib
import json
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import uuid4

from markupsafe import Markup

from workers.models import JobRun
from workers.periodic import utc_now
from workers.status import Status
from workers.web.threads import Busy, Threads

log = logging.getLogger(__name__)

PERIOD_SECONDS = 2.0
FRESH_SECONDS = 1.0
"""A snapshot as young as that is shown as it is."""
TAKING_SECONDS = 8.0
"""Longer than database and broker may take together before they count as away."""
STALE_SECONDS = 15.0
"""A snapshot older than that is not shown as if it were the present."""
STREAM_SECONDS = 600.0
"""A stream ends after that; the browser comes again, and shows that it still may."""
MAX_VIEWERS = 100


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """All that the front page shows, as of one moment."""

    status: Status
    strips: dict[str, Markup]
    in_hand: tuple[JobRun, ...]
    version: str
    """Differs when there is something new to see; that time has passed is nothing new."""

    @property
    def age_seconds(self) -> float:
        return (utc_now() - self.status.taken_at).total_seconds()

    @property
    def is_stale(self) -> bool:
        return self.age_seconds > STALE_SECONDS


class Unavailable(Exception):  # noqa: N818 - it names a state
    """There is no snapshot, and none is to be had."""


class Live:
    """Takes snapshots for whoever looks. Belongs to one event loop."""

    def __init__(self, threads: Threads, take: Callable[[], Snapshot]) -> None:
        self._threads = threads
        self._take = take
        self._boot = uuid4().hex
        self._last: Snapshot | None = None
        self._taking: asyncio.Task[None] | None = None
        self._loop: asyncio.Task[None] | None = None
        self._ticked = asyncio.Event()
        self._viewers = 0
        self._is_closed = False

    @property
    def is_full(self) -> bool:
        return self._viewers >= MAX_VIEWERS

    async def latest(self) -> Snapshot:
        """Return a snapshot: a fresh one, or the last, if no fresh one is to be had.

        Raises:
            Unavailable: if there is none at all.
        """
        if self._last is None or self._last.age_seconds > FRESH_SECONDS:
            await self._refresh()
        if self._last is None:
            raise Unavailable("the state of the service could not be read")
        return self._last

    async def follow(self) -> AsyncIterator[str]:
        """Tell, event by event, that the page lives, and when there is something new to see."""
        self._viewers += 1
        if self._loop is None or self._loop.done():
            self._loop = asyncio.create_task(self._look_while_watched())
        told = ""
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + STREAM_SECONDS
        try:
            yield "retry: 2000\n\n"
            yield _event("boot", self._boot)
            while not self._is_closed and loop.time() < ends_at:
                yield _event("beat", utc_now())
                if self._last is not None and self._last.version != told:
                    told = self._last.version
                    yield _event("change", told)
                # Also if the loop has died, or is late.
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._ticked.wait(), 2 * TAKING_SECONDS)
        finally:
            self._viewers -= 1

    def close(self) -> None:
        """End all streams."""
        self._is_closed = True
        self._tick()

    async def _look_while_watched(self) -> None:
        while self._viewers and not self._is_closed:
            await self._refresh()
            self._tick()
            await asyncio.sleep(PERIOD_SECONDS)

    def _tick(self) -> None:
        # Wakes all who wait now; whoever waits from now on waits for the next.
        self._ticked.set()
        self._ticked = asyncio.Event()

    async def _refresh(self) -> None:
        """Take a snapshot, or wait for the one that is being taken."""
        if self._taking is None or self._taking.done():
            self._taking = asyncio.create_task(self._take_one())
        await asyncio.shield(self._taking)

    async def _take_one(self) -> None:
        try:
            self._last = await self._threads.call(self._take, seconds=TAKING_SECONDS)
        except Busy as error:
            log.warning("The page cannot look at the service: %s", error)
        except Exception:
            log.exception("The page cannot look at the service")


def version_of(*parts: Any) -> str:
    """Make a name for what is to be seen, the same for the same."""
    text = json.dumps(parts, default=str, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def without_ages(value: Any) -> Any:
    """Return a report without what changes by the mere passing of time."""
    if isinstance(value, dict):
        return {name: without_ages(each) for name, each in value.items() if not _is_age(name)}
    if isinstance(value, list | tuple):
        return [without_ages(each) for each in value]
    return value


def _is_age(name: str) -> bool:
    return name == "taken_at" or name.endswith(("_seconds", "_seconds_ago"))


def _event(name: str, data: datetime | str) -> str:
    text = data.isoformat() if isinstance(data, datetime) else data
    return f"event: {name}\ndata: {text}\n\n"
