"""What the page may have to show: histories of runs, written into the ledger as workers would."""

import random
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import text

from workers.database import Database
from workers.models import JobRun, RunStatus, ServiceProcess
from workers.periodic import SCHEDULE, utc_now

RUNS = 50

QUEUES = {
    "process_customer_service_queue": "customer_service",
    "auto_end_timeout_chats": "customer_service",
    "send_timeout_warnings": "customer_service",
    "update_all_users_statistics": "low",
    "cleanup_long_inactive_chats": "low",
    "update_featured_task_experts_response_time": "low",
}

COUNTS = {
    "process_customer_service_queue": ("assigned", "waiting"),
    "auto_end_timeout_chats": ("ended",),
    "send_timeout_warnings": ("warned",),
    "cancel_expired_tasks": ("cancelled",),
    "check_expired_coupons": ("coupons", "user_coupons"),
    "check_expired_invitation_codes": ("codes",),
    "check_expired_points": ("lots", "points", "users", "mismatched"),
    "check_and_end_activities": ("activities", "tasks"),
    "update_all_users_statistics": ("users",),
    "cleanup_long_inactive_chats": ("chats", "messages"),
    "update_featured_task_experts_response_time": ("experts",),
}

USUAL_SECONDS = {"check_expired_coupons": 0.4, "update_all_users_statistics": 2.4}

ERROR = """\
OperationalError: canceling statement due to statement timeout

Traceback (most recent call last):
  File "workers/middleware/transaction.py", line 96, in __call__
    counts = self._call(run, *args, **kwargs)
  File "workers/actors/expiry.py", line 12, in check_expired_coupons
    return expiry.expire_coupons(run.session, run.now, batch_size=run.batch_size)
  File "workers/marketplace/expiry.py", line 58, in expire_coupons
    rows = session.execute(EXPIRE_USER_COUPONS, {"now": now, "limit": batch_size})
psycopg2.errors.QueryCanceled: canceling statement due to statement timeout
"""


def write_past(database: Database, *, until: datetime | None = None) -> None:
    """Let every job of the schedule have run at its last fifty slots, some of them not so well."""
    until = until or utc_now()
    chance = random.Random(7)
    runs: list[JobRun] = []
    for entry in SCHEDULE:
        slot = entry.spec.slot_at(until)
        slots: list[datetime] = []
        while len(slots) < RUNS:
            slots.append(slot)
            slot = entry.spec.slot_at(slot - timedelta(seconds=1))
        runs += (_past_run(entry.job, slot, chance) for slot in reversed(slots))
    _add(database, sorted(runs, key=lambda run: run.finished_at or until))


def _past_run(job: str, slot: datetime, chance: random.Random) -> JobRun:
    seconds = USUAL_SECONDS.get(job, 0.03) * chance.lognormvariate(0, 0.45)
    luck = chance.random()
    status: RunStatus = "skipped" if luck < 0.012 else "succeeded"
    attempt = 2 if 0.012 < luck < 0.03 else 1
    started_at = slot + timedelta(seconds=30 if attempt > 1 else 0.2)
    return new_run(
        job,
        slot=slot,
        status=status,
        attempt=0 if status == "skipped" else attempt,
        started_at=None if status == "skipped" else started_at,
        finished_at=started_at + timedelta(seconds=seconds),
        result=None if status == "skipped" else _counts(job, chance),
        error="another run of this job is in progress" if status == "skipped" else None,
        number=chance.getrandbits(120),
    )


def _counts(job: str, chance: random.Random) -> dict[str, int]:
    scale = 4000 if job == "update_all_users_statistics" else 12
    return {
        name: 0 if name == "mismatched" else int(chance.expovariate(1 / scale))
        for name in COUNTS[job]
    }


def write_work_in_hand(database: Database) -> None:
    """Let a long job be in the middle of its work."""
    now = utc_now()
    run = new_run(
        "update_all_users_statistics",
        status="running",
        started_at=now - timedelta(seconds=48),
        result={"users": 140_000},
        number=1,
    )
    _add(database, [run])


def write_failures(database: Database, *, error: str = ERROR) -> None:
    """Let one job have failed for good, and another wait for its third attempt."""
    now = utc_now()
    dead = [
        new_run(
            "check_expired_coupons",
            status="dead",
            attempt=4,
            slot=now.replace(microsecond=0) - timedelta(minutes=5 * ago),
            started_at=now - timedelta(minutes=5 * ago, seconds=31),
            finished_at=now - timedelta(minutes=5 * ago),
            error=error,
            number=10 + ago,
        )
        for ago in (2, 1)
    ]
    retrying = new_run(
        "send_timeout_warnings",
        status="retrying",
        attempt=2,
        slot=now.replace(microsecond=0),
        started_at=now - timedelta(seconds=12),
        finished_at=now - timedelta(seconds=11),
        error='OperationalError: could not obtain lock on row in relation "customer_service_chats"',
        number=20,
    )
    _add(database, [*dead, retrying])


def write_processes(database: Database) -> None:
    """Let a scheduler and two workers be alive, and not fall silent however long a test takes."""
    with database.transaction() as session:
        for name, kind, queues in (
            ("scheduler-1:4", "scheduler", []),
            ("worker-1:4", "worker", ["default", "low"]),
            ("worker-2:4", "worker", ["customer_service"]),
        ):
            session.merge(ServiceProcess(name=name, kind=kind, queues=queues))
        session.execute(
            text("""
                UPDATE service_processes
                SET started_at = now() - interval '3 hours', seen_at = now() + interval '1 hour'
                WHERE name IN ('scheduler-1:4', 'worker-1:4', 'worker-2:4')
            """)
        )


def new_run(
    job: str,
    *,
    status: RunStatus,
    attempt: int = 1,
    slot: datetime | None = None,
    number: int = 0,
    **columns: Any,
) -> JobRun:
    """Make a run of `job`; its key and message follow from slot and number, unless given."""
    message_id = str(UUID(int=number))
    defaults: dict[str, Any] = {
        "run_key": f"{job}@{slot:%Y-%m-%dT%H:%M:%SZ}" if slot else message_id,
        "message_id": message_id,
        "queue": QUEUES.get(job, "default"),
        "broker": "in-process",
        "enqueued_at": slot or utc_now(),
        "worker": "worker-1:4",
    }
    return JobRun(job=job, status=status, attempt=attempt, slot=slot, **{**defaults, **columns})


def _add(database: Database, runs: Iterable[JobRun]) -> None:
    with database.transaction() as session:
        for run in runs:
            session.add(run)
            # One by one, so that their ids are in this order.
            session.flush()
