"""What leaves the service only if the transaction that wrote it commits.

Events are rows of ``outbox_events``, messages to actors rows of ``outbox_messages``, both written
in the caller's transaction. `workers.relay` publishes them once they are committed, and clears them
away later.

The two have tables of their own because they are not the same: an event has a key whose order
counts and a body that belongs to everybody; a message has a queue, a priority and an id by which
the run ledger knows it.

Whether a row is published stands in the row, and nowhere else. There is no "published up to": rows
become visible in the order of their commits, not of their ids, so that such a mark would skip the
rows of a transaction that took long.
"""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, Protocol, TypeVar

from sqlalchemy import text
from sqlalchemy.orm import Session

NOTIFY_CHANNEL = "outbox"
"""Where PostgreSQL tells, by a trigger, of each commit that added to the outbox."""


class Message(Protocol):
    """A message as ``actor.message(…)`` makes it; this room knows no broker."""

    @property
    def queue_name(self) -> str: ...
    @property
    def actor_name(self) -> str: ...
    @property
    def message_id(self) -> str: ...
    @property
    def options(self) -> dict[str, Any]: ...
    def encode(self) -> bytes: ...


M_co = TypeVar("M_co", bound=Message, covariant=True)


class Actor(Protocol[M_co]):
    """An actor, as far as it makes messages."""

    def message(self, *args: Any, **kwargs: Any) -> M_co: ...


# --- Writing --------------------------------------------------------------------------------------

# One statement however many rows, and in the order given: `unnest` alone promises none.
ADD_MESSAGES = text("""
    INSERT INTO outbox_messages (message_id, queue, actor, body, priority)
    SELECT message_id, queue, actor, body, priority
    FROM unnest(CAST(:message_ids AS text[]), CAST(:queues AS text[]), CAST(:actors AS text[]),
                CAST(:bodies AS text[]), CAST(:priorities AS integer[])) WITH ORDINALITY
         AS message (message_id, queue, actor, body, priority, position)
    ORDER BY position
""")

FIND_BODY = text("""
    SELECT body FROM outbox_messages WHERE message_id = :message_id ORDER BY id DESC LIMIT 1
""")

ADD_EVENTS = text("""
    INSERT INTO outbox_events (type, key, payload)
    SELECT :type, key, payload
    FROM unnest(CAST(:keys AS text[]), CAST(:payloads AS jsonb[])) WITH ORDINALITY
         AS event (key, payload, position)
    ORDER BY position
""")


INSERT_EVENTS = """
    INSERT INTO outbox_events (type, key, payload)
    SELECT '{event_type}', key, payload FROM ({source}) AS event
"""


def enqueue(session: Session, actor: Actor[M_co], *args: Any, **kwargs: Any) -> M_co:
    """Send a message to `actor` with the session's transaction.

    Like ``actor.send(*args, **kwargs)``, but the transaction decides: once it is committed, the job
    will run; if it is rolled back, the job never will. The session may be anybody's, on the
    service's database.

    Returns:
        the message; its ``message_id`` is the run's ``run_key`` in the ledger.

    Raises:
        TypeError: if an argument is not JSON.
        sqlalchemy.exc.IntegrityError: if the message is larger than 256 KiB.
    """
    message = actor.message(*args, **kwargs)
    enqueue_many(session, [message])
    return message


def enqueue_many(session: Session, messages: Iterable[Message]) -> None:
    """Send messages with the session's transaction, any number of them in one statement.

    They are made by ``actor.message(…)``, or ``actor.message_with_options(…)``. See `enqueue`.
    """
    messages = list(messages)
    if not messages:
        return
    session.execute(
        ADD_MESSAGES,
        {
            "message_ids": [message.message_id for message in messages],
            "queues": [message.queue_name for message in messages],
            "actors": [message.actor_name for message in messages],
            "bodies": [message.encode().decode() for message in messages],
            "priorities": [message.options.get("broker_priority") for message in messages],
        },
    )


