"""Trap 11: RabbitMQ closes a channel whose message is not acknowledged within `consumer_timeout`
(30 minutes), and delivers it again, though it runs.

So limits and delays lie below it, and the claim takes what comes all the same.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.probes import PATIENCE_SECONDS, Service, log_lines
from tests.rig.rabbitmq import RabbitMQ
from tests.rig.waiting import eventually
from tests.traps.messages import message
from workers.settings import Settings

pytest_plugins = ["tests.probe_fixtures"]

CONSUMER_TIMEOUT_SECONDS = 30 * 60


@pytest.fixture
def impatient(clean_rabbitmq: RabbitMQ) -> Iterator[RabbitMQ]:
    """A broker that waits two seconds for an acknowledgement."""

    def set_milliseconds(timeout: int, look: int) -> None:
        for name, value in (("consumer_timeout", timeout), ("channel_tick_interval", look)):
            clean_rabbitmq.ctl("eval", f"application:set_env(rabbit, {name}, {value}).")

    set_milliseconds(2_000, 500)
    yield clean_rabbitmq
    set_milliseconds(CONSUMER_TIMEOUT_SECONDS * 1000, 60_000)


def test_the_trap_is_there(impatient: RabbitMQ, service: Service, tmp_path: Path) -> None:
    # Given a job of stock dramatiq that takes longer
    service.processes.start(
        *("dramatiq", "tests.traps.stock", "--processes", "1", "--threads", "2"), env=service.env
    )
    service.declare("default")
    impatient.publish("default", message("wait_for_go", str(tmp_path)))

    # Then it runs twice at the same time
    eventually(lambda: len(list(tmp_path.glob("begun-*"))) == 2, timeout_seconds=PATIENCE_SECONDS)
    assert not list(tmp_path.glob("ended-*"))


@pytest.mark.usefixtures("impatient")
def test_a_long_run_is_done_once_all_the_same(service: Service) -> None:
    # Given a run that takes longer
    worker = service.start_worker()
    key = service.send("probe_gated", gate="gate")

    # When it is delivered again while it runs
    eventually(
        lambda: any(line.get("outcome") == "postponed" for line in log_lines(worker)),
        timeout_seconds=PATIENCE_SECONDS,
    )
    service.open_gate("gate")

    # Then it ends well, and once
    run = service.wait_for_run(key)
    assert (run.status, run.attempt) == ("succeeded", 1)
    assert service.effects(key) == 2


def test_limits_and_delays_are_within_what_rabbitmq_allows() -> None:
    from workers import app

    assert Settings().soft_time_limit_seconds < CONSUMER_TIMEOUT_SECONDS
    assert Settings().hard_time_limit_seconds <= CONSUMER_TIMEOUT_SECONDS
    delays = [actor.options["retry_delay_seconds"] for actor in app.broker.actors.values()]
    # Another message of a run that is to be retried waits for two delays.
    assert 2 * 1.1 * max(delays) < CONSUMER_TIMEOUT_SECONDS
