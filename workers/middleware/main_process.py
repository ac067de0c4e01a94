"""dramatiq's main process, whose child each worker process is."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable


def is_ours() -> bool:
    """Tell whether this is a worker process of the `dramatiq` command."""
    return multiprocessing.parent_process() is not None


def when_gone(call: Callable[[], None]) -> None:
    """Have a function called when the main process ends before this one, as if it was killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:

        def wait() -> None:
            parent.join()
            call()

        threading.Thread(target=wait, name="main process", daemon=True).start()


def ask_for_renewal() -> None:
    """Have all worker processes stop in good order, and started anew.

    That is what dramatiq's main process does at a SIGHUP. It passes the signal on to its worker
    processes, and to no others: the queues that another line of the Procfile serves go on.
    """
    parent = multiprocessing.parent_process()
    if parent is not None and parent.pid is not None:
        os.kill(parent.pid, signal.SIGHUP)


def leave(*, is_failure: bool) -> None:
    """End this worker process now, whatever its threads do; in any other process, do nothing."""
    if is_ours():
        os._exit(1 if is_failure else 0)
