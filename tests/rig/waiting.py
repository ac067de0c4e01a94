"""Waiting for something to become true. No test sleeps; this is the one place that does."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

POLL_SECONDS = 0.02


def eventually(
    predicate: Callable[[], T], *, timeout_seconds: float = 10, message: str = "It did not happen"
) -> T:
    """Call `predicate` until what it returns is truthy, and return that.

    Raises:
        AssertionError: with the last value, if that takes longer than `timeout_seconds`.
    """
    # The monotonic clock, because tests freeze and move the other one.
    deadline = time.monotonic() + timeout_seconds
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() >= deadline:
            raise AssertionError(f"{message} (within {timeout_seconds} s; last value: {value!r})")
        time.sleep(POLL_SECONDS)
