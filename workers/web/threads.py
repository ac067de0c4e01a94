"""Blocking calls (database, RabbitMQ) from the page's event loop: each in a thread, each bounded.

Not asyncio's own pool: a database that hangs without closing its connection holds a thread for as
long as it likes, and Python would wait for it at exit. These threads are daemons, nobody waits for
them longer than they said, and there are only so many.
"""

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

LIMIT = 8
"""So many calls at once; more than that, and the page is no longer a page but a load."""


class Busy(Exception):  # noqa: N818 - it names a state
    """The answer takes too long, or too many wait for one already."""


class Threads:
    """Runs calls in threads of their own, for one event loop."""

    def __init__(self) -> None:
        self._running = 0

    async def call(self, function: Callable[[], T], *, seconds: float) -> T:
        """Call `function` in a thread, and return what it returns.

        Raises:
            Busy: if it has not returned after `seconds`; it is left to itself then.
        """
        if self._running >= LIMIT:
            raise Busy("too many requests wait for an answer already")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()

        def work() -> None:
            try:
                result = function()
            except BaseException as error:  # noqa: BLE001 - it is raised where it is awaited
                _post(loop, self._settle, answer, None, error)
            else:
                _post(loop, self._settle, answer, result, None)

        self._running += 1
        threading.Thread(target=work, name="page", daemon=True).start()
        try:
            return await asyncio.wait_for(answer, seconds)
        except TimeoutError:
            raise Busy(f"no answer within {seconds:g} s") from None

    def _settle(
        self, answer: asyncio.Future[T], result: T | None, error: BaseException | None
    ) -> None:
        self._running -= 1
        if answer.done():
            return  # nobody waits any more
        if error is not None:
            answer.set_exception(error)
        else:
            answer.set_result(result)  # type: ignore[arg-type]


def _post(loop: asyncio.AbstractEventLoop, callback: Callable[..., None], *args: object) -> None:
    try:
        loop.call_soon_threadsafe(callback, *args)
    except RuntimeError:
        # The loop has ended meanwhile, and with it whoever asked.
        return
