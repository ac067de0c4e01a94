"""Commands that go on until they are stopped are stopped by a signal, whenever it comes."""

import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.rig.waiting import eventually
from workers.cli.signals import stop_signal


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


TO_ANOTHER_THREAD = """
import signal, threading, time
from workers.cli.signals import stop_signal

stop = stop_signal()

def send():
    time.sleep(0.2)
    signal.pthread_kill(threading.get_ident(), signal.{signum})
    threading.Event().wait()

threading.Thread(target=send, daemon=True).start()
stop.wait()
"""


@pytest.mark.parametrize("signum", ["SIGINT", "SIGTERM"])
def test_a_signal_that_the_system_gives_to_another_thread_is_heard(signum: str) -> None:
    # Given a main thread that waits already, and so executes nothing
    code = TO_ANOTHER_THREAD.format(signum=signum)

    done = subprocess.run(
        [sys.executable, "-c", code], timeout=20, check=False, capture_output=True
    )

    assert (done.returncode, done.stderr) == (0, b"")
