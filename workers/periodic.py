"""When jobs are due: slots, the schedule, and what the stock ``periodiq`` scheduler asks of it.

A *slot* is one due time of one job: 19:30:00 for a job of every 30 seconds. Slots are computed,
not remembered: `every` and `cron` are pure and answer two questions, which slot is the latest at a
given time (`slot_at`) and which comes next (`next_after`). They are in UTC and anchored to the
epoch, so that any number of schedulers, on any machine, at any time, name the same slots.

A `Ticker` stands between such a spec and periodiq. It remembers one thing, which slots this
scheduler handed to the broker lately, and offers the current slot until it is handed over. That one
rule gives catch-up (at start no slot was handed over, so each job's current slot is offered), late
wake-ups, a broker that refuses messages for a while, and a clock that is stepped back (were it
"nothing before the last slot", the schedule would stand still for the length of the step). Offering
a slot too often is harmless: the claim on the run ledger drops what was done already.
"""

import difflib
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, Protocol

from cronsim import CronSim, CronSimError

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
DAY_SECONDS = 86_400

OFFER_AGAIN_SECONDS = 5
"""How soon a slot is offered again that the broker refused."""

REMEMBERED_SLOTS = 64

ROUNDED_UP = timedelta(seconds=1)
"""periodiq rounds the time at which it wakes up by half a second at most."""


class ScheduleError(Exception):
    """The schedule is wrong; the message says what to change."""


class Spec(Protocol):
    """When a job is due. Implementations are pure: they never read the clock."""

    def slot_at(self, moment: datetime) -> datetime:
        """Return the latest slot that is not after `moment`, in UTC."""

    def next_after(self, moment: datetime) -> datetime:
        """Return the first slot after `moment`, in UTC."""


@dataclass(frozen=True)
class Every:
    """Slots at equal distances, counted from the epoch."""

    seconds: int
    offset_seconds: int = 0

    def slot_at(self, moment: datetime) -> datetime:
        elapsed_seconds = (moment - EPOCH) // timedelta(seconds=1) - self.offset_seconds
        whole_seconds = elapsed_seconds // self.seconds * self.seconds
        return EPOCH + timedelta(seconds=whole_seconds + self.offset_seconds)

    def next_after(self, moment: datetime) -> datetime:
        return self.slot_at(moment) + timedelta(seconds=self.seconds)

    def __str__(self) -> str:
        if self.seconds == DAY_SECONDS:
            at = EPOCH + timedelta(seconds=self.offset_seconds)
            return f"daily at {at:%H:%M} UTC"
        if self.seconds % 60:
            return f"every {self.seconds} s"
        return f"every {self.seconds // 60} min"


@dataclass(frozen=True)
class Cron:
    """Slots of a cron expression, in UTC (parsed by cronsim: Debian's cron rules)."""

    expression: str

    def slot_at(self, moment: datetime) -> datetime:
        # cronsim looks strictly before the moment, in whole minutes; a slot may be right now.
        upper_bound = moment.astimezone(UTC) + timedelta(minutes=1)
        candidates = islice(CronSim(self.expression, upper_bound, reverse=True), 2)
        return next(slot for slot in candidates if slot <= moment)

    def next_after(self, moment: datetime) -> datetime:
        return next(CronSim(self.expression, moment.astimezone(UTC)))

    def __str__(self) -> str:
        return f"cron {self.expression} UTC"


def every(*, seconds: int = 0, minutes: int = 0) -> Every:
    """Make a spec of slots at equal distances.

    Raises:
        ScheduleError: if the distance is not at least one second.
    """
    total_seconds = seconds + 60 * minutes
    if total_seconds < 1:
        raise ScheduleError(f"every(): the interval must be at least 1 second, not {total_seconds}")
    return Every(total_seconds)


def daily(at: str) -> Every:
    """Make a spec of one slot a day, at ``HH:MM`` UTC.

    Raises:
        ScheduleError: if `at` is no time of day.
    """
    try:
        time = datetime.strptime(at, "%H:%M").replace(tzinfo=UTC)
    except ValueError:
        raise ScheduleError(f"daily(): {at!r} is no time of day; write HH:MM, in UTC") from None
    return Every(DAY_SECONDS, time.hour * 3600 + time.minute * 60)


