"""Takes the snapshot: asks database and broker at the same time, and waits for neither for long."""

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import Any

import dramatiq
from dramatiq.common import dq_name
from sqlalchemy import URL, Connection, Engine, NullPool, create_engine
from sqlalchemy.exc import ProgrammingError, SQLAlchemyError
from sqlalchemy.orm import Session

from workers import schema
from workers.broker import InProcessBroker
from workers.checks import first_line
from workers.database import Database
from workers.job import QUEUES
from workers.periodic import Ticker, utc_now
from workers.redaction import redacted
from workers.settings import Settings
from workers.status.diagnosis import diagnose
from workers.status.lateness import interval_seconds, missed_slots, overdue_seconds, owed_since
from workers.status.ledger import Dead, Ledger, Unfinished, read_ledger
from workers.status.looking import Cord, Look, NoAnswer
from workers.status.snapshot import (
    BrokerStatus,
    DatabaseStatus,
    JobStatus,
    LastSuccess,
    QueueStatus,
    SchemaStatus,
    Status,
)

PATIENCE_SECONDS = 5
"""Who has not answered by then counts as away."""

DEAD_LATELY = timedelta(hours=1)

UNKNOWN = tuple(QueueStatus(name=queue) for queue in QUEUES)
"""All that can be said of the queues if nobody answers."""

Actor = dramatiq.Actor[Any, Any]


def collect(settings: Settings, database: Database, broker: dramatiq.Broker) -> Status:
    """Take a snapshot. Never raises because something is away, and never takes long.

    Args:
        settings: the configuration.
        database: whose server to ask; its pool is left alone.
        broker: with the actors of all jobs.
    """
    actors = sorted(broker.actors.values(), key=lambda actor: QUEUES.index(actor.queue_name))
    jobs = [actor.actor_name for actor in actors]
    seen = Look(lambda cord: _look_at_database(settings, database, jobs, cord))
    told = Look(lambda _cord: _ask_broker(settings, broker))
    deadline = time.monotonic() + PATIENCE_SECONDS
    database_status, schema_status, ledger = _answer_of_database(seen, deadline)
    broker_status, queues = _answer_of_broker(told, deadline)

    now = utc_now()
    if ledger is not None and isinstance(broker, InProcessBroker):
        queues = tuple(_with_ledger(queue, ledger) for queue in queues)
    status = Status(
        taken_at=now,
        database=database_status,
        schema=schema_status,
        broker=broker_status,
        queues=queues,
        jobs=tuple(_job(actor, ledger, now) for actor in actors),
        processes=ledger.processes if ledger else None,
        outbox=ledger.outbox if ledger else None,
    )
    return dataclasses.replace(status, problems=diagnose(status))


# --- The database ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class _View:
    schema: SchemaStatus
    ledger: Ledger | None


def _look_at_database(
    settings: Settings, database: Database, jobs: Sequence[str], cord: Cord
) -> _View:
    with _engine(database.engine.url).connect() as connection:
        descriptor: int = connection.connection.driver_connection.fileno()  # type: ignore[union-attr]
        with cord.tied_to(descriptor):
            return _look(connection, settings, jobs)


def _look(connection: Connection, settings: Settings, jobs: Sequence[str]) -> _View:
    state = SchemaStatus(is_current=True)
    try:
        schema.require_current_on(connection)
    except schema.SchemaBehind as error:
        return _View(SchemaStatus(is_current=False, reason=str(error)), None)
    except schema.SchemaError as error:
        # During a deploy the database may be ahead for a while, and mostly reads as before.
        state = SchemaStatus(is_current=False, reason=str(error))
    limit_seconds = settings.hard_time_limit_seconds
    try:
        with Session(connection) as session:
            return _View(state, read_ledger(session, jobs, hard_time_limit_seconds=limit_seconds))
    except ProgrammingError:
        if state.is_current:
            raise
        return _View(state, None)


@cache
def _engine(url: URL) -> Engine:
    """Return the way to take a look: a new connection each time, impatient and read-only.

    It says whether PostgreSQL lets anybody in; a pool's may be dead without anybody's knowing, or
    all be in use.
    """
    options = {
        "timezone": "UTC",
        "statement_timeout": f"{PATIENCE_SECONDS - 1}s",
        "default_transaction_read_only": "on",
        # All statements see one instant.
        "default_transaction_isolation": r"repeatable\ read",
    }
    return create_engine(
        url,
        poolclass=NullPool,
        connect_args={
            "application_name": "workers status",
            "connect_timeout": PATIENCE_SECONDS - 2,
            "options": " ".join(f"-c {name}={value}" for name, value in options.items()),
        },
    )


