"""What a snapshot says is wrong. Nothing is a problem that could not be found out."""

from collections.abc import Iterator

from workers.status.problems import KINDS, Problem
from workers.status.snapshot import JobStatus, QueueStatus, Status

OUTBOX_OLD_SECONDS = 60
"""A relay publishes within a second or so; one that takes over, within some ten."""

BACKLOG_MESSAGES = 1000
"""More than any schedule sends within an hour."""


def diagnose(status: Status) -> tuple[Problem, ...]:
    """Return all problems, in the order of `KINDS`: the causes before what follows from them."""
    order = list(KINDS)
    found = [*_of_parts(status), *_of_processes(status)]
    for queue in status.queues:
        found += _of_queue(queue, is_worker_expected=status.broker.is_reachable)
    for job in status.jobs:
        found += _of_job(job)
    return tuple(sorted(found, key=lambda problem: order.index(problem.code)))


def _of_parts(status: Status) -> Iterator[Problem]:
    if not status.database.is_reachable:
        reason = status.database.reason
        yield Problem(code="database_away", summary=f"The database cannot be reached: {reason}")
    if status.schema.is_current is False:
        yield Problem(
            code="schema_behind", summary=f"The schema does not fit: {status.schema.reason}"
        )
    if not status.broker.is_reachable:
        reason = status.broker.reason
        yield Problem(code="broker_away", summary=f"RabbitMQ cannot be reached: {reason}")
    outbox = status.outbox
    if outbox and outbox.oldest_seconds > OUTBOX_OLD_SECONDS:
        waiting = f"{_some(outbox.messages, 'message')} and {_some(outbox.events, 'event')}"
        age = in_words(outbox.oldest_seconds)
        yield Problem(
            code="outbox_old",
            summary=f"{waiting} wait in the outbox to be published, the oldest for {age}",
        )


def _of_processes(status: Status) -> Iterator[Problem]:
    if status.processes is None:
        return
    alive = [process for process in status.processes if not process.is_silent]
    if not any(process.kind == "scheduler" for process in alive):
        silent = [each.seen_seconds_ago for each in status.processes if each.kind == "scheduler"]
        last = f"; the last was seen {in_words(min(silent))} ago" if silent else ""
        yield Problem(code="no_scheduler", summary=f"No scheduler is alive{last}")
    active = [each.name for each in alive if each.kind == "standby" and each.state == "active"]
    if active:
        yield Problem(
            code="standby_active",
            summary=f"RabbitMQ is away, and a standby runs the schedule: {', '.join(active)}",
        )


def _of_queue(queue: QueueStatus, *, is_worker_expected: bool) -> Iterator[Problem]:
    name = queue.name
    if queue.consumers == 0 and is_worker_expected:
        waiting = f"; {_some(queue.ready, 'message')} wait" if queue.ready else ""
        yield Problem(
            code="no_worker", subject=name, summary=f"No worker serves the queue {name}{waiting}"
        )
    if queue.dead_letters:
        letters = _some(queue.dead_letters, "dead letter")
        yield Problem(code="dead_letters", subject=name, summary=f"The queue {name} has {letters}")
    if queue.ready and queue.ready > BACKLOG_MESSAGES:
        yield Problem(
            code="queue_backlog",
            subject=name,
            summary=f"{queue.ready} messages wait in the queue {name}",
        )


def _of_job(job: JobStatus) -> Iterator[Problem]:
    name = job.name
    if job.overdue_seconds:
        success = job.last_success
        last = f"last succeeded at {success.at:%Y-%m-%d %H:%M:%S} UTC" if success else "never did"
        late = in_words(job.overdue_seconds)
        yield Problem(
            code="job_overdue",
            subject=name,
            summary=f"{name} should have succeeded {late} ago; it {last}",
        )
    if job.has_died_lately:
        yield Problem(
            code="job_dead",
            subject=name,
            summary=f"{_some(job.dead, 'run')} of {name} failed for good",
        )
    if job.failed_repeatedly:
        yield Problem(
            code="job_failing",
            subject=name,
            summary=f"{_some(job.failed_repeatedly, 'run')} of {name} failed more than once, "
            "and will be tried again",
        )
    if job.stuck:
        yield Problem(
            code="run_stuck",
            subject=name,
            summary=f"{_some(job.stuck, 'run')} of {name} began, or failed, longer ago than any "
            "run may take, and nothing followed",
        )


def _some(count: int | None, noun: str) -> str:
    return f"{count or 0} {noun}{'' if count == 1 else 's'}"


def in_words(seconds: float) -> str:
    """Say a duration as people do, in its largest unit."""
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length:.0f} {unit}"
    return f"{seconds:.0f} s"
