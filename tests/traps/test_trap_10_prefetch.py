"""Trap 10: dramatiq fetches twice as many messages as it has threads to run them.

What waits in one process is kept from another that is idle. So a process fetches one for each
thread.
"""

import dramatiq
from dramatiq.brokers.stub import StubBroker

from tests.probes import PATIENCE_SECONDS, Service

pytest_plugins = ["tests.probe_fixtures"]


def test_the_trap_is_there() -> None:
    assert dramatiq.Worker(StubBroker(middleware=[]), worker_threads=2).queue_prefetch == 4


def test_a_worker_takes_no_more_than_it_can_run(service: Service) -> None:
    # Given two slow messages and six more behind them, in the queue before anybody fetches
    service.do("INSERT INTO probe_rows VALUES (1)")
    service.send("probe_gated", gate="gated")
    service.send("probe_batches", gated_row=1)
    for _ in range(6):
        service.send("probe_effect")
    assert service.rabbitmq.queue_counts("default").ready == 8

    # When a worker has both its threads busy
    worker = service.start_worker(threads=2)
    worker.wait_for_output("at the gate", count=2, timeout_seconds=PATIENCE_SECONDS)

    # Then it holds these two, and the others are there for whoever has room
    assert service.rabbitmq.queue_counts("default").ready == 6
