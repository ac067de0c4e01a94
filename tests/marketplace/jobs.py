"""The eleven jobs as the tests run them: without a broker, committing at each yield."""

from collections.abc import Callable, Generator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

from workers.batches import Counts
from workers.database import Database
from workers.marketplace import (
    activities,
    assignment,
    experts,
    expiry,
    points,
    retention,
    silence,
    statistics,
    tasks,
)

NOW = datetime(2026, 11, 23, 23, 30, tzinfo=UTC)

WARNING = timedelta(seconds=60)
TIMEOUT = timedelta(seconds=120)
RETENTION = timedelta(days=30)

Rule = Callable[..., Generator[Counts, None, Counts | None]]

JOBS: dict[str, tuple[Rule, dict[str, Any]]] = {
    "process_customer_service_queue": (assignment.assign_waiting, {}),
    "auto_end_timeout_chats": (silence.end_silent_chats, {"timeout": TIMEOUT}),
    "send_timeout_warnings": (
        silence.warn_silent_chats,
        {"warning": WARNING, "timeout": TIMEOUT},
    ),
    "cancel_expired_tasks": (tasks.cancel_expired_tasks, {}),
    "check_expired_coupons": (expiry.expire_coupons, {}),
    "check_expired_invitation_codes": (expiry.expire_invitation_codes, {}),
    "check_expired_points": (points.expire_points, {}),
    "check_and_end_activities": (activities.end_activities, {}),
    "update_all_users_statistics": (statistics.update_statistics, {}),
    "cleanup_long_inactive_chats": (retention.delete_old_chats, {"retention": RETENTION}),
    "update_featured_task_experts_response_time": (experts.update_experts, {}),
}
"""By the names of their actors: each job's rule, and the settings it is called with."""


def run_batches(
    database: Database, job: str, *, now: datetime = NOW, batch_size: int = 10_000
) -> Generator[Counts, None, None]:
    """Run a job as the middleware does, one transaction a batch, and give the counts of each."""
    rule, settings = JOBS[job]
    is_finished = False
    with (
        database.lease() as lease,
        closing(rule(lease.session, now, batch_size=batch_size, **settings)) as batches,
    ):
        while not is_finished:
            with lease.transaction():
                try:
                    batch = next(batches)
                except StopIteration as stop:
                    batch, is_finished = stop.value, True
            yield batch or {}


def run_job(
    database: Database, job: str, *, now: datetime = NOW, batch_size: int = 10_000
) -> Counts:
    """Run a job to its end, and return its counts."""
    counts: Counts = {}
    for batch in run_batches(database, job, now=now, batch_size=batch_size):
        for name, count in batch.items():
            counts[name] = counts.get(name, 0) + count
    return counts
