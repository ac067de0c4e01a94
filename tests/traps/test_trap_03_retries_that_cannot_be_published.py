"""Trap 3: a retry is published after the actor; when that fails, the message is acknowledged.

So it is dead-lettered instead, and the ledger says so.
"""

import json
from collections.abc import Iterator
from typing import Any

import dramatiq
import pytest
from dramatiq.brokers.stub import StubBroker
from dramatiq.errors import ConnectionClosed

from tests.probes import Service
from tests.rig.rabbitmq import RabbitMQ

pytest_plugins = ["tests.probe_fixtures"]


def test_the_trap_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given dramatiq's own middleware, and a job that fails while the broker takes nothing
    broker = StubBroker()

    def fail_and_break_the_broker() -> None:
        monkeypatch.setattr(broker, "enqueue", refuse)
        raise LookupError("not found")

    def refuse(*_: Any, **__: Any) -> None:
        raise ConnectionClosed(OSError("refused"))

    job = dramatiq.actor(broker=broker)(fail_and_break_the_broker)
    job.send()
    worker = dramatiq.Worker(broker, worker_threads=1, worker_timeout=10)
    worker.start()
    broker.join("default")
    worker.stop()

    # Then its message is gone
    assert broker.dead_letters == []


@pytest.fixture
def no_delayed_messages(clean_rabbitmq: RabbitMQ) -> Iterator[None]:
    """Let RabbitMQ refuse whatever is published to the queue where retries wait."""
    definition = json.dumps({"max-length": 0, "overflow": "reject-publish"})
    clean_rabbitmq.ctl("set_policy", "full", r"^default\.DQ$", definition)
    yield
    clean_rabbitmq.ctl("clear_policy", "full")


@pytest.mark.usefixtures("no_delayed_messages")
def test_a_retry_that_cannot_be_published_is_dead_lettered(service: Service) -> None:
    service.start_worker()

    # When a job fails that has an attempt left, and RabbitMQ refuses its retry
    key = service.send("probe_last_statement_fails")

    # Then the message is kept, and the run is dead, and tells why
    service.wait_for_dead_letters(key)
    run = service.wait_for_run(key, "dead")
    assert run.attempt == 1
    assert run.error
    assert run.error.startswith("Its retry could not be published.")
    assert "division by zero" in run.error
