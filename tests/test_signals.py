"""Commands that go on until they are stopped are stopped by a signal, whenever it comes."""

import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.rig.waiting import eventually
from workers.cli.signals import stop_signal

PATIENCE_SECONDS = 15


@pytest.fixture
def _handlers_are_put_back() -> Iterator[None]:
    handlers = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)}
    yield
    signal.set_wakeup_fd(-1)
    for signum, handler in handlers.items():
        signal.signal(signum, handler)


@pytest.mark.usefixtures("_handlers_are_put_back")
@pytest.mark.timeout(20)
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_meets_the_main_thread_in_the_midst_of_waiting_is_heard(
    signum: signal.Signals,
) -> None:
    stop = stop_signal()

    # Where `wait` has just taken the event's lock, and not yet let go of it
    with stop._cond:  # type: ignore[attr-defined]
        signal.raise_signal(signum)

    eventually(stop.is_set)
    # And again, as impatient people do
    signal.raise_signal(signum)


@pytest.mark.usefixtures("_handlers_are_put_back")
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_the_system_gives_to_another_thread_is_heard(signum: signal.Signals) -> None:
    stop = stop_signal()

    def receive() -> None:
        # When the main thread waits already, and so executes nothing
        eventually(lambda: stop._cond._waiters)  # type: ignore[attr-defined]
        signal.pthread_kill(threading.get_ident(), signum)

    with ThreadPoolExecutor(1) as pool:
        received = pool.submit(receive)
        assert stop.wait(PATIENCE_SECONDS)
    received.result()