def cron(expression: str) -> Cron:
    """Make a spec from a cron expression of five fields.

    Raises:
        ScheduleError: if the expression cannot be read, or never comes true (30 February).
    """
    try:
        next(CronSim(expression, EPOCH))
    except CronSimError as error:
        raise ScheduleError(f"cron(): {expression!r} is no cron expression: {error}") from None
    except StopIteration:
        raise ScheduleError(f"cron(): {expression!r} never comes true") from None
    return Cron(expression)


@dataclass(frozen=True)
class Entry:
    """One line of the schedule."""

    job: str
    spec: Spec


SCHEDULE = (
    Entry("process_customer_service_queue", every(seconds=30)),
    Entry("auto_end_timeout_chats", every(seconds=30)),
    Entry("send_timeout_warnings", every(seconds=30)),
    Entry("cancel_expired_tasks", every(minutes=1)),
    Entry("check_expired_coupons", every(minutes=5)),
    Entry("check_expired_invitation_codes", every(minutes=5)),
    Entry("check_expired_points", every(minutes=5)),
    Entry("check_and_end_activities", every(minutes=5)),
    Entry("update_all_users_statistics", every(minutes=10)),
    Entry("cleanup_long_inactive_chats", daily("02:00")),
    Entry("update_featured_task_experts_response_time", daily("03:00")),
)
"""All that runs by the clock, in one place; checked by `check_schedule` when a process starts."""


def check_schedule(schedule: Iterable[Entry], jobs: Iterable[str]) -> None:
    """Check a schedule against the jobs that exist.

    Raises:
        ScheduleError: naming the first job that is unknown or stands there twice.
    """
    known, seen = set(jobs), set[str]()
    for entry in schedule:
        if entry.job not in known:
            close = difflib.get_close_matches(entry.job, known, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ScheduleError(f"schedule: there is no actor named {entry.job!r}{hint}")
        if entry.job in seen:
            raise ScheduleError(f"schedule: {entry.job!r} stands there twice; remove one line")
        seen.add(entry.job)


def utc_now() -> datetime:
    """Return the present moment, aware, in UTC."""
    return datetime.now(UTC)


def _plain(moment: datetime) -> datetime:
    """Turn periodiq's pendulum times, whose arithmetic differs, into the standard library's."""
    return datetime.fromtimestamp(moment.timestamp(), UTC)


@dataclass
class Ticker:
    """A spec as the scheduler sees it: which slot is still to be handed to the broker.

    `validate`, `next_valid_date` and `str()` are what periodiq calls.

    Args:
        spec: when the job is due.
        clock: tells the present time.
        on_look: called each time that a scheduler asks when to look again, so that it can be seen
            to live.
    """

    spec: Spec
    clock: Callable[[], datetime] = utc_now
    on_look: Callable[[], None] = field(default=lambda: None, repr=False)
    _handed_over: deque[datetime] = field(default_factory=lambda: deque(maxlen=REMEMBERED_SLOTS))
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def validate(self, moment: datetime) -> bool:
        """Tell whether the current slot at `moment` is still to be handed over."""
        moment = _plain(moment)
        with self._lock:
            return self.spec.slot_at(moment) not in self._handed_over

    def next_valid_date(self, moment: datetime) -> datetime:
        """Return when to look again.

        Counted from the later of `moment` and now, since periodiq calls itself without end when
        sending outlasts an interval. A slot that the broker refused is offered again soon.
        """
        self.on_look()
        moment, now = _plain(moment), self.clock()
        if not now < moment <= now + ROUNDED_UP:
            # It lies behind; or ahead, because the clock was stepped back while slots were sent.
            moment = now
        upcoming = self.spec.next_after(moment)
        if self.validate(moment):
            return min(upcoming, moment + timedelta(seconds=OFFER_AGAIN_SECONDS))
        return upcoming

    def handed_over(self, slot: datetime) -> None:
        """Note that the broker has the message of `slot`."""
        with self._lock:
            if slot not in self._handed_over:
                self._handed_over.append(slot)

    def slot_of(self, options: Mapping[str, Any]) -> datetime | None:
        """Return the slot that a message with these options is for; None if it is on demand.

        periodiq names the time at which it woke, rounded to the second: ``scheduled_at``.

        Raises:
            ValueError: if that is no time.
        """
        if "scheduled_at" not in options:
            return None
        try:
            # One without a time zone is taken for this machine's time, which is all it can mean.
            scheduled_at = datetime.fromisoformat(options["scheduled_at"]).astimezone(UTC)
            return self.spec.slot_at(scheduled_at)
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"the message's scheduled_at is no time: {error}") from None

    def __str__(self) -> str:
        return str(self.spec)
