"""Customer service: chats are kept for a while, and then deleted."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.orm import Session

from workers.batches import Batches
from workers.marketplace.batching import (
    BATCHES_AHEAD,
    BEFORE_ALL_IDS,
    BEFORE_ALL_TIMES,
    Pace,
    as_text,
    join_by_hash,
)

MESSAGES_PER_CHAT = 5
"""How many messages a batch may delete for each chat that it may, on average."""

# Some batches ahead, and in the order of the ids: what lies together on disk is then changed
# together.
FIND_OLD = text("""
    WITH old AS MATERIALIZED (
        SELECT id, ended_at FROM customer_service_chats
        WHERE ended_at < :ended_before AND (ended_at, id) > (CAST(:after AS timestamptz), :after_id)
        ORDER BY ended_at, id
        LIMIT :limit
    )
    SELECT ARRAY(SELECT id FROM old ORDER BY id) AS ids,
           CAST(last.ended_at AS text) AS after, last.id AS after_id
    FROM (SELECT ended_at, id FROM old ORDER BY ended_at DESC, id DESC LIMIT 1) AS last
""")

# In a statement of its own: whoever is just writing in one of them has finished, or waits.
LOCK_OLD = text("""
    SELECT CAST(ARRAY(
        SELECT id FROM customer_service_chats
        WHERE id = ANY(CAST(:chat_ids AS bigint[])) AND ended_at < :ended_before
        FOR UPDATE SKIP LOCKED
    ) AS text)
""")

# If they have more messages than one batch, that many of these are deleted, and no chat yet.
# Otherwise all chats but those of which somebody has locked a message: the foreign key deletes
# the messages of a chat faster than a statement for all of them would.
#
# It would clear the queue's entries too, but slower.
DELETE_OLD = text("""
    WITH message AS MATERIALIZED (
        SELECT ctid AS version, chat_id FROM customer_service_messages
        WHERE chat_id = ANY(CAST(:chat_ids AS bigint[]))
        LIMIT :messages + 1
    ), locked AS MATERIALIZED (
        SELECT ctid AS version, chat_id FROM customer_service_messages
        WHERE ctid = ANY(ARRAY(SELECT version FROM message LIMIT :messages))
        FOR UPDATE SKIP LOCKED
    ), are_too_many AS MATERIALIZED (
        SELECT FROM message OFFSET :messages
    ), busy AS MATERIALIZED (
        SELECT message.chat_id
        FROM message LEFT JOIN locked USING (version)
        WHERE locked.version IS NULL
    ), emptied AS MATERIALIZED (
        SELECT unnest(CAST(:chat_ids AS bigint[])) AS id
        WHERE NOT EXISTS (SELECT FROM are_too_many)
        EXCEPT
        SELECT chat_id FROM busy
    ), said AS (
        DELETE FROM customer_service_messages
        WHERE ctid = ANY(ARRAY(SELECT version FROM locked
                               WHERE EXISTS (SELECT FROM are_too_many)))
    ), queued AS (
        UPDATE customer_service_queue SET chat_id = NULL
        WHERE chat_id = ANY(ARRAY(SELECT id FROM emptied))
    ), ended AS (
        DELETE FROM customer_service_chats WHERE id = ANY(ARRAY(SELECT id FROM emptied))
    )
    SELECT (SELECT count(*) FROM emptied) AS chats,
           (SELECT count(*) FROM locked
            WHERE chat_id NOT IN (SELECT chat_id FROM busy) OR EXISTS (SELECT FROM are_too_many))
               AS messages,
           (SELECT count(*) FROM message) AS found
""")


def delete_old_chats(
    session: Session, now: datetime, *, retention: timedelta, batch_size: int
) -> Batches:
    """Delete chats that ended more than `retention` ago, with their messages. Never an open one.

    Queue entries that pointed at one stay, with no chat.

    Returns:
        ``chats`` and ``messages``, the rows deleted.
    """
    place: dict[str, Any] = {"after": BEFORE_ALL_TIMES, "after_id": BEFORE_ALL_IDS}
    cutoff = {"ended_before": now - retention}
    ahead = {"limit": batch_size * BATCHES_AHEAD}
    pace = Pace(most_things=batch_size, most_rows=batch_size * MESSAGES_PER_CHAT)
    while found := session.execute(FIND_OLD, {**cutoff, **ahead, **place}).one_or_none():
        chat_ids = found.ids
        while chat_ids:
            some = chat_ids[: pace.things]
            deleted = _delete(session, some, cutoff, pace.most_rows)
            yield {"chats": deleted.chats, "messages": deleted.messages}
            pace.follow(len(some), deleted.found)
            # Go on behind them, if those were all, or the rest of one is in use.
            is_in_use = len(some) == 1 and not deleted.messages
            if deleted.found <= pace.most_rows or is_in_use:
                chat_ids = chat_ids[len(some) :]
        place = {"after": found.after, "after_id": found.after_id}
    return {"chats": 0, "messages": 0}


def _delete(
    session: Session, chat_ids: Sequence[int], cutoff: Mapping[str, datetime], messages: int
) -> Row[Any]:
    join_by_hash(session)
    locked = session.scalar(LOCK_OLD, {"chat_ids": as_text(chat_ids), **cutoff})
    return session.execute(DELETE_OLD, {"chat_ids": locked, "messages": messages}).one()
