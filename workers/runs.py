"""The run ledger: who may run a job now, and what became of it.

Each run has one row in ``job_runs``, named by its `run_key`: ``job@slot`` for a scheduled run, the
message id for one on demand. The row is the memory that makes effects happen once:

    (no row) ── claim ──► running ── effects and success, one commit ──► succeeded
                │            │
                │            ├── failed, attempts left ──► retrying ── claim ──► running
                │            └── failed, none left ──────► dead
                └── not current, or its job is running ──► skipped

Authority is held by two locks, taken in this order on the connection that carries the effects:

1. ``run:<run_key>``: only one delivery of a run at a time. A rival is *postponed*, never
   acknowledged: the holder may yet die, and then this message is the run's last trace. Row first,
   since a rival that took the job's lock first would write `skipped` over a run about to start.
2. ``job:<name>``: runs of one job never overlap, across processes and machines.

Both are lost with the connection, so a run whose worker was killed can be claimed again at once.
The claim then marks the run as started in a short transaction of its own, so that people see it
and a killed attempt counts. Every transaction of the run begins by locking the row again and
looking whether the run is still this attempt's (`hold`): the success is written in the transaction
of the effects, so both happen or neither does. If the answer to COMMIT is lost, the next delivery
finds out what its outcome was.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from sqlalchemy import ColumnElement, and_, delete, func, select, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from workers.batches import Counts
from workers.database import Database, Lease
from workers.models import BrokerName, JobRun, OutboxMessage
from workers.periodic import utc_now
from workers.presence import process_name
from workers.redaction import redacted

POSTPONE_SECONDS = 2
"""How soon a postponed delivery looks again, unless the ledger knows better."""

LOCK_NOT_AVAILABLE = "55P03"
MAX_ERROR_CHARACTERS = 20_000


class Verdict(StrEnum):
    """What is to be done with a delivered message."""

    RUN = "run"
    DUPLICATE = "duplicate"
    """The run has ended already: acknowledge."""
    SKIPPED = "skipped"
    """This slot is not run: acknowledge."""
    POSTPONED = "postponed"
    """Not now, and no attempt is used: deliver again soon."""
    DEAD = "dead"
    """No attempts are left: dead-letter."""


def run_key(job: str, slot: datetime | None, message_id: str) -> str:
    """Name the run that a message asks for: the same for all messages of a slot."""
    return message_id if slot is None else f"{job}@{slot:%Y-%m-%dT%H:%M:%SZ}"


@dataclass(frozen=True)
class Delivery:
    """What a message says about the run that it asks for."""

    job: str
    slot: datetime | None
    message_id: str
    queue: str
    enqueued_at: datetime
    max_retries: int
    retry_delay_seconds: float
    broker: BrokerName

    @property
    def run_key(self) -> str:
        return run_key(self.job, self.slot, self.message_id)


@dataclass(frozen=True)
class Claim:
    """The ledger's answer to a delivery."""

    verdict: Verdict
    reason: str = ""
    run_id: int = 0
    attempt: int = 0
    counts: Counts | None = None
    """What batches of earlier attempts have committed already."""
    started_at: datetime | None = None
    """When the run began: after its locks were taken, so that runs of one job follow each other."""
    delay_seconds: float = POSTPONE_SECONDS
    """When postponed: how soon to deliver again."""


class ClaimLost(Exception):  # noqa: N818 - it names what happened
    """The run is no longer this attempt's: its connection broke, and another worker took over."""


def claim(
    lease: Lease, delivery: Delivery, *, now: datetime, current_slot: datetime | None
) -> Claim:
    """Decide what becomes of a delivery and, if it is to run, mark the run as started.

    Args:
        lease: the connection for the effects; the locks stay on it.
        delivery: the message.
        now: the time, by which slots are judged.
        current_slot: the job's latest slot at `now`; None for a run on demand.
    """
    try:
        with lease.transaction() as session:
            if not lease.try_lock(f"run:{delivery.run_key}"):
                return Claim(Verdict.POSTPONED, "this run is being executed elsewhere")
            run = session.scalar(
                select(JobRun)
                .where(JobRun.run_key == delivery.run_key)
                .with_for_update(nowait=True)
            )
            return _judge(lease, run, delivery, now, current_slot)
    except OperationalError as error:
        if getattr(error.orig, "pgcode", None) == LOCK_NOT_AVAILABLE:
            return Claim(Verdict.POSTPONED, "somebody holds the row of this run")
        raise


