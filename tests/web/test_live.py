"""However many look at the page, and whatever hangs: one look at a time, and an answer in time."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from workers.periodic import utc_now
from workers.status import BrokerStatus, DatabaseStatus, SchemaStatus, Status
from workers.web import live as live_module
from workers.web import threads as threads_module
from workers.web.live import Live, Snapshot, Unavailable
from workers.web.threads import Busy, Threads

PATIENCE_SECONDS = 10


def snapshot(version: str = "1", *, age_seconds: float = 0) -> Snapshot:
    status = Status(
        taken_at=utc_now() - timedelta(seconds=age_seconds),
        database=DatabaseStatus(is_reachable=True),
        schema=SchemaStatus(is_current=True),
        broker=BrokerStatus(kind="rabbitmq", is_reachable=True),
        queues=(),
        jobs=(),
    )
    return Snapshot(status=status, strips={}, in_hand=(), version=version)


async def until(events: AsyncIterator[str], name: str) -> str:
    """Read a stream up to an event of this name, and return its data."""
    async for event in events:
        if event.startswith(f"event: {name}\n"):
            return event.partition("data: ")[2].strip()
    raise AssertionError(f"The stream ended without {name}")


@pytest.fixture
def hang() -> Iterator[Callable[[], Any]]:
    """A call that returns only when the test has ended."""
    is_over = threading.Event()
    yield is_over.wait
    is_over.set()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_module, "PERIOD_SECONDS", 0.01)
    monkeypatch.setattr(live_module, "TAKING_SECONDS", 0.2)


class TestThreads:
    def test_hand_on_what_a_call_returns_or_raises(self) -> None:
        async def ask() -> None:
            threads = Threads()
            assert await threads.call(lambda: 42, seconds=PATIENCE_SECONDS) == 42
            with pytest.raises(ZeroDivisionError):
                await threads.call(lambda: 1 // 0, seconds=PATIENCE_SECONDS)

        asyncio.run(ask())

    def test_wait_no_longer_than_was_said_and_are_not_many(
        self, hang: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(threads_module, "LIMIT", 3)

        async def ask() -> None:
            threads = Threads()
            for _ in range(3):
                with pytest.raises(Busy, match="no answer within"):
                    await threads.call(hang, seconds=0.01)
            # Those that hang count on, though nobody waits for them any more
            with pytest.raises(Busy, match="too many"):
                await threads.call(lambda: 42, seconds=PATIENCE_SECONDS)

        asyncio.run(ask())


class TestLive:
    def test_looks_once_for_all_viewers(self) -> None:
        looks: list[None] = []

        def take() -> Snapshot:
            looks.append(None)
            return snapshot(str(len(looks)))

        async def watch() -> None:
            live = Live(Threads(), take)
            streams = [live.follow() for _ in range(20)]
            told = await asyncio.gather(*(until(stream, "change") for stream in streams))
            # All are told of the same one, or of one of the next few; not each of its own
            assert len(set(told)) < 5
            loops = [task for task in asyncio.all_tasks() if "_look_while_watched" in repr(task)]
            assert len(loops) == 1
            live.close()

        asyncio.run(asyncio.wait_for(watch(), PATIENCE_SECONDS))

    def test_looks_only_while_somebody_does(self) -> None:
        looks: list[None] = []

        def take() -> Snapshot:
            looks.append(None)
            return snapshot()

        async def watch() -> None:
            live = Live(Threads(), take)
            stream = live.follow()
            await until(stream, "change")
            await stream.aclose()  # type: ignore[attr-defined]
            loop_of_looks = live._loop
            assert loop_of_looks is not None
            await asyncio.wait_for(loop_of_looks, PATIENCE_SECONDS)
            assert live._viewers == 0

        asyncio.run(watch())

    def test_goes_on_with_the_last_snapshot_when_the_next_hangs(
        self, hang: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(live_module, "STALE_SECONDS", 30)
        takes: list[Callable[[], Snapshot]] = [lambda: snapshot(age_seconds=60), hang]

        def take() -> Snapshot:
            return takes.pop(0)()

        async def look() -> None:
            live = Live(Threads(), take)
            first = await live.latest()
            again = await live.latest()
            assert again is first
            assert again.is_stale

        asyncio.run(asyncio.wait_for(look(), PATIENCE_SECONDS))

    def test_says_when_there_is_nothing_to_show(self, hang: Callable[[], Any]) -> None:
        async def look(take: Callable[[], Snapshot]) -> None:
            with pytest.raises(Unavailable):
                await Live(Threads(), take).latest()

        def fail() -> Snapshot:
            raise RuntimeError("a bug")

        for take in (hang, fail):
            asyncio.run(asyncio.wait_for(look(take), PATIENCE_SECONDS))

    def test_ends_its_streams_when_it_is_closed(self) -> None:
        async def watch() -> None:
            live = Live(Threads(), snapshot)
            stream = live.follow()
            await until(stream, "beat")
            live.close()
            async for _ in stream:
                pass

        asyncio.run(asyncio.wait_for(watch(), PATIENCE_SECONDS))

    def test_tells_nothing_new_while_only_time_passes(self) -> None:
        async def watch() -> list[str]:
            live = Live(Threads(), lambda: snapshot("same"))
            names: list[str] = []
            async for event in live.follow():
                names.append(event.partition("\n")[0])
                if names.count("event: beat") == 4:
                    break
            live.close()
            return names

        names = asyncio.run(asyncio.wait_for(watch(), PATIENCE_SECONDS))
        assert names.count("event: change") == 1
