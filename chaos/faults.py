"""What is done to the service. Each fault is over when its function returns."""

import json
import random
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import psutil
from pika.exceptions import AMQPError
from sqlalchemy.exc import SQLAlchemyError

from chaos.fleet import Fleet
from tests.rig.postgres import Postgres, query
from tests.rig.rabbitmq import RabbitMQ

QUEUES = ("customer_service", "default", "low")
GARBAGE = (
    b"",
    b"{",
    b"\xff\xfe",
    b"[]",
    b"null",
    b'{"queue_name": "default"}',
    json.dumps({"queue_name": "default", "actor_name": "nobody", "args": [], "kwargs": {},
                "options": {}, "message_id": "x", "message_timestamp": 1}).encode(),
)  # fmt: skip


@dataclass
class Scene:
    """Where it happens."""

    fleet: Fleet
    rabbitmq: RabbitMQ
    postgres: Postgres
    database_url: str
    random: random.Random
    stop: threading.Event

    def pause(self, most_seconds: float) -> None:
        """Let a fault last for a while; ends at once when the chaos does."""
        self.stop.wait(self.random.uniform(0, most_seconds))


def kill_worker(scene: Scene) -> None:
    """Kill -9 of a worker's whole process group."""
    scene.fleet.process(_any(scene, "worker", "customer_service")).kill()


def kill_worker_process(scene: Scene) -> None:
    """Kill -9 of one worker process, while dramatiq's main process lives on."""
    main = scene.fleet.process(_any(scene, "worker", "customer_service"))
    with suppress(psutil.NoSuchProcess, IndexError):
        psutil.Process(main.pid).children()[0].kill()


def kill_scheduler(scene: Scene) -> None:
    """Kill -9 of a scheduler."""
    scene.fleet.process(_any(scene, "scheduler")).kill()


def stop_group(scene: Scene) -> None:
    """SIGTERM three times to a whole process group, as a supervisor in a hurry sends it."""
    process = scene.fleet.process(_any(scene, "worker", "customer_service"))
    for _ in range(3):
        with suppress(ProcessLookupError):
            process.send_signal_to_group(signal.SIGTERM)
        scene.pause(0.3)


def freeze_worker(scene: Scene) -> None:
    """A worker stands still, as on a machine that is out of memory, and then goes on."""
    process = scene.fleet.process(_any(scene, "worker"))
    with suppress(ProcessLookupError):
        process.send_signal_to_group(signal.SIGSTOP)
        scene.pause(5)
        process.send_signal_to_group(signal.SIGCONT)


def cut_database_connections(scene: Scene) -> None:
    """Terminate half of all connections."""
    with suppress(SQLAlchemyError):
        query(
            scene.postgres.url,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name = 'workers' AND random() < 0.5",
        )


def restart_database(scene: Scene) -> None:
    """PostgreSQL is away for a moment."""
    scene.postgres.stop()
    scene.pause(3)
    scene.postgres.start()


def lock_a_table(scene: Scene) -> None:
    """Somebody locks the rows that jobs want."""
    with suppress(SQLAlchemyError):
        query(scene.database_url, "LOCK TABLE chaos_effects IN EXCLUSIVE MODE; SELECT pg_sleep(2)")


def restart_rabbitmq(scene: Scene) -> None:
    """RabbitMQ is restarted in good order."""
    scene.rabbitmq.stop()
    scene.pause(4)
    scene.rabbitmq.start()


def kill_rabbitmq(scene: Scene) -> None:
    """Kill -9 of RabbitMQ."""
    scene.rabbitmq.kill()
    scene.pause(4)
    scene.rabbitmq.start()


def cut_rabbitmq_connections(scene: Scene) -> None:
    """RabbitMQ closes all connections."""
    scene.rabbitmq.ctl("close_all_connections", "chaos")


def block_publishers(scene: Scene) -> None:
    """A memory alarm: RabbitMQ takes no messages for a while."""
    scene.rabbitmq.ctl("set_vm_memory_high_watermark", "0.000001")
    scene.pause(8)
    scene.rabbitmq.ctl("set_vm_memory_high_watermark", "0.4")


def publish_garbage(scene: Scene) -> None:
    """Bodies that are none of ours, on every queue."""
    for queue in QUEUES:
        for body in GARBAGE:
            with suppress(AMQPError, OSError):
                scene.rabbitmq.publish(queue, body)


# How often, in relation to each other: those that take long are rarer.
FAULTS: dict[Callable[[Scene], None], int] = {
    kill_worker: 8,
    kill_worker_process: 8,
    kill_scheduler: 6,
    stop_group: 6,
    freeze_worker: 3,
    cut_database_connections: 8,
    restart_database: 3,
    lock_a_table: 3,
    restart_rabbitmq: 2,
    kill_rabbitmq: 2,
    cut_rabbitmq_connections: 5,
    block_publishers: 2,
    publish_garbage: 4,
}


def _any(scene: Scene, *prefixes: str) -> str:
    return scene.random.choice([name for each in prefixes for name in scene.fleet.names(each)])
