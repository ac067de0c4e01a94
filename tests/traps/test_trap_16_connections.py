"""Trap 16: every queue costs a process several connections to RabbitMQ, and every thread that
publishes one more. Small hosted plans allow 20 in all.

So ``check`` adds up what the Procfile starts (`workers.connections`). Here its figures are held
against what real processes open.
"""

from urllib.parse import urlsplit

import psutil

from tests.probes import PATIENCE_SECONDS, Service
from tests.rig.processes import Process
from tests.rig.waiting import eventually
from workers.connections import Need, budget

pytest_plugins = ["tests.probe_fixtures"]

THREADS = 3


def need(line: str) -> Need:
    return budget(line, {}).total


def test_workers_open_as_many_as_they_are_said_to(service: Service) -> None:
    expected = need(
        f"worker: dramatiq workers --queues default low --processes 1 --threads {THREADS}"
    )

    # Given a worker whose threads have all sent a retry, also of the second queue
    worker = service.start_worker("default", "low", threads=THREADS)
    failing = [service.send("probe_last_statement_fails") for _ in range(2 * THREADS)]
    nightly = service.send("probe_nightly", queue="low", fails=True)
    service.wait_for_dead_letters(*failing)
    service.wait_for_dead_letters(nightly, queue="low")

    # And that are all busy
    for _ in range(THREADS):
        service.send("probe_gated", gate="gate")
    eventually(
        lambda: to_postgresql(service) >= expected.postgresql - 1,
        timeout_seconds=PATIENCE_SECONDS,
        message="Its threads are not busy",
    )

    # Then it has no more connections than that, and hardly less. Which consumers opened one to
    # publish on depends on who declared the queues, and the sign of life comes and goes.
    queues = 2
    assert to_rabbitmq(service, worker) in range(expected.rabbitmq - queues, expected.rabbitmq + 1)
    assert to_postgresql(service) <= expected.postgresql
    service.open_gate("gate")


def test_schedulers_open_as_many_as_they_are_said_to(service: Service) -> None:
    service.declare("low", "default")
    scheduler = service.start_scheduler()
    eventually(
        lambda: service.rabbitmq.queue_counts("low").ready > 1, timeout_seconds=PATIENCE_SECONDS
    )

    expected = need("scheduler: periodiq workers")
    assert to_rabbitmq(service, scheduler) == expected.rabbitmq == 1
    assert to_postgresql(service) <= expected.postgresql


def to_rabbitmq(service: Service, process: Process) -> int:
    """Count a process's connections, with those of its children, to RabbitMQ."""
    port = urlsplit(service.rabbitmq.url).port
    parent = psutil.Process(process.pid)
    return sum(
        connection.status == psutil.CONN_ESTABLISHED and connection.raddr.port == port
        for each in (parent, *parent.children(recursive=True))
        for connection in each.net_connections("tcp")
    )


def to_postgresql(service: Service) -> int:
    """Count the connections to the test's database but that which asks."""
    return int(
        service.ask(
            """
            SELECT count(*) FROM pg_stat_activity
            WHERE datname = current_database() AND pid <> pg_backend_pid()
            """
        )
    )
