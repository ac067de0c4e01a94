"""What is done to the service. Each fault is over when its function returns."""

import random
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import psutil
from pika.exceptions import AMQPError
from sqlalchemy.exc import SQLAlchemyError

from chaos.fleet import Fleet
from tests import garbage
from tests.rig.postgres import Postgres, query
from tests.rig.rabbitmq import PrivateRabbitMQ

QUEUES = ("customer_service", "default", "low")
STANDBY_AFTER_SECONDS = 3
DETECTED_SECONDS = 15
"""By then a standby has noticed that RabbitMQ is away, also one that was just being started."""

WORKERS = ("worker", "customer_service")
SPOILED_EACH_TIME = 20


@dataclass
class Scene:
    """Where it happens."""

    fleet: Fleet
    rabbitmq: PrivateRabbitMQ
    postgres: Postgres
    database_url: str
    random: random.Random
    stop: threading.Event
    outages: list[tuple[datetime, datetime]] = field(default_factory=list)
    """When RabbitMQ was away for so long that a standby had to step in: from when it must have
    done so, until when RabbitMQ began to come back."""

    def pause(self, most_seconds: float) -> None:
        """Let a fault last for a while; ends at once when the chaos does."""
        self.stop.wait(self.random.uniform(0, most_seconds))


Fault = Callable[[Scene], None]


def kill_worker(scene: Scene) -> None:
    """Kill -9 of a worker's whole process group."""
    scene.fleet.process(_any(scene, *WORKERS)).kill()


def kill_worker_process(scene: Scene) -> None:
    """Kill -9 of one worker process, while dramatiq's main process lives on."""
    main = scene.fleet.process(_any(scene, *WORKERS))
    with suppress(psutil.NoSuchProcess, IndexError):
        psutil.Process(main.pid).children()[0].kill()


def kill_scheduler(scene: Scene) -> None:
    """Kill -9 of a scheduler."""
    scene.fleet.process(_any(scene, "scheduler")).kill()


def kill_standby(scene: Scene) -> None:
    """Kill -9 of a standby."""
    scene.fleet.process(_any(scene, "standby")).kill()


def stop_group(scene: Scene) -> None:
    """SIGTERM three times to a whole process group, as a supervisor in a hurry sends it."""
    process = scene.fleet.process(_any(scene, *WORKERS, "scheduler", "standby"))
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


def keep_rabbitmq_away(scene: Scene) -> None:
    """RabbitMQ is stopped, killed, or stands still, until a standby has run the schedule."""
    node = scene.rabbitmq
    go, come = scene.random.choice(
        ((node.stop, node.start), (node.kill, node.start), (node.freeze, node.thaw))
    )
    go()
    covered_from = datetime.now(UTC) + timedelta(seconds=DETECTED_SECONDS)
    scene.stop.wait(DETECTED_SECONDS)
    scene.pause(10)
    scene.outages.append((covered_from, datetime.now(UTC)))
    come()


def publish_garbage(scene: Scene) -> None:
    """Bodies that are none of ours, on every queue, with those that once stopped a queue."""
    for queue in QUEUES:
        good = garbage.good(scene.random, job="check_expired_coupons", queue=queue)
        bodies = [
            garbage.encode({**good, "options": None}),
            garbage.encode({**good, "queue_name": "of somebody else"}),
            garbage.encode({**good, "options": {"eta": 10**15}}),
            garbage.encode({**good, "actor_name": "nobody"}),
            *(garbage.spoiled(scene.random, good) for _ in range(SPOILED_EACH_TIME)),
        ]
        for body in bodies:
            with suppress(AMQPError, OSError):
                scene.rabbitmq.publish(queue, body)


# How often, in relation to each other: those that take long are rarer.
FAULTS: dict[Fault, int] = {
    kill_worker: 8,
    kill_worker_process: 8,
    kill_scheduler: 6,
    kill_standby: 4,
    stop_group: 8,
    freeze_worker: 3,
    cut_database_connections: 8,
    restart_database: 3,
    lock_a_table: 3,
    restart_rabbitmq: 2,
    kill_rabbitmq: 2,
    keep_rabbitmq_away: 3,
    cut_rabbitmq_connections: 5,
    block_publishers: 2,
    publish_garbage: 4,
}


def _any(scene: Scene, *prefixes: str) -> str:
    return scene.random.choice([name for each in prefixes for name in scene.fleet.names(each)])
