"""Trap 5: periodiq's cron never fires on a Sunday, and counts to the wrong one for ``7``.

So cron expressions are read by cronsim.
"""

from datetime import UTC, datetime, timedelta

import pendulum
import periodiq
import pytest

from workers.periodic import Ticker, cron

SATURDAY = datetime(2026, 11, 21, 12, tzinfo=UTC)
SUNDAY = datetime(2026, 11, 22, tzinfo=UTC)


@pytest.mark.parametrize("day", ["0", "sun"])
def test_the_trap_is_there(day: str) -> None:
    spec = periodiq.cron(f"0 0 * * {day}")

    assert not spec.validate(pendulum.instance(SUNDAY))


def test_the_trap_is_there_for_7() -> None:
    following = periodiq.cron("0 0 * * 7").next_valid_date(pendulum.instance(SATURDAY))

    assert following == SUNDAY + timedelta(weeks=1)


@pytest.mark.parametrize("day", ["0", "7", "sun", "SUN", "6-7", "0,3"])
def test_sundays_fire_on_sundays(day: str) -> None:
    # Given a scheduler that has sent what was due until Saturday noon
    ticker = Ticker(cron(f"0 0 * * {day}"), clock=lambda: SATURDAY)
    ticker.handed_over(ticker.spec.slot_at(SATURDAY))
    assert not ticker.validate(pendulum.instance(SATURDAY))

    # Then it wakes on Sunday, and has something to send
    assert ticker.next_valid_date(pendulum.instance(SATURDAY)) == SUNDAY
    assert ticker.validate(pendulum.instance(SUNDAY))
    assert ticker.slot_of({"scheduled_at": str(pendulum.instance(SUNDAY))}) == SUNDAY
