"""How the commands that go on until they are stopped learn that they are."""

import signal
import socket
import threading


def stop_signal() -> threading.Event:
    """Return an event that SIGINT and SIGTERM set, however often they come.

    To be called in the main thread.
    """
    stop = threading.Event()
    # Not a handler in Python sets it. That runs in the main thread alone, when this next executes
    # some: never, if it has just begun to wait for the event, or if the system gives the signal to
    # another thread. And it would interrupt the main thread anywhere, also where that holds the
    # event's own lock. What is written to this descriptor, each signal's number, is at once.
    told, tell = socket.socketpair()
    tell.settimeout(0)
    signal.set_wakeup_fd(tell.detach(), warn_on_full_buffer=False)

    def wait() -> None:
        while True:
            if told.recv(1)[0] in (signal.SIGINT, signal.SIGTERM):
                stop.set()

    threading.Thread(target=wait, name="stop signal", daemon=True).start()
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, lambda _number, _frame: None)
    return stop
