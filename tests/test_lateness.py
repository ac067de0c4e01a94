"""When a job counts as overdue."""

from datetime import UTC, datetime, timedelta

import pytest

from tests.rig.processes import Processes
from workers.periodic import SCHEDULE, Spec, cron, daily, every
from workers.status.lateness import (
    MAX_GRACE_SECONDS,
    grace_seconds,
    interval_seconds,
    missed_slots,
    overdue_seconds,
    owed_since,
)

NOON = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
SECOND = timedelta(seconds=1)


def late(spec: Spec, succeeded_at: datetime | None, now: datetime, **more: datetime) -> float:
    serving_since = more.get("serving_since")
    owed = owed_since(spec, now, succeeded_at=succeeded_at, serving_since=serving_since)
    return overdue_seconds(spec, now, owed)


@pytest.mark.parametrize(
    ("spec", "grace"),
    [
        (every(seconds=1), 60),
        (every(seconds=30), 60),
        (every(minutes=5), 600),
        (every(minutes=10), 1200),
        (daily("02:00"), 3600),
        (cron("0 * * * *"), 3600),
    ],
    ids=str,
)
def test_the_grace_follows_the_interval(spec: Spec, grace: float) -> None:
    assert grace_seconds(spec, NOON) == grace


def test_a_job_is_overdue_once_its_grace_has_passed_since_it_was_due() -> None:
    half_minutely, done = every(seconds=30), NOON + SECOND
    due = NOON + 30 * SECOND

    assert late(half_minutely, done, due - SECOND) == 0
    assert late(half_minutely, done, due + 60 * SECOND) == 0
    assert late(half_minutely, done, due + 61 * SECOND) == 61


def test_a_nightly_job_is_overdue_after_an_hour() -> None:
    last_night, tonight = NOON.replace(hour=2), NOON.replace(hour=2) + timedelta(days=1)

    assert late(daily("02:00"), last_night + SECOND, tonight) == 0
    assert late(daily("02:00"), last_night + SECOND, tonight + timedelta(hours=1)) == 0
    assert late(daily("02:00"), last_night + SECOND, tonight + timedelta(hours=2)) == 7200


def test_a_success_on_demand_pays_for_the_slots_before_it() -> None:
    at_breakfast = NOON.replace(hour=8)
    assert late(daily("02:00"), at_breakfast, NOON.replace(hour=23)) == 0


def test_a_job_that_never_succeeded_is_overdue_from_when_the_service_began() -> None:
    assert late(daily("02:00"), None, NOON) == 0
    assert late(daily("02:00"), None, NOON, serving_since=NOON - 60 * SECOND) == 0
    assert late(daily("02:00"), None, NOON, serving_since=NOON - timedelta(hours=2)) == 7200
    # And no earlier than it was due
    assert late(daily("02:00"), None, NOON, serving_since=NOON - timedelta(days=9)) == 36_000


def test_missed_slots_are_those_that_a_newer_one_has_replaced() -> None:
    spec, done = every(seconds=30), NOON + SECOND

    def missed(now: datetime) -> int:
        owed = owed_since(spec, now, succeeded_at=done, serving_since=None)
        return missed_slots(spec, now, owed)

    assert [missed(NOON + seconds * SECOND) for seconds in (2, 30, 59, 60, 95)] == [0, 0, 0, 1, 2]


def test_one_retry_comes_within_the_grace_of_every_job(processes: Processes) -> None:
    """Otherwise a single failure would wake somebody."""
    listed = processes.run(
        "python",
        "-c",
        "from workers import app\n"
        "for name, actor in app.broker.actors.items():\n"
        "    print(name, actor.options['retry_delay_seconds'])",
        env={"RABBITMQ_URL": "amqp://localhost"},
    )
    delays = dict(line.split() for line in listed.stdout.splitlines())
    specs = {entry.job: entry.spec for entry in SCHEDULE}
    assert delays.keys() == specs.keys()
    for job, spec in specs.items():
        longest_delay_seconds = float(delays[job]) * 1.1
        assert longest_delay_seconds < grace_seconds(spec, NOON), job
        assert grace_seconds(spec, NOON) <= min(
            MAX_GRACE_SECONDS, max(60, 2 * interval_seconds(spec, NOON))
        )
