"""How the commands that go on until they are stopped learn that they are."""

import signal
import threading
from queue import SimpleQueue


def stop_signal() -> threading.Event:
    """Return an event that SIGINT and SIGTERM set, however often they come."""
    stop = threading.Event()
    # Not set by the handler itself: it interrupts the main thread anywhere, also where that holds
    # the event's own lock, and would wait for it for ever. A simple queue may be filled anywhere.
    signals = SimpleQueue[int]()

    def wait() -> None:
        signals.get()
        stop.set()

    threading.Thread(target=wait, name="stop signal", daemon=True).start()
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, lambda number, _frame: signals.put(number))
    return stop
