"""What can be wrong: a code for each, how bad it is, what to do, and where the runbook says more.

Page, ``/readyz``, metrics and alerts know a problem by its code; `workers.status.diagnosis` finds
them.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

ProblemCode = Literal[
    "database_away",
    "schema_behind",
    "broker_away",
    "no_scheduler",
    "no_worker",
    "job_overdue",
    "job_dead",
    "job_failing",
    "run_stuck",
    "outbox_old",
    "standby_active",
    "dead_letters",
    "queue_backlog",
]

Severity = Literal["page", "warning"]
"""Whether somebody is to be woken, or to look at it in the morning."""


class Kind(NamedTuple):
    """What is true of all problems of one code."""

    severity: Severity
    anchor: str
    """The heading in ``docs/runbook.md``, as its address has it."""
    advice: str
    is_blocking: bool = False
    """Whether it keeps the service from its full work, so that it is not ready."""


KINDS: dict[ProblemCode, Kind] = {
    "database_away": Kind(
        "page",
        "the-database-is-away",
        "See that PostgreSQL is up and DATABASE_URL is right. Nothing is lost: messages wait, and "
        "everything goes on by itself when it is back.",
        is_blocking=True,
    ),
    "schema_behind": Kind(
        "page",
        "the-schema-is-behind",
        "Deploy the version of the code that fits, or run: python -m workers migrate",
        is_blocking=True,
    ),
    "broker_away": Kind(
        "page",
        "rabbitmq-is-away",
        "See that RabbitMQ is up and RABBITMQ_URL is right. Nothing is lost: everything goes on by "
        "itself when it is back. To bridge it: python -m workers standby",
        is_blocking=True,
    ),
    "no_scheduler": Kind(
        "page",
        "no-scheduler-is-alive",
        "Start one: periodiq workers. It sends each job's current slot at once.",
        is_blocking=True,
    ),
    "no_worker": Kind(
        "page",
        "a-queue-has-no-workers",
        "Start one: dramatiq workers --queues {subject}",
    ),
    "job_overdue": Kind(
        "page",
        "a-job-is-overdue",
        "Look at its last runs: python -m workers runs --job {subject}. If other jobs are well, "
        "start it: python -m workers trigger {subject} --wait 60",
    ),
    "job_dead": Kind(
        "warning",
        "a-run-failed-for-good",
        "Look why: python -m workers runs --job {subject} --status dead. Once that is mended, send "
        "it again: python -m workers dead-letters requeue --id ID",
    ),
    "job_failing": Kind(
        "warning",
        "a-job-keeps-failing",
        "Look why: python -m workers runs --job {subject} --status retrying",
    ),
    "run_stuck": Kind(
        "warning",
        "a-run-is-stuck",
        "Look at it: python -m workers runs --job {subject} --status running. Restart the worker "
        "that it names; its message is delivered again.",
    ),
    "outbox_old": Kind(
        "page",
        "the-outbox-is-not-published",
        "See that a worker process is alive and RabbitMQ takes messages (an alarm makes it refuse "
        "them). Nothing is lost.",
    ),
    "standby_active": Kind(
        "warning",
        "a-standby-is-active",
        "The schedule is served; what is in RabbitMQ already, and events, wait. Bring RabbitMQ "
        "back, and the standby hands over by itself.",
    ),
    "dead_letters": Kind(
        "warning",
        "dead-letters-are-growing",
        "Look at them within 7 days: python -m workers dead-letters list --queue {subject}. Then "
        "requeue or drop them.",
    ),
    "queue_backlog": Kind(
        "warning",
        "a-queue-is-growing",
        "Start more workers for it: dramatiq workers --queues {subject}",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Something that is wrong, in words that tell what to do."""

    code: ProblemCode
    summary: str
    subject: str = ""
    """The job or the queue that it is about, if it is about one."""

    @property
    def severity(self) -> Severity:
        return KINDS[self.code].severity

    @property
    def is_blocking(self) -> bool:
        """Whether it keeps all jobs from running."""
        return KINDS[self.code].is_blocking

    @property
    def advice(self) -> str:
        """What to do, in one line."""
        return KINDS[self.code].advice.format(subject=self.subject)

    @property
    def anchor(self) -> str:
        return KINDS[self.code].anchor

    @property
    def runbook(self) -> str:
        """Where more is said, from the project's folder on."""
        return f"docs/runbook.md#{self.anchor}"