def _answer_of_database(
    look: Look[_View], deadline: float
) -> tuple[DatabaseStatus, SchemaStatus, Ledger | None]:
    try:
        view = look.wait(max(0.0, deadline - time.monotonic()))
    except NoAnswer:
        reason = f"no answer within {PATIENCE_SECONDS} s"
    except SQLAlchemyError as error:
        reason = redacted(first_line(error))
    else:
        return DatabaseStatus(is_reachable=True), view.schema, view.ledger
    return (
        DatabaseStatus(is_reachable=False, reason=reason),
        SchemaStatus(is_current=None, reason="not known: the database cannot be reached"),
        None,
    )


# --- The broker -----------------------------------------------------------------------------------


def _ask_broker(
    settings: Settings, broker: dramatiq.Broker
) -> tuple[BrokerStatus, tuple[QueueStatus, ...]]:
    if isinstance(broker, InProcessBroker):
        reason = "" if settings.rabbitmq_url is None else "RabbitMQ is configured, but not in use"
        status = BrokerStatus(kind="in-process", is_reachable=True, reason=reason)
        return status, _in_process(broker)
    # pika may be missing; then the broker is the one in this process.
    from workers.rabbitmq import Rabbitmq  # noqa: PLC0415
    from workers.status.queues import BrokerAway, ask_rabbitmq  # noqa: PLC0415

    assert isinstance(broker, Rabbitmq)  # noqa: S101 - there are two kinds
    try:
        queues = ask_rabbitmq(broker, QUEUES, patience_seconds=PATIENCE_SECONDS - 1)
    except BrokerAway as away:
        return _away(redacted(str(away))), UNKNOWN
    return BrokerStatus(kind="rabbitmq", is_reachable=True), queues


def _answer_of_broker(
    look: Look[tuple[BrokerStatus, tuple[QueueStatus, ...]]],
    deadline: float,
) -> tuple[BrokerStatus, tuple[QueueStatus, ...]]:
    try:
        return look.wait(max(0.0, deadline - time.monotonic()))
    except NoAnswer:
        return _away(f"no answer within {PATIENCE_SECONDS} s"), UNKNOWN


def _away(reason: str) -> BrokerStatus:
    return BrokerStatus(kind="rabbitmq", is_reachable=False, reason=reason)


def _in_process(broker: InProcessBroker) -> tuple[QueueStatus, ...]:
    if not broker.is_embedded:
        return UNKNOWN  # they are in the memory of another process
    return tuple(
        QueueStatus(
            name=queue,
            ready=_size(broker, queue),
            delayed=_size(broker, dq_name(queue)),
        )
        for queue in QUEUES
    )


def _size(broker: InProcessBroker, queue: str) -> int:
    return broker.queues[queue].qsize() if queue in broker.queues else 0


def _with_ledger(queue: QueueStatus, ledger: Ledger) -> QueueStatus:
    """Add what only the ledger knows where queues are in the memory of a process."""
    dead = sum(
        each.runs
        for each in ledger.dead
        if each.queue == queue.name and each.broker == "in-process"
    )
    serving = [
        each
        for each in ledger.processes
        if each.kind == "worker" and queue.name in each.queues and not each.is_silent
    ]
    return dataclasses.replace(queue, dead_letters=dead, consumers=len(serving))


# --- The jobs -------------------------------------------------------------------------------------


def _job(actor: Actor, ledger: Ledger | None, now: datetime) -> JobStatus:
    ticker: Ticker | None = actor.options.get("periodic")
    job = JobStatus(name=actor.actor_name, queue=actor.queue_name, schedule=None)
    if ticker is not None:
        job = dataclasses.replace(
            job,
            schedule=str(ticker.spec),
            interval_seconds=interval_seconds(ticker.spec, now),
            current_slot=ticker.spec.slot_at(now),
            next_due=ticker.spec.next_after(now),
        )
    return job if ledger is None else _with_history(job, ticker, ledger, now)


def _with_history(
    job: JobStatus, ticker: Ticker | None, ledger: Ledger, now: datetime
) -> JobStatus:
    totals = ledger.totals.get(job.name, {})
    succeeded = totals.get("succeeded")
    success = LastSuccess(at=succeeded.last_at, slot=succeeded.last_slot) if succeeded else None
    unfinished = ledger.unfinished.get(job.name, Unfinished())
    dead = [each for each in ledger.dead if each.job == job.name]
    job = dataclasses.replace(
        job,
        totals=totals,
        last_success=success,
        last_run=ledger.last_runs.get(job.name),
        dead=sum(each.runs for each in dead),
        has_died_lately=any(_is_lately(each, success, now) for each in dead),
        **unfinished._asdict(),
    )
    if ticker is None:
        return job
    owed = owed_since(
        ticker.spec,
        now,
        succeeded_at=success.at if success else None,
        serving_since=ledger.serving_since,
    )
    return dataclasses.replace(
        job,
        overdue_seconds=overdue_seconds(ticker.spec, now, owed),
        missed_slots=missed_slots(ticker.spec, now, owed),
    )


def _is_lately(dead: Dead, success: LastSuccess | None, now: datetime) -> bool:
    if dead.last_at is None:
        return False
    return success is None or dead.last_at > min(success.at, now - DEAD_LATELY)
