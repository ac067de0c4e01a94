"""Trap 2: what is raised before an actor is logged and swallowed, and the actor runs all the same.

A session opened there, in vain, would leave the job without a transaction. So it is opened in the
call, and a database that is away means: later, and no attempt is used.
"""

from contextlib import closing
from typing import Any

import dramatiq
from dramatiq.brokers.stub import StubBroker

from tests.probes import PATIENCE_SECONDS, Service, Workshop
from tests.rig.ports import free_ports
from tests.rig.postgres import Postgres
from workers.database import Database
from workers.job import Run

pytest_plugins = ["tests.probe_fixtures"]


def test_the_trap_is_there() -> None:
    class Session(dramatiq.Middleware):
        def before_process_message(self, *_: Any) -> None:
            raise ConnectionError("no database")

    broker = StubBroker()
    broker.add_middleware(Session())
    calls: list[str] = []
    job = dramatiq.actor(broker=broker)(lambda: calls.append("without a session"))

    job.send()
    worker = dramatiq.Worker(broker, worker_threads=1, worker_timeout=10)
    worker.start()
    broker.join("default")
    worker.stop()

    assert calls == ["without a session"]


def test_no_job_is_called_while_the_database_is_away() -> None:
    # Given a database that cannot be reached
    (port,) = free_ports(1)
    database = Database(f"postgresql+psycopg2://nobody@127.0.0.1:{port}/nothing")
    calls: list[Run] = []

    # When a message is delivered
    with closing(Workshop(database)) as workshop:
        job = workshop.job(calls.append, actor_name="job", retry_delay_seconds=100)
        sent = workshop.wait_until_sent_again(workshop.send(job))

    # Then it comes back, after the delay of its job
    assert calls == []
    assert 90 <= sent.delay_seconds <= 110


def test_a_message_waits_for_the_database_and_uses_no_attempt(
    service: Service, postgres: Postgres
) -> None:
    # Given a worker that has run something already, and a database that went away
    worker = service.start_worker()
    service.wait_for_run(service.send("probe_effect"), "succeeded")
    postgres.stop()
    try:
        # When a message is delivered
        key = service.send("probe_effect")
        worker.wait_for_output('"postponed"', timeout_seconds=PATIENCE_SECONDS)
    finally:
        postgres.start()

    # Then it is done when the database is back, at the first attempt
    run = service.wait_for_run(key)
    assert (run.status, run.attempt) == ("succeeded", 1)
    assert service.effects(key) == 1
    assert service.dead_letters() == []
