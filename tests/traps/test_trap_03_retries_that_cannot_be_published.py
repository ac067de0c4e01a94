"""Trap 3: a retry is published after the actor; when that fails, the message is acknowledged.

So it is dead-lettered instead, and the ledger says so.
"""

import json
from collections.abc import Iterator

import pytest

from tests.probes import Service
from tests.rig.rabbitmq import RabbitMQ

pytest_plugins = ["tests.probe_fixtures"]


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
