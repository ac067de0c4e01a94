"""Slots are computed, in UTC, the same by everybody; tickers offer them until they are taken."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.periodic import (
    SCHEDULE,
    Entry,
    ScheduleError,
    Spec,
    Ticker,
    check_schedule,
    cron,
    daily,
    every,
)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


NOON = at("2026-11-23 12:00")

moments = st.datetimes(
    min_value=NOON.replace(year=2000, tzinfo=None),
    max_value=NOON.replace(year=2090, tzinfo=None),
    timezones=st.just(UTC),
)
specs = st.one_of(
    st.integers(1, 100_000).map(lambda seconds: every(seconds=seconds)),
    st.times().map(lambda time: daily(f"{time:%H:%M}")),
    st.sampled_from(["* * * * *", "*/5 * * * *", "0 3 * * *", "30 4 1,15 * 5", "0 0 * * 0"]).map(
        cron
    ),
)


@given(specs, moments)
def test_a_slot_is_the_latest_that_is_not_after_the_moment(spec: Spec, moment: datetime) -> None:
    slot, upcoming = spec.slot_at(moment), spec.next_after(moment)

    assert slot <= moment < upcoming
    assert spec.slot_at(slot) == slot
    assert spec.next_after(slot) == upcoming
    assert spec.slot_at(upcoming) == upcoming
    assert spec.slot_at(upcoming - timedelta(microseconds=1)) == slot


@given(specs, moments, st.integers(-14, 14))
def test_a_slot_does_not_depend_on_the_time_zone_of_whoever_asks(
    spec: Spec, moment: datetime, hours: int
) -> None:
    elsewhere = moment.astimezone(timezone(timedelta(hours=hours)))

    assert spec.slot_at(elsewhere) == spec.slot_at(moment)
    assert spec.slot_at(elsewhere).utcoffset() == timedelta(0)
    assert spec.next_after(elsewhere) == spec.next_after(moment)


@pytest.mark.parametrize(
    ("spec", "moment", "slot"),
    [
        (every(seconds=30), "2026-11-23 19:30:29.999", "2026-11-23 19:30:00"),
        (every(minutes=10), "2026-11-23 19:30:00", "2026-11-23 19:30:00"),
        (daily("02:00"), "2026-11-23 01:59:59", "2026-11-22 02:00:00"),
        (daily("02:00"), "2026-11-23 14:00:00", "2026-11-23 02:00:00"),
        (cron("0 0 29 2 *"), "2026-11-23 00:00:00", "2024-02-29 00:00:00"),
    ],
)
def test_slots_fall_where_people_expect_them(spec: Spec, moment: str, slot: str) -> None:
    assert spec.slot_at(at(moment)) == at(slot)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: every(seconds=0), "at least 1 second"),
        (lambda: every(seconds=-30), "at least 1 second"),
        (lambda: daily("25:00"), "no time of day"),
        (lambda: daily("two"), "no time of day"),
        (lambda: cron("0 0 31 2 *"), "'0 0 31 2 *'"),
        (lambda: cron("0 0 * *"), "Wrong number of fields"),
        (lambda: cron("61 * * * *"), "Bad minute"),
    ],
)
def test_an_impossible_spec_is_refused_where_it_is_written(make: object, reason: str) -> None:
    assert callable(make)
    with pytest.raises(ScheduleError, match=reason.replace("*", r"\*")):
        make()


def test_a_schedule_may_only_name_actors_that_exist() -> None:
    with pytest.raises(ScheduleError, match=r"no actor named 'clean_up'; did you mean 'cleanup'\?"):
        check_schedule([Entry("clean_up", every(seconds=1))], ["cleanup"])


def test_a_job_may_stand_in_the_schedule_once() -> None:
    entry = Entry("cleanup", every(seconds=1))

    with pytest.raises(ScheduleError, match="'cleanup' stands there twice"):
        check_schedule([entry, entry], ["cleanup"])


def test_the_schedule_says_in_words_when_things_happen() -> None:
    words = {entry.job: str(entry.spec) for entry in SCHEDULE}

    assert words["process_customer_service_queue"] == "every 30 s"
    assert words["cleanup_long_inactive_chats"] == "daily at 02:00 UTC"


class Clock:
    def __init__(self, now: datetime) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now


def test_a_scheduler_that_starts_offers_the_current_slot_at_once() -> None:
    assert Ticker(daily("02:00")).validate(NOON)


def test_a_slot_is_offered_until_the_broker_has_it() -> None:
    # Given a scheduler whose message the broker refuses
    ticker = Ticker(every(seconds=30), clock=Clock(NOON))
    assert ticker.validate(NOON)

    # Then it looks again soon, and still offers the slot
    soon = ticker.next_valid_date(NOON)
    assert NOON < soon < NOON + timedelta(seconds=30)
    assert ticker.validate(soon)

    # And when the broker has taken it, it waits for the next
    ticker.handed_over(NOON)
    assert not ticker.validate(soon)
    assert ticker.next_valid_date(NOON) == NOON + timedelta(seconds=30)


def test_a_late_wake_up_offers_the_latest_slot_only() -> None:
    ticker = Ticker(every(seconds=30))
    ticker.handed_over(NOON)
    late = NOON + timedelta(seconds=95)

    assert ticker.validate(late)
    assert ticker.slot_of({"scheduled_at": late.isoformat()}) == NOON + timedelta(seconds=90)


def test_a_clock_that_is_set_back_lets_the_schedule_go_on_from_there() -> None:
    # Given slots that were sent while the clock was five minutes ahead
    clock = Clock(NOON)
    ticker = Ticker(every(seconds=30), clock=clock)
    ahead = NOON + timedelta(minutes=5)
    ticker.handed_over(ahead)

    # Then the present one is offered, and the next is waited for
    assert ticker.validate(NOON)
    ticker.handed_over(NOON)
    assert not ticker.validate(NOON)
    assert ticker.next_valid_date(NOON) == NOON + timedelta(seconds=30)

    # And what was sent ahead is not sent again
    assert not ticker.validate(ahead)


def test_a_clock_that_is_set_back_while_slots_are_sent_lets_nobody_sleep_till_it_is_back() -> None:
    ticker = Ticker(every(seconds=30), clock=Clock(NOON))
    woke = NOON + timedelta(hours=1)
    ticker.handed_over(woke)
    ticker.handed_over(NOON)

    assert ticker.next_valid_date(woke) == NOON + timedelta(seconds=30)


def test_the_time_at_which_periodiq_wakes_may_be_rounded_up() -> None:
    ticker = Ticker(every(seconds=30), clock=Clock(NOON - timedelta(seconds=0.4)))
    ticker.handed_over(NOON)

    assert ticker.next_valid_date(NOON) == NOON + timedelta(seconds=30)


def test_the_next_look_is_after_now_even_if_sending_took_longer_than_an_interval() -> None:
    ticker = Ticker(every(seconds=1), clock=Clock(NOON + timedelta(seconds=10)))
    ticker.handed_over(NOON + timedelta(seconds=10))

    assert ticker.next_valid_date(NOON) == NOON + timedelta(seconds=11)


@pytest.mark.parametrize("scheduled_at", ["soon", "", 5, None, "2026-13-01T00:00:00Z"])
def test_a_message_with_a_garbled_time_is_told_so(scheduled_at: object) -> None:
    with pytest.raises(ValueError, match="scheduled_at is no time"):
        Ticker(every(seconds=30)).slot_of({"scheduled_at": scheduled_at})


def test_a_message_without_a_time_is_on_demand() -> None:
    assert Ticker(every(seconds=30)).slot_of({}) is None