def _judge(
    lease: Lease,
    run: JobRun | None,
    delivery: Delivery,
    now: datetime,
    current_slot: datetime | None,
) -> Claim:
    if run is not None and (answer := _answer_without_a_start(run, delivery, now)):
        return answer

    is_first_for_slot = run is None and delivery.slot is not None
    if is_first_for_slot and current_slot and delivery.slot and delivery.slot < current_slot:
        return _skip(lease.session, delivery, now, "a newer slot is due")

    if not lease.try_lock(f"job:{delivery.job}"):
        if is_first_for_slot:
            return _skip(lease.session, delivery, now, "another run of this job is in progress")
        return Claim(Verdict.POSTPONED, "another run of this job is in progress")

    if run is None:
        run = _new_run(delivery)
        lease.session.add(run)
    run.status = "running"
    run.attempt += 1
    run.message_id = delivery.message_id
    run.queue = delivery.queue
    run.broker = delivery.broker
    run.started_at = max(now, utc_now())
    run.finished_at = None
    run.error = None
    run.worker = process_name()
    lease.session.flush()
    return Claim(
        Verdict.RUN,
        run_id=run.id,
        attempt=run.attempt,
        counts=run.result,
        started_at=run.started_at,
    )


def _answer_without_a_start(run: JobRun, delivery: Delivery, now: datetime) -> Claim | None:
    if run.status in ("succeeded", "skipped"):
        return Claim(Verdict.DUPLICATE, f"this run has {run.status} already", run.id, run.attempt)

    # Each scheduler sends a message for each slot, and one that starts sends another. What becomes
    # of a failure is up to the message that failed: the others neither cut the delay of its retry
    # short, nor lie beside it as dead letters.
    is_anothers = run.message_id != delivery.message_id
    attempts = 1 + delivery.max_retries
    if run.attempt - run.budget_from >= attempts:
        if run.status != "dead":
            run.status = "dead"
            run.finished_at = now
            run.error = run.error or f"its worker was lost in each of {attempts} attempts"
            run.message_id = delivery.message_id
        elif is_anothers:
            return Claim(Verdict.DUPLICATE, "this run is dead already", run.id, run.attempt)
        return Claim(Verdict.DEAD, "no attempts are left", run.id, run.attempt)

    if run.status == "retrying" and is_anothers and run.finished_at is not None:
        # Should its retry be lost, this message is the run's last trace, and takes over.
        overdue_at = run.finished_at + timedelta(seconds=2 * delivery.retry_delay_seconds)
        if now < overdue_at:
            delay_seconds = max(POSTPONE_SECONDS, (overdue_at - now).total_seconds())
            reason = "another message will retry this run"
            return Claim(
                Verdict.POSTPONED, reason, run.id, run.attempt, delay_seconds=delay_seconds
            )
    return None


def _new_run(delivery: Delivery) -> JobRun:
    return JobRun(
        run_key=delivery.run_key,
        job=delivery.job,
        slot=delivery.slot,
        message_id=delivery.message_id,
        queue=delivery.queue,
        broker=delivery.broker,
        enqueued_at=delivery.enqueued_at,
        attempt=0,
        budget_from=0,
    )


def _skip(session: Session, delivery: Delivery, now: datetime, reason: str) -> Claim:
    run = _new_run(delivery)
    run.status = "skipped"
    run.finished_at = now
    run.error = reason
    session.add(run)
    return Claim(Verdict.SKIPPED, reason)


def hold(session: Session, claim: Claim) -> None:
    """Lock the run's row for this transaction, and make sure that the run is still ours.

    Raises:
        ClaimLost: if another attempt has begun since.
    """
    row = session.execute(select(JobRun.id).where(_is_ours(claim)).with_for_update()).first()
    if row is None:
        raise ClaimLost(f"attempt {claim.attempt} is no longer the one that runs")


