"""When a job counts as overdue: the one place that says so.

A job owes a success for the first slot after its last one. It looks at all that is due, so that any
success, also of a run on demand, pays for all slots before it. It is *overdue* once it has owed it
for longer than its grace: two intervals, but at least a minute and at most an hour.

Why these: every job's retry comes within its grace (a test compares them), so that one failure, a
restart, or a skipped slot wakes nobody; a job of 30 seconds is missed after a minute, which is as
soon as a silent process is; and a nightly job is missed an hour after its time, long before the
next night. Jobs that take longer than that to succeed are not on time either.
"""

from datetime import datetime

from workers.periodic import Spec

MIN_GRACE_SECONDS = 60
MAX_GRACE_SECONDS = 3600


def interval_seconds(spec: Spec, now: datetime) -> float:
    """Return the distance between the current slot and the next."""
    return (spec.next_after(now) - spec.slot_at(now)).total_seconds()


def grace_seconds(spec: Spec, now: datetime) -> float:
    """Return for how long a job may owe a success before it is overdue."""
    return min(max(2 * interval_seconds(spec, now), MIN_GRACE_SECONDS), MAX_GRACE_SECONDS)


def owed_since(
    spec: Spec, now: datetime, *, succeeded_at: datetime | None, serving_since: datetime | None
) -> datetime | None:
    """Return since when a job has owed a success; None if it owes none.

    Args:
        spec: when the job is due.
        now: the time.
        succeeded_at: when it last succeeded.
        serving_since: when the service began its work, which counts if it never did.
    """
    if succeeded_at is not None:
        due = spec.next_after(succeeded_at)
    elif serving_since is not None:
        due = max(spec.slot_at(now), serving_since)
    else:
        return None
    return due if due <= now else None


def overdue_seconds(spec: Spec, now: datetime, owed: datetime | None) -> float:
    """Return for how long a job has owed a success, if that is longer than its grace; else 0."""
    if owed is None:
        return 0.0
    seconds = (now - owed).total_seconds()
    return seconds if seconds > grace_seconds(spec, now) else 0.0


def missed_slots(spec: Spec, now: datetime, owed: datetime | None) -> int:
    """Return how many slots have passed since then that a newer one has replaced."""
    if owed is None:
        return 0
    passed_seconds = (spec.slot_at(now) - spec.slot_at(owed)).total_seconds()
    return max(0, round(passed_seconds / interval_seconds(spec, now)))
