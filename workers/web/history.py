"""What the ledger tells of single runs: those of a strip, those in hand, and lists of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import String, column, func, select, true, values
from sqlalchemy.orm import Session

from workers.models import JobRun, RunStatus

STRIP_RUNS = 50
IN_HAND_LIMIT = 20
PAGE_RUNS = 50


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A run as a strip shows it."""

    run_key: str
    status: RunStatus
    attempt: int
    at: datetime
    """When it began; of one that did not, when it was decided so, or asked for."""
    seconds: float | None
    """How long its last attempt took; None: it is not over, or never began."""


@dataclass(frozen=True, kw_only=True)
class History:
    """The runs that the front page shows."""

    strips: Mapping[str, Sequence[Mark]]
    """The last runs of each job, oldest first."""
    in_hand: Sequence[JobRun]
    """The runs that are running or wait for a retry, oldest first."""


def read(session: Session, jobs: Sequence[str]) -> History:
    """Read what the front page shows of these jobs: two statements, however many runs there are."""
    return History(strips=strips(session, jobs), in_hand=_in_hand(session))


def strips(
    session: Session, jobs: Sequence[str], *, limit: int = STRIP_RUNS
) -> dict[str, list[Mark]]:
    """Return the last runs of each of these jobs, oldest first."""
    names = values(column("job", String), name="names").data([(job,) for job in jobs])
    newest = (
        select(
            JobRun.id,
            JobRun.job,
            JobRun.run_key,
            JobRun.status,
            JobRun.attempt,
            func.coalesce(JobRun.started_at, JobRun.finished_at, JobRun.enqueued_at).label("at"),
            JobRun.started_at,
            JobRun.finished_at,
        )
        .where(JobRun.job == names.c.job)
        .order_by(JobRun.id.desc())
        .limit(limit)
        .lateral("newest")
    )
    found: dict[str, list[Mark]] = {job: [] for job in jobs}
    for row in session.execute(
        select(newest).select_from(names.join(newest, true())).order_by(newest.c.id)
    ):
        found[row.job].append(
            Mark(
                run_key=row.run_key,
                status=row.status,
                attempt=row.attempt,
                at=row.at,
                seconds=seconds_of(row.started_at, row.finished_at),
            )
        )
    return found


def seconds_of(started_at: datetime | None, finished_at: datetime | None) -> float | None:
    """Return how long an attempt took; None if it is not over, or never began."""
    if started_at is None or finished_at is None:
        return None
    return max(0.0, (finished_at - started_at).total_seconds())


def list_runs(
    session: Session,
    *,
    job: str | None = None,
    status: str | None = None,
    before_id: int | None = None,
) -> tuple[list[JobRun], bool]:
    """Return a page of runs, newest first, and whether there are older ones."""
    query = select(JobRun).order_by(JobRun.id.desc()).limit(PAGE_RUNS + 1)
    if job is not None:
        query = query.where(JobRun.job == job)
    if status is not None:
        query = query.where(JobRun.status == status)
    if before_id is not None:
        query = query.where(JobRun.id < before_id)
    found = list(session.scalars(query))
    return found[:PAGE_RUNS], len(found) > PAGE_RUNS


def find_run(session: Session, run_key: str) -> JobRun | None:
    """Return the run of this key, if it has begun."""
    return session.scalar(select(JobRun).where(JobRun.run_key == run_key))


def _in_hand(session: Session) -> list[JobRun]:
    return list(
        session.scalars(
            select(JobRun)
            # By an index that holds no others.
            .where(JobRun.status.in_(("running", "retrying")))
            .order_by(JobRun.id)
            .limit(IN_HAND_LIMIT)
        )
    )
