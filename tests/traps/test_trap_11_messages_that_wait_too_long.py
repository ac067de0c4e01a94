"""Trap 11: messages that wait for their time are not acknowledged meanwhile, and RabbitMQ closes
the channel of whoever keeps one for longer than ``consumer_timeout``: 30 minutes, unless told.

So infra/rabbitmq allows more than any message may wait (see tests/test_rabbitmq_files.py). Where
nobody can set it, what was taken back is delivered again, and is still run once, at its time.
"""

from collections.abc import Iterator
from datetime import timedelta

import pytest

from tests.probes import PATIENCE_SECONDS, Service
from tests.rig.rabbitmq import RabbitMQ
from workers.periodic import utc_now

pytest_plugins = ["tests.probe_fixtures"]

WAIT = timedelta(seconds=6)


@pytest.fixture
def _is_impatient(clean_rabbitmq: RabbitMQ) -> Iterator[None]:
    """RabbitMQ takes back after a second what is not acknowledged, and looks each second."""
    clean_rabbitmq.ctl("eval", set_times(timeout="1000", tick="1000"))
    yield
    clean_rabbitmq.ctl("eval", set_times(timeout="1800000", tick="60000"))


@pytest.mark.usefixtures("_is_impatient")
def test_what_rabbitmq_takes_back_is_run_once_when_its_time_has_come(service: Service) -> None:
    # Given a worker, and messages that ask it to wait
    worker = service.start_worker()
    due_at = utc_now() + WAIT
    keys = [service.send("probe_effect", due_at=due_at) for _ in range(3)]

    # When RabbitMQ has lost patience more than once
    worker.wait_for_output("PRECONDITION_FAILED", count=2, timeout_seconds=PATIENCE_SECONDS)

    # Then each is run once all the same, and not before its time
    for key in keys:
        run = service.wait_for_run(key)
        assert (run.status, run.attempt) == ("succeeded", 1)
        assert run.started_at is not None
        assert run.started_at >= due_at
        assert service.effects(key) == 1


def set_times(*, timeout: str, tick: str) -> str:
    """Write in Erlang how long a consumer may keep a message, and how often RabbitMQ looks."""
    return (
        f"application:set_env(rabbit, consumer_timeout, {timeout}), "
        f"application:set_env(rabbit, channel_tick_interval, {tick})."
    )
