"""What the ledger is told of dead letters: refused, or sent again."""

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from workers.database import Database
from workers.models import BrokerName, JobRun, RunStatus
from workers.periodic import utc_now
from workers.runs import storable


def record_refusal(
    database: Database,
    *,
    message_id: str,
    run_key: str | None,
    job: str | None,
    slot: datetime | None,
    queue: str,
    reason: str,
) -> None:
    """Show operators that a message was refused, as the run that it asked for.

    A run that waited for this message, its retry, is dead. A run that the ledger does not know yet
    is written down as dead, if its job and key are known. Any other is left as it is: this message
    may be a bad copy of one that was done, or will be.
    """
    with database.transaction() as session:
        run = session.scalar(
            select(JobRun)
            .where(JobRun.message_id == message_id, JobRun.status == "retrying")
            .with_for_update()
        )
        error = f"Its message was refused: {reason}"
        if run is not None:
            run.status = "dead"
            run.finished_at = utc_now()
            run.error = storable(f"{error}\n\n{run.error or ''}".strip())
        elif job and run_key:
            _add_unless_known(
                session,
                status="dead",
                run_key=run_key,
                job=job,
                slot=slot,
                message_id=message_id,
                queue=queue,
                error=storable(error),
                finished_at=utc_now(),
            )


def renew(database: Database, *, message_id: str, run_key: str | None) -> RunStatus | None:
    """Mark a dead run so that it is tried again, with as many retries as at first.

    Its `attempt` counts on. A run in any other status is left as it is: it is in hand, or done.

    Args:
        database: where the ledger is.
        message_id: of the message that is about to be sent again.
        run_key: of its run; None if that cannot be told from the message.

    Returns:
        the status of the run now, None if the ledger does not know it.
    """
    with database.transaction() as session:
        return renew_within(session, message_id=message_id, run_key=run_key)


def renew_within(session: Session, *, message_id: str, run_key: str | None) -> RunStatus | None:
    """Like `renew`, in a transaction that does more."""
    is_it = (
        JobRun.run_key == run_key
        if run_key is not None
        else (JobRun.message_id == message_id) & (JobRun.status == "dead")
    )
    run = session.scalar(select(JobRun).where(is_it).with_for_update())
    if run is None:
        return None
    if run.status == "dead":
        run.status = "retrying"
        run.budget_from = run.attempt
        # A message of the run that is not this one waits, lest both start it.
        run.message_id = message_id
    return run.status


def expect(
    database: Database,
    *,
    run_key: str,
    job: str,
    slot: datetime | None,
    message_id: str,
    queue: str,
    enqueued_at: datetime,
) -> None:
    """Write down a run that is sent again and that the ledger does not know.

    Otherwise a slot that is no longer the latest would be skipped, as if it had just been sent.
    """
    with database.transaction() as session:
        _add_unless_known(
            session,
            status="retrying",
            run_key=run_key,
            job=job,
            slot=slot,
            message_id=message_id,
            queue=queue,
            enqueued_at=enqueued_at,
        )


def find_runs(database: Database, run_keys: Collection[str]) -> dict[str, JobRun]:
    """Return the runs of these keys that the ledger knows, by key."""
    with database.transaction() as session:
        query = select(JobRun).where(JobRun.run_key.in_(run_keys))
        return {run.run_key: run for run in session.scalars(query)}


def list_dead(
    database: Database, broker: BrokerName, *, after_id: int = 0, limit: int = 100
) -> list[JobRun]:
    """Return dead runs whose messages were of this broker, oldest first."""
    with database.transaction() as session:
        return list(
            session.scalars(
                select(JobRun)
                .where(JobRun.status == "dead", JobRun.broker == broker, JobRun.id > after_id)
                .order_by(JobRun.id)
                .limit(limit)
            )
        )


def _add_unless_known(session: Session, **values: object) -> None:
    session.execute(insert(JobRun).values(**values).on_conflict_do_nothing())
