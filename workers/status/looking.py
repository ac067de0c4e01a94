"""Asks somebody who may never answer: in a thread of its own, for a limited time."""

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Generic, TypeVar

T = TypeVar("T")


class NoAnswer(Exception):  # noqa: N818 - it names what happened
    """The time was up."""


class Cord:
    """Holds a connection's socket, so that whoever waits for an answer can be cut off."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._descriptor: int | None = None

    @contextmanager
    def tied_to(self, descriptor: int) -> Iterator[None]:
        """Let `cut` end this connection while the block lasts."""
        with self._lock:
            self._descriptor = descriptor
        try:
            yield
        finally:
            # Before it is closed: its number may be another's next.
            with self._lock:
                self._descriptor = None

    def cut(self) -> None:
        """End the connection, if there is one."""
        with self._lock, suppress(OSError):
            if self._descriptor is not None:
                with socket.socket(fileno=os.dup(self._descriptor)) as same:
                    same.shutdown(socket.SHUT_RDWR)


class Look(threading.Thread, Generic[T]):
    """A question that is being asked.

    Args:
        ask: asks, and returns the answer. It may tie the cord to its connection; otherwise it must
            end by itself, before long.
    """

    def __init__(self, ask: Callable[[Cord], T]) -> None:
        super().__init__(name="status", daemon=True)
        self._ask = ask
        self._cord = Cord()
        self._answer: list[T] = []
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._answer.append(self._ask(self._cord))
        except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
            self._error = error

    def wait(self, seconds: float) -> T:
        """Return the answer.

        Raises:
            NoAnswer: if there is none in time.
            Exception: what `ask` raised.
        """
        self.join(seconds)
        if self.is_alive():
            self._cord.cut()
            raise NoAnswer
        if self._error is not None:
            raise self._error
        return self._answer[0]
