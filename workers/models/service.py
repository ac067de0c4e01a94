"""What the service keeps about itself: run ledger, totals, outbox, which of its processes live."""

from datetime import datetime
from typing import Any, Literal

from sqlalchemy import BigInteger, Double, Index, Text, UniqueConstraint, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import Mapped, mapped_column

from workers.models.base import (
    Base,
    BigInt,
    BigIntId,
    CountFromZero,
    TimestampNow,
    at_least_zero,
    at_most_bytes,
    between,
    one_of,
    partial_index,
)

RunStatus = Literal["running", "succeeded", "retrying", "dead", "skipped"]
BrokerName = Literal["rabbitmq", "in-process"]
ProcessKind = Literal["worker", "scheduler", "standby", "web"]
RunEvent = Literal["started", "succeeded", "retrying", "dead", "skipped", "lost"]

DURATION_BOUNDS_SECONDS = (0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 900, 1800)
"""The buckets in which durations are counted, in the database and in each worker."""


class JobRun(Base):
    """One run of a job, by its `run_key`: the lock of the run, and the memory of how it went.

    `run_key` is `job@slot` for a scheduled run and the message id for one on demand, so that a
    slot, or a message, has one row however often it is delivered.
    """

    __tablename__ = "job_runs"
    __table_args__ = (
        UniqueConstraint("run_key"),
        one_of("status", RunStatus),
        one_of("broker", BrokerName),
        at_least_zero("attempt"),
        at_least_zero("budget_from"),
        # "Newest first" of all jobs is the primary key, read backwards.
        Index("job_runs_job_newest_idx", "job", text("id DESC")),
        Index(None, "job", "slot"),
        partial_index("job_runs_unfinished_idx", ["id"], "status IN ('running', 'retrying')"),
        partial_index("job_runs_dead_idx", ["id"], "status = 'dead'"),
        # For clearing away what ended long ago.
        partial_index("job_runs_ended_idx", ["finished_at"], "status IN ('succeeded', 'skipped')"),
    )

    id: Mapped[BigIntId]
    run_key: Mapped[str]
    job: Mapped[str]
    slot: Mapped[datetime | None]
    message_id: Mapped[str]
    queue: Mapped[str]
    status: Mapped[RunStatus] = mapped_column(Text)
    attempt: Mapped[CountFromZero]
    # The attempt count at which the current budget of retries began. Sending a dead letter again
    # moves it up: `attempt` counts on, and there is a fresh budget.
    budget_from: Mapped[CountFromZero]
    broker: Mapped[BrokerName] = mapped_column(Text, server_default=text("'rabbitmq'"))
    enqueued_at: Mapped[TimestampNow]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    result: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    error: Mapped[str | None]
    worker: Mapped[str | None]


class JobTotal(Base):
    """How often something happened to the runs of a job since `since`, and when it last did.

    Kept by a trigger on ``job_runs``, in the transaction that changes the run, and never cleared
    away, so that counters do not fall when old runs are. Runs of a job do not overlap, so that they
    hardly ever wait for each other's row.
    """

    __tablename__ = "job_totals"
    __table_args__ = (one_of("event", RunEvent),)

    job: Mapped[str] = mapped_column(primary_key=True)
    event: Mapped[RunEvent] = mapped_column(Text, primary_key=True)
    count: Mapped[BigInt]
    seconds: Mapped[float] = mapped_column(Double, server_default=text("0"))
    """The sum of what was measured: the length of attempts, or the waiting of those that began."""
    buckets: Mapped[list[int]] = mapped_column(ARRAY(BigInteger), server_default=text("'{}'"))
    """How many of them fell below each of `DURATION_BOUNDS_SECONDS` and not below the one before,
    and last, how many below none."""
    last_at: Mapped[TimestampNow]
    last_slot: Mapped[datetime | None]
    since: Mapped[TimestampNow]


MAX_SHORT_BYTES = 255
"""What AMQP takes as a queue's name, a routing key or a message id."""

MAX_BODY_BYTES = 256 * 1024
"""What the outbox takes as a body: no broker refuses it, and a batch of them fits into memory."""


class OutboxMessage(Base):
    """A message to an actor that is sent only if the transaction that added it committed.

    What AMQP cannot carry is refused here, where whoever wrote it is told: in the outbox, it would
    keep all that comes after it from being published.
    """

    __tablename__ = "outbox_messages"
    __table_args__ = (
        at_most_bytes("message_id", MAX_SHORT_BYTES),
        at_most_bytes("queue", MAX_SHORT_BYTES),
        at_most_bytes("body", MAX_BODY_BYTES),
        between("priority", "0", "255"),
        # Published rows leave the index: looking for work costs nothing when there is none.
        partial_index("outbox_messages_unpublished_idx", ["id"], "published_at IS NULL"),
        # For clearing away what was published long ago.
        partial_index(
            "outbox_messages_published_idx", ["published_at"], "published_at IS NOT NULL"
        ),
    )

    id: Mapped[BigIntId]
    # Also in the body; here, so that a run in the ledger can be matched with its message.
    message_id: Mapped[str]
    queue: Mapped[str]
    actor: Mapped[str]
    # As dramatiq encodes it, and text: jsonb would refuse the escaped NUL that JSON may contain.
    body: Mapped[str]
    priority: Mapped[int | None]
    created_at: Mapped[TimestampNow]
    published_at: Mapped[datetime | None]


class OutboxEvent(Base):
    """An event that leaves only if the transaction that added it committed."""

    __tablename__ = "outbox_events"
    __table_args__ = (
        at_most_bytes("type", MAX_SHORT_BYTES),
        at_most_bytes("key", MAX_SHORT_BYTES),
        at_most_bytes("payload", MAX_BODY_BYTES, as_text="payload::text"),
        # As above.
        partial_index("outbox_events_unpublished_idx", ["id"], "published_at IS NULL"),
        partial_index("outbox_events_published_idx", ["published_at"], "published_at IS NOT NULL"),
    )

    id: Mapped[BigIntId]
    type: Mapped[str]
    key: Mapped[str]
    payload: Mapped[dict[str, Any]] = mapped_column(JSONB)
    created_at: Mapped[TimestampNow]
    published_at: Mapped[datetime | None]


class ServiceProcess(Base):
    """A process of the service as it was last seen; see `workers.presence`.

    One that does two things, as ``python -m workers run`` does, has a row for each.
    """

    __tablename__ = "service_processes"
    __table_args__ = (one_of("kind", ProcessKind),)

    name: Mapped[str] = mapped_column(primary_key=True)
    """``host:pid``, as the ledger's `worker` has it."""
    kind: Mapped[ProcessKind] = mapped_column(Text, primary_key=True)
    queues: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default=text("'{}'"))
    state: Mapped[str | None]
    started_at: Mapped[TimestampNow]
    seen_at: Mapped[TimestampNow]
