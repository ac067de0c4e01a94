"""Trap 6: beside a job of every 30 seconds, periodiq sends a cron job at :00 and again at :30.

It wakes for the one and asks all, and its cron looks at the minute only. So a ticker remembers
which slot was sent.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import dramatiq
import pendulum
import periodiq
import pytest
import time_machine

from workers.broker import InProcessBroker, build_broker
from workers.database import Database
from workers.job import Job, Run
from workers.periodic import cron, every
from workers.settings import Settings

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


def test_the_trap_is_there() -> None:
    at_the_half_minute = pendulum.instance(NOON + timedelta(seconds=30))

    assert periodiq.cron("*/5 * * * *").validate(at_the_half_minute)


@pytest.fixture
def broker() -> Iterator[InProcessBroker]:
    database = Database("postgresql+psycopg2://nobody@127.0.0.1:1/never-asked")
    broker = build_broker(Settings(), database, (), in_process=True)
    assert isinstance(broker, InProcessBroker)
    broker.is_embedded = True
    yield broker
    broker.close()


@pytest.fixture
def wake_up(
    broker: InProcessBroker, monkeypatch: pytest.MonkeyPatch
) -> Callable[[datetime], Counter[str]]:
    """Let the stock scheduler wake up at a given time, and return what it then sends."""
    for name in ("sleep", "alarm", "signal"):
        monkeypatch.setattr(periodiq, name, lambda *_: None)
    scheduler: list[periodiq.Scheduler] = []

    def wake_up(moment: datetime) -> Counter[str]:
        if not scheduler:
            scheduler.append(periodiq.Scheduler(actors=list(broker.actors.values())))
        with time_machine.travel(moment, tick=False):
            scheduler[0].schedule()
        queue = broker.queues["default"]
        messages = [dramatiq.Message.decode(queue.get_nowait()) for _ in range(queue.qsize())]
        return Counter(message.actor_name for message in messages)

    return wake_up


def test_each_slot_is_sent_once_however_often_the_scheduler_wakes(
    broker: InProcessBroker, wake_up: Callable[[datetime], Counter[str]]
) -> None:
    # Given a cron job of every two minutes, beside one of every 30 seconds
    def job(_run: Run) -> None:
        raise AssertionError("it is only sent")

    declare = dramatiq.actor
    for name, spec in (("cron", cron("*/2 * * * *")), ("often", every(seconds=30))):
        declare(actor_class=Job, broker=broker, actor_name=name, periodic=spec)(job)

    # When the stock scheduler runs from noon on
    sent = [wake_up(NOON + timedelta(seconds=30 * number)) for number in range(9)]

    # Then each has one message for each of its slots
    assert [counts["cron"] for counts in sent] == [1, 0, 0, 0, 1, 0, 0, 0, 1]
    assert [counts["often"] for counts in sent] == [1] * 9
