"""Trap 24: prefetch is counted for each queue, so that a process on two queues holds twice as many
messages as it has threads.

So it is no more than the threads for each queue, and the Procfile gives the urgent queue a process
of its own.
"""

import re

from tests.probes import PATIENCE_SECONDS, Service
from tests.rig.environment import REPOSITORY
from tests.rig.waiting import eventually
from workers.job import QUEUES

pytest_plugins = ["tests.probe_fixtures"]

THREADS = 2
BEHIND = 60


def test_a_process_holds_of_each_queue_no_more_than_it_has_threads(service: Service) -> None:
    # Given two slow messages, each in a queue of its own, and much behind them
    service.do("INSERT INTO probe_rows VALUES (1)")
    service.send("probe_gated", gate="gated")
    service.send("probe_batches", queue="low", gated_row=1)
    for _ in range(BEHIND):
        service.send("probe_effect", queue="low")

    # When one process serves both queues, and its threads are busy with these two
    worker = service.start_worker("default", "low", threads=THREADS)
    worker.wait_for_output("at the gate", count=2, timeout_seconds=PATIENCE_SECONDS)

    # Then it holds as many messages of the second as it has threads, though none is free for it
    done = service.effects()
    eventually(
        lambda: service.rabbitmq.queue_counts("low").ready == 1 + BEHIND - done - THREADS,
        timeout_seconds=PATIENCE_SECONDS,
        message=f"It does not hold {THREADS} messages ({done} are done)",
    )


def test_customer_service_has_a_process_of_its_own() -> None:
    served = [
        set(match[1].split())
        for match in re.finditer(
            r"dramatiq workers --queues ([\w ]+)", (REPOSITORY / "Procfile").read_text()
        )
    ]
    assert sorted(queue for queues in served for queue in queues) == sorted(QUEUES)
    assert {"customer_service"} in served
