"""Trap 14: the dead-letter queue drops messages after 7 days, and dramatiq has no tool to send them
again before that.

So the ledger keeps each dead run with its error, and ``dead-letters requeue`` sends messages again.
"""

import json
from collections.abc import Iterator

import pytest

from tests.probes import Service
from tests.rig.rabbitmq import RabbitMQ
from tests.rig.waiting import eventually

pytest_plugins = ["tests.probe_fixtures"]


@pytest.fixture
def no_dead_letters(clean_rabbitmq: RabbitMQ) -> Iterator[None]:
    """Let RabbitMQ keep dead letters for a millisecond, not 7 days."""
    clean_rabbitmq.ctl("set_policy", "short", r"\.XQ$", json.dumps({"message-ttl": 1}))
    yield
    clean_rabbitmq.ctl("clear_policy", "short")


@pytest.mark.usefixtures("no_dead_letters")
def test_a_run_outlives_its_dead_letter(service: Service) -> None:
    service.start_worker()

    # When a run uses up its attempts, and its dead letter is gone
    key = service.send("probe_last_statement_fails")
    run = service.wait_for_run(key, "dead")
    eventually(lambda: service.rabbitmq.queue_counts("default").ready == 0)
    eventually(lambda: service.rabbitmq.queue_counts("default.XQ").ready == 0)

    # Then the ledger still says what it was, and why
    assert (run.job, run.attempt) == ("probe_last_statement_fails", 2)
    assert run.error
    assert "division by zero" in run.error.splitlines()[0]
    assert "Traceback (most recent call last)" in run.error


def test_a_dead_letter_can_be_sent_again(service: Service) -> None:
    # Given a run that failed until it was a dead letter, for a reason that is then mended
    service.do("ALTER TABLE probe_effects RENAME TO mislaid")
    service.start_worker()
    key = service.send("probe_effect")
    service.wait_for_dead_letters(key)
    service.do("ALTER TABLE mislaid RENAME TO probe_effects")

    # When it is sent again
    done = service.processes.run(
        *("python", "-m", "workers", "dead-letters", "requeue", "--all"), env=service.env
    )
    assert done.stdout == f"Sent {key} again.\n"

    # Then the run is done, under its own name, and no dead letter is left
    assert service.wait_for_run(key, "succeeded").attempt == 5
    assert service.effects(key) == 1
    service.wait_for_dead_letters()