def record_progress(session: Session, claim: Claim, counts: Counts) -> None:
    """Write what has been done so far, in the transaction that does it."""
    session.execute(update(JobRun).where(JobRun.id == claim.run_id).values(result=counts))


def record_success(session: Session, claim: Claim, counts: Counts) -> None:
    """Write the success, in the (last) transaction of the effects."""
    session.execute(
        update(JobRun)
        .where(JobRun.id == claim.run_id)
        .values(status="succeeded", result=counts, finished_at=utc_now())
    )


def record_failure(database: Database, claim: Claim, max_retries: int, error: str) -> str | None:
    """Write a failure, in a transaction of its own on a connection of its own.

    Returns:
        ``retrying`` or ``dead``; None if the run is no longer this attempt's to judge.
    """
    with database.transaction() as session:
        run = session.scalar(select(JobRun).where(_is_ours(claim)).with_for_update())
        if run is None:
            return None
        has_attempts_left = run.attempt - run.budget_from <= max_retries
        run.status = "retrying" if has_attempts_left else "dead"
        run.finished_at = utc_now()
        run.error = storable(error)
        return run.status


def record_dead(database: Database, claim: Claim, reason: str) -> None:
    """Write that a run which was to be retried is a dead letter instead."""
    with database.transaction() as session:
        run = session.scalar(
            select(JobRun)
            .where(
                JobRun.id == claim.run_id,
                JobRun.attempt == claim.attempt,
                JobRun.status == "retrying",
            )
            .with_for_update()
        )
        if run is not None:
            run.status = "dead"
            run.error = storable(f"{reason}\n\n{run.error}")


def _is_ours(claim: Claim) -> ColumnElement[bool]:
    return and_(
        JobRun.id == claim.run_id, JobRun.attempt == claim.attempt, JobRun.status == "running"
    )


def storable(text: str) -> str:
    """Fit text of any origin into PostgreSQL, which takes neither NUL nor lone surrogates.

    Also without passwords: whoever may see the page sees the ledger's errors.
    """
    encoded = redacted(text).replace("\x00", "\\x00").encode("utf-8", "backslashreplace")
    return encoded.decode()[:MAX_ERROR_CHARACTERS]


def unfinished_in_process(database: Database) -> list[JobRun]:
    """Return the runs whose messages were in the memory of a process alone, oldest first."""
    is_in_outbox = (
        select(OutboxMessage.id)
        .where(OutboxMessage.message_id == JobRun.message_id, OutboxMessage.published_at.is_(None))
        .exists()
    )
    with database.transaction() as session:
        return list(
            session.scalars(
                select(JobRun)
                .where(
                    JobRun.status.in_(("running", "retrying")),
                    JobRun.broker == "in-process",
                    ~is_in_outbox,
                )
                .order_by(JobRun.id)
            )
        )


def ended(database: Database, run_keys: Collection[str]) -> set[str]:
    """Tell which of these runs have ended, well or badly."""
    with database.transaction() as session:
        return set(
            session.scalars(
                select(JobRun.run_key).where(
                    JobRun.run_key.in_(run_keys),
                    JobRun.status.in_(("succeeded", "dead", "skipped")),
                )
            )
        )


def find_run(database: Database, run_key: str) -> JobRun | None:
    """Return the run of this key, or None if it has not started."""
    with database.transaction() as session:
        return session.scalar(select(JobRun).where(JobRun.run_key == run_key))


def clear_ended(session: Session, limit: int, *, age_days: int) -> bool:
    """Delete runs that succeeded or were skipped longer ago than that, up to `limit` of them.

    Dead runs stay: they are what is left to see of work that was not done.

    Returns:
        whether there may be more.
    """
    old = (
        select(JobRun.id)
        .where(
            JobRun.status.in_(("succeeded", "skipped")),
            JobRun.finished_at < func.now() - timedelta(days=age_days),
        )
        .order_by(JobRun.finished_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    cleared = session.execute(delete(JobRun).where(JobRun.id.in_(old)).returning(JobRun.id)).all()
    return len(cleared) >= limit