def find_body(session: Session, message_id: str) -> str | None:
    """Return the message of this id as it was last sent; None if the outbox knows it no longer."""
    body: str | None = session.scalar(FIND_BODY, {"message_id": message_id})
    return body


def record_events(
    session: Session, event_type: str, events: Collection[tuple[str, Mapping[str, Any]]]
) -> None:
    """Record events of one type, each a key and a payload. Events of one key stay in order."""
    if not events:
        return
    session.execute(
        ADD_EVENTS,
        {
            "type": event_type,
            "keys": [key for key, _ in events],
            "payloads": [json.dumps(payload) for _, payload in events],
        },
    )


def insert_events(event_type: str, source: str) -> str:
    """Return SQL that records events of one type, for a statement that knows them.

    Args:
        event_type: their type.
        source: a query for each event's ``key`` and ``payload``, in order.
    """
    return INSERT_EVENTS.format(event_type=event_type, source=source)


# --- Publishing -----------------------------------------------------------------------------------


class StoredMessage(NamedTuple):
    """A committed message, yet to be published."""

    id: int
    message_id: str
    queue: str
    body: str
    priority: int | None


class StoredEvent(NamedTuple):
    """A committed event, yet to be published; its body is JSON."""

    id: int
    type: str
    key: str
    body: str
    created_at: datetime


Stored = StoredMessage | StoredEvent

PENDING_MESSAGES = text("""
    SELECT id, message_id, queue, body, priority FROM outbox_messages
    WHERE published_at IS NULL ORDER BY id LIMIT :limit
""")

PENDING_EVENTS = text("""
    SELECT id, type, key, CAST(payload AS text), created_at FROM outbox_events
    WHERE published_at IS NULL ORDER BY id LIMIT :limit
""")

MARK_PUBLISHED = text("""
    WITH message AS (
        UPDATE outbox_messages SET published_at = now() WHERE id = ANY(:message_ids)
    )
    UPDATE outbox_events SET published_at = now() WHERE id = ANY(:event_ids)
""")

CLEAR = """
    DELETE FROM {table} WHERE id = ANY (ARRAY(
        SELECT id FROM {table} WHERE published_at < now() - make_interval(secs => :age_seconds)
        ORDER BY published_at LIMIT :limit FOR UPDATE SKIP LOCKED))
    RETURNING 1
"""
CLEAR_MESSAGES = text(CLEAR.format(table="outbox_messages"))
CLEAR_EVENTS = text(CLEAR.format(table="outbox_events"))


def pending(session: Session, *, limit: int, with_events: bool) -> list[Stored]:
    """Return what is yet to be published, oldest first: up to `limit` messages, and as many events.

    The events of one key are in the order in which their transactions committed, if these did not
    overlap.
    """
    found: list[Stored] = [
        StoredMessage(*row) for row in session.execute(PENDING_MESSAGES, {"limit": limit})
    ]
    if with_events:
        found += [StoredEvent(*row) for row in session.execute(PENDING_EVENTS, {"limit": limit})]
    return found


def mark_published(session: Session, published: Sequence[Stored]) -> None:
    """Write down, in one statement, that these are published."""
    session.execute(
        MARK_PUBLISHED,
        {
            "message_ids": [each.id for each in published if isinstance(each, StoredMessage)],
            "event_ids": [each.id for each in published if isinstance(each, StoredEvent)],
        },
    )


def clear_published(session: Session, limit: int, *, age_seconds: float) -> bool:
    """Delete what was published longer ago than that, up to `limit` rows of each table.

    Returns:
        whether there may be more.
    """
    parameters = {"age_seconds": age_seconds, "limit": limit}
    cleared = [
        len(session.execute(statement, parameters).all())
        for statement in (CLEAR_MESSAGES, CLEAR_EVENTS)
    ]
    return max(cleared) >= limit
