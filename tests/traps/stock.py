"""dramatiq as it comes, to show its traps: ``dramatiq tests.traps.stock``. Never imported.

Its jobs do what files in their folder tell them, and tell in files what they did.
"""

import os
import signal
import time
from pathlib import Path

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker

from tests.rig.waiting import eventually

broker = RabbitmqBroker(url=os.environ["RABBITMQ_URL"], max_priority=10)
dramatiq.set_broker(broker)


@dramatiq.actor
def wait_for_go(folder: str) -> None:
    (Path(folder) / f"begun-{time.monotonic_ns()}").touch()
    eventually((Path(folder) / "go").exists, timeout_seconds=60)
    (Path(folder) / f"ended-{time.monotonic_ns()}").touch()


@dramatiq.actor
def kill_the_worker() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
