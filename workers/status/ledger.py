"""What the database says, in a few statements that each read few rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from dramatiq.common import q_name
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from workers.models import JobTotal, RunEvent
from workers.presence import SILENT_AFTER_SECONDS
from workers.status.snapshot import (
    COUNT_LIMIT,
    LastRun,
    OutboxStatus,
    ProcessStatus,
    Total,
)

STUCK_MARGIN_SECONDS = 60
"""How long after the hard time limit a run counts as stuck."""

SKIPPED_LIMIT = 500
"""Of so many of a job's newest runs the last one is sought that was not skipped."""

LAST_RUNS = text("""
    SELECT run.id, run.run_key, run.job, run.slot, run.status, run.attempt,
           run.started_at, run.finished_at, run.result, split_part(run.error, E'\\n', 1) AS error
    FROM unnest(CAST(:jobs AS text[])) AS job (name)
    CROSS JOIN LATERAL (
        SELECT * FROM (
            SELECT * FROM job_runs WHERE job = job.name ORDER BY id DESC LIMIT :limit
        ) AS newest
        WHERE status <> 'skipped' ORDER BY id DESC LIMIT 1
    ) AS run
""")

# The condition on the status is that of the partial index.
UNFINISHED = text("""
    SELECT job,
           count(*) FILTER (WHERE status = 'running') AS running,
           min(started_at) FILTER (WHERE status = 'running') AS running_since,
           count(*) FILTER (WHERE status = 'retrying') AS retrying,
           count(*) FILTER (WHERE status = 'retrying' AND attempt - budget_from > 1)
               AS failed_repeatedly,
           count(*) FILTER (
               WHERE CASE status WHEN 'running' THEN started_at ELSE finished_at END
                     < now() - make_interval(secs => :stuck_after_seconds)
           ) AS stuck
    FROM job_runs WHERE status IN ('running', 'retrying') GROUP BY job
""")

DEAD = text("""
    SELECT job, queue, broker, count(*) AS runs, max(finished_at) AS last_at
    FROM (
        SELECT job, queue, broker, finished_at FROM job_runs
        WHERE status = 'dead' ORDER BY id DESC LIMIT :limit
    ) AS newest
    GROUP BY job, queue, broker
""")

PROCESSES = text("""
    SELECT name, kind, queues, state, started_at,
           CAST(greatest(extract(epoch FROM now() - seen_at), 0) AS float) AS seen_seconds_ago
    FROM service_processes ORDER BY kind, name
""")

PENDING = """
    SELECT count(*) FROM (
        SELECT FROM {table} WHERE published_at IS NULL LIMIT :limit
    ) AS pending
"""
OLDEST = """
    (SELECT created_at FROM {table} WHERE published_at IS NULL ORDER BY id LIMIT 1)
"""
OUTBOX = text(f"""
    SELECT ({PENDING.format(table="outbox_messages")}) AS messages,
           ({PENDING.format(table="outbox_events")}) AS events,
           CAST(coalesce(extract(epoch FROM now() - least(
               {OLDEST.format(table="outbox_messages")}, {OLDEST.format(table="outbox_events")}
           )), 0) AS float) AS oldest_seconds
""")  # noqa: S608 - names of our own tables


class Unfinished(NamedTuple):
    """A job's runs that have begun and not ended."""

    running: int = 0
    running_since: datetime | None = None
    retrying: int = 0
    failed_repeatedly: int = 0
    stuck: int = 0


class Dead(NamedTuple):
    """Runs of one job, queue and broker that failed for good."""

    job: str
    queue: str
    broker: str
    runs: int
    last_at: datetime | None


@dataclass(frozen=True)
class Ledger:
    """All that was read, at one instant."""

    totals: Mapping[str, Mapping[RunEvent, Total]] = field(default_factory=dict)
    serving_since: datetime | None = None
    """When the first thing happened to any run."""
    unfinished: Mapping[str, Unfinished] = field(default_factory=dict)
    dead: Sequence[Dead] = ()
    last_runs: Mapping[str, LastRun] = field(default_factory=dict)
    processes: tuple[ProcessStatus, ...] = ()
    outbox: OutboxStatus | None = None


def read_ledger(session: Session, jobs: Sequence[str], *, hard_time_limit_seconds: float) -> Ledger:
    """Read it all. The number of statements does not depend on what is found."""
    totals = session.scalars(select(JobTotal)).all()
    by_job: dict[str, dict[RunEvent, Total]] = {}
    for row in totals:
        by_job.setdefault(row.job, {})[row.event] = _total(row)
    stuck_after_seconds = hard_time_limit_seconds + STUCK_MARGIN_SECONDS
    return Ledger(
        totals=by_job,
        serving_since=min((row.since for row in totals), default=None),
        unfinished={
            job: Unfinished(*rest)
            for job, *rest in session.execute(
                UNFINISHED, {"stuck_after_seconds": stuck_after_seconds}
            )
        },
        dead=[Dead(*row) for row in session.execute(DEAD, {"limit": COUNT_LIMIT})],
        last_runs={
            row.job: _last_run(row)
            for row in session.execute(LAST_RUNS, {"jobs": list(jobs), "limit": SKIPPED_LIMIT})
        },
        processes=tuple(_process(row) for row in session.execute(PROCESSES)),
        outbox=OutboxStatus(**session.execute(OUTBOX, {"limit": COUNT_LIMIT}).one()._mapping),
    )


def _total(row: JobTotal) -> Total:
    return Total(
        count=row.count,
        seconds=row.seconds,
        buckets=tuple(row.buckets),
        last_at=row.last_at,
        last_slot=row.last_slot,
    )


def _last_run(row: Any) -> LastRun:
    took = row.finished_at - row.started_at if row.finished_at and row.started_at else None
    return LastRun(
        id=row.id,
        run_key=row.run_key,
        slot=row.slot,
        status=row.status,
        attempt=row.attempt,
        started_at=row.started_at,
        finished_at=row.finished_at,
        duration_seconds=took.total_seconds() if took is not None else None,
        result=row.result,
        error=row.error,
    )


def _process(row: Any) -> ProcessStatus:
    return ProcessStatus(
        name=row.name,
        kind=row.kind,
        # A process that serves a queue serves its delay queue too.
        queues=tuple(queue for queue in row.queues if queue == q_name(queue)),
        state=row.state,
        started_at=row.started_at,
        seen_seconds_ago=row.seen_seconds_ago,
        is_silent=row.seen_seconds_ago > SILENT_AFTER_SECONDS,
    )
