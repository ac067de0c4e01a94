"""Trap 15: dramatiq's metrics are in milliseconds, count what was skipped as processed, and are
kept in a folder that processes share and leave their files in.

So we have our own, in seconds, by outcome, and in the memory of each process (see test_metrics.py).
"""

from pathlib import Path

from tests.rig.processes import Processes
from workers.middleware.metrics import WorkerMetrics

STOCK = """
import dramatiq
from dramatiq.brokers.stub import StubBroker
from dramatiq.middleware import Middleware, SkipMessage
from dramatiq.middleware.prometheus import Prometheus

class SkipAll(Middleware):
    def before_process_message(self, broker, message):
        raise SkipMessage

broker = StubBroker(middleware=[Prometheus(), SkipAll()])
dramatiq.set_broker(broker)

@dramatiq.actor
def never():
    pass

broker.emit_after("process_boot")
worker = dramatiq.Worker(broker, worker_timeout=10)
worker.start()
never.send()
broker.join("default")
worker.join()

from prometheus_client import CollectorRegistry, generate_latest, multiprocess

registry = CollectorRegistry()
multiprocess.MultiProcessCollector(registry)
print(generate_latest(registry).decode())
"""


def test_the_trap_is_there(processes: Processes, tmp_path: Path) -> None:
    folder = tmp_path / "metrics"

    done = processes.run("python", "-c", STOCK, env={"dramatiq_prom_db": str(folder)})

    labels = '{actor_name="never",queue_name="default"}'
    assert f"dramatiq_messages_total{labels} 1.0" in done.stdout, done.stdout + done.stderr
    assert "dramatiq_message_duration_milliseconds_sum" in done.stdout
    assert list(folder.iterdir())


def test_ours_are_in_seconds() -> None:
    names = {metric.name for metric in WorkerMetrics(None).registry.collect()}

    assert {"jobs_worker_run_duration_seconds", "jobs_worker_queue_wait_seconds"} <= names
    assert not [name for name in names if "milliseconds" in name]
