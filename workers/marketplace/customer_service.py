"""Customer service: who waits gets an agent; silent chats are warned, ended, later deleted."""

from collections.abc import Collection, Mapping, Sequence
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
from workers.marketplace.notices import (
    Notice,
    insert_notices,
    languages,
    notice_texts,
    notify,
)
from workers.marketplace.texts import CHAT_MESSAGES
from workers.outbox import insert_events, record_events

# --- Assignment -----------------------------------------------------------------------------------
#
# The fairest agent is the one with the most room, and taking a seat leaves one less. So an agent
# with room 3 offers seats of the levels 3, 2, 1, and giving each person in turn to the agent with
# the most room is the same as handing out all seats by falling level.

PEOPLE_AT_ONCE = 5_000
"""How many entries a batch places at most. All agents are locked meanwhile, and for each entry a
chat, a notice and an event are written."""

LOCK_WAITING = text("""
    SELECT entry.id, entry.user_id
    FROM customer_service_queue AS entry
    WHERE entry.status = 'waiting' AND entry.id <> ALL(:passed_over)
    -- Who has a chat already needs no seat, so lack of seats must not keep them from being seen.
    ORDER BY EXISTS (SELECT FROM customer_service_chats AS chat
                     WHERE chat.user_id = entry.user_id AND chat.ended_at IS NULL) DESC,
             entry.queued_at, entry.id
    LIMIT :batch_size
    FOR UPDATE SKIP LOCKED
""")

# The foreign keys of a chat that the web app is about to insert need these rows too, so it waits,
# and what is counted after this is true. Nobody waits for a person's row here: a long transaction
# about one person must not hold up all others.
LOCK_PEOPLE = text("""
    SELECT id FROM users
    WHERE id = ANY(CAST(:user_ids AS bigint[]))
    ORDER BY id
    FOR UPDATE SKIP LOCKED
""")
LOCK_AGENTS = text("""
    SELECT id FROM customer_service_agents WHERE is_online ORDER BY id FOR UPDATE
""")

TELL = insert_notices(
    "customer_service_assigned",
    """
        SELECT DISTINCT placed.user_id, placed.chat_id AS related_id, person.language
        FROM placed
        JOIN users AS person ON person.id = placed.user_id
        WHERE person.id = ANY(CAST(:user_ids AS bigint[]))
    """,
)

RECORD = insert_events(
    "customer_service.chat_assigned",
    """
        SELECT CAST(chat_id AS text) AS key,
               jsonb_build_object('chat_id', chat_id, 'user_id', user_id, 'agent_id', agent_id)
                   AS payload
        FROM placed
        ORDER BY id
    """,
)

PLACE = """
    WITH entry AS (
        SELECT id, user_id, row_number() OVER (ORDER BY queued_at, id) AS place
        FROM customer_service_queue
        WHERE id = ANY(CAST(:entry_ids AS bigint[]))
          AND user_id = ANY(CAST(:user_ids AS bigint[]))
    ), open_chat AS (
        SELECT DISTINCT ON (user_id) user_id, agent_id, id AS chat_id
        FROM customer_service_chats
        WHERE user_id = ANY(CAST(:user_ids AS bigint[])) AND ended_at IS NULL
        ORDER BY user_id, id
    ), person AS (
        SELECT user_id, row_number() OVER (ORDER BY min(place)) AS turn
        FROM entry
        WHERE user_id NOT IN (SELECT user_id FROM open_chat)
        GROUP BY user_id
    ), agent AS (
        SELECT agent.id, agent.avg_rating, agent.max_concurrent_chats - count(chat.id) AS room
        FROM customer_service_agents AS agent
        LEFT JOIN customer_service_chats AS chat
            ON chat.agent_id = agent.id AND chat.ended_at IS NULL
        WHERE agent.id = ANY(:agent_ids)
        GROUP BY agent.id
    ), seat AS (
        SELECT agent.id AS agent_id,
               row_number() OVER (ORDER BY level DESC, avg_rating DESC, agent.id) AS turn
        FROM agent, generate_series(greatest(1, room - :people + 1), room) AS level
    ), new_chat AS (
        INSERT INTO customer_service_chats (user_id, agent_id, created_at, last_message_at)
        SELECT user_id, agent_id, :now, :now
        FROM person JOIN seat USING (turn)
        ORDER BY turn
        RETURNING user_id, agent_id, id AS chat_id
    ), chat AS (
        SELECT user_id, agent_id, chat_id FROM open_chat
        UNION ALL
        SELECT user_id, agent_id, chat_id FROM new_chat
    ), placed AS (
        UPDATE customer_service_queue AS entry
        SET status = 'assigned', assigned_agent_id = chat.agent_id, assigned_at = :now,
            chat_id = chat.chat_id
        FROM chat
        WHERE entry.id = ANY(CAST(:entry_ids AS bigint[])) AND entry.user_id = chat.user_id
        RETURNING entry.id, entry.user_id, chat.agent_id, chat.chat_id
    ), told AS ({tell}), recorded AS ({record})
    SELECT count(*) FROM placed
"""
PLACE_AND_TELL = text(PLACE.format(tell=TELL, record=RECORD))

COUNT_WAITING = text("""
    SELECT count(*) AS waiting,
           count(*) FILTER (WHERE entry.id <> ALL(:passed_over)) AS candidates,
           count(*) FILTER (
               WHERE entry.id <> ALL(:passed_over)
                 AND EXISTS (SELECT FROM customer_service_chats AS chat
                             WHERE chat.user_id = entry.user_id AND chat.ended_at IS NULL)
           ) AS with_chat
    FROM customer_service_queue AS entry
    WHERE entry.status = 'waiting'
""")


def assign_waiting(session: Session, now: datetime, *, batch_size: int) -> Batches:
    """Give the people who wait an agent: the oldest entry first, to the agent with the most room.

    A user with an open chat is given that chat. No agent exceeds their capacity, whatever the web
    app does meanwhile; a person whose row somebody else has locked stays in the queue.

    Returns:
        ``assigned``, the entries that were; ``waiting``, those that still wait.
    """
    passed_over: list[int] = []
    while True:
        batch = {"batch_size": min(batch_size, PEOPLE_AT_ONCE), "passed_over": passed_over}
        entries = session.execute(LOCK_WAITING, batch).all()
        placed, unreachable = _place(session, now, entries) if entries else (0, [])
        # They still wait, and would stand first in each batch: those behind them have their turn.
        passed_over += unreachable
        left = session.execute(COUNT_WAITING, {"passed_over": passed_over}).one()
        is_room_left = placed + len(unreachable) == len(entries)
        is_going_on = left.with_chat or (left.candidates and is_room_left)
        if not is_going_on or not (placed or unreachable):
            return {"assigned": placed, "waiting": left.waiting}
        yield {"assigned": placed}


def _place(session: Session, now: datetime, entries: Sequence[Row[Any]]) -> tuple[int, list[int]]:
    """Return how many entries were placed, and the ids of those whose person is locked."""
    people = {"user_ids": as_text({entry.user_id for entry in entries})}
    user_ids = session.scalars(LOCK_PEOPLE, people).all()
    agent_ids = session.scalars(LOCK_AGENTS).all()
    reachable = set(user_ids)
    unreachable = [entry.id for entry in entries if entry.user_id not in reachable]
    join_by_hash(session)
    placed = session.execute(
        PLACE_AND_TELL,
        {
            "entry_ids": as_text(entry.id for entry in entries),
            "user_ids": as_text(user_ids),
            "agent_ids": list(agent_ids),
            "people": len(user_ids),
            "now": now,
            **notice_texts("customer_service_assigned"),
        },
    ).scalar_one()
    return int(placed), unreachable


# --- Silence --------------------------------------------------------------------------------------

# `= ANY (ARRAY(SELECT … LIMIT …))` and not `IN (SELECT … LIMIT …)`, for which the planner reads
# the whole table in each batch.
#
# The person's row too, since their notification will need it: whoever holds it would be waited for.
END_SILENT = text("""
    UPDATE customer_service_chats AS chat
    SET ended_at = :now, ended_reason = 'timeout', ended_by = 'system',
        ended_type = CASE
            WHEN (SELECT message.sender_type
                  FROM customer_service_messages AS message
                  WHERE message.chat_id = chat.id AND message.sender_type <> 'system'
                  ORDER BY message.created_at DESC, message.id DESC
                  LIMIT 1) = 'user'
            THEN 'agent_inactive'
            ELSE 'user_inactive'
        END
    WHERE chat.id = ANY (ARRAY(
        SELECT chat.id
        FROM customer_service_chats AS chat
        JOIN users AS person ON person.id = chat.user_id
        WHERE chat.ended_at IS NULL AND chat.last_message_at <= :silent_since
        ORDER BY chat.last_message_at, chat.id
        LIMIT :batch_size
        FOR UPDATE OF chat SKIP LOCKED
        FOR KEY SHARE OF person SKIP LOCKED
    ))
    RETURNING chat.id AS chat_id, chat.user_id, chat.agent_id, chat.ended_type
""")

WARN_SILENT = text("""
    UPDATE customer_service_chats AS chat
    SET warned_at = :now
    WHERE chat.id = ANY (ARRAY(
        SELECT chat.id
        FROM customer_service_chats AS chat
        JOIN users AS person ON person.id = chat.user_id
        WHERE chat.ended_at IS NULL
          AND chat.last_message_at <= :silent_since AND chat.last_message_at > :ended_since
          AND (chat.warned_at IS NULL OR chat.warned_at < chat.last_message_at)
        ORDER BY chat.last_message_at, chat.id
        LIMIT :batch_size
        FOR UPDATE OF chat SKIP LOCKED
        FOR KEY SHARE OF person SKIP LOCKED
    ))
    RETURNING chat.id AS chat_id, chat.user_id, chat.agent_id, chat.last_message_at
""")

SAY = text("""
    INSERT INTO customer_service_messages (chat_id, sender_type, content, created_at)
    SELECT chat_id, 'system', content, :now
    FROM unnest(CAST(:chat_ids AS bigint[]), CAST(:contents AS text[])) AS line (chat_id, content)
""")


def end_silent_chats(
    session: Session, now: datetime, *, timeout: timedelta, batch_size: int
) -> Batches:
    """End the open chats in which nobody has written for `timeout` or longer.

    Returns:
        ``ended``, the chats.
    """
    while True:
        chats = session.execute(
            END_SILENT, {"now": now, "silent_since": now - timeout, "batch_size": batch_size}
        ).all()
        _say(session, now, "timeout", [(chat, {}) for chat in chats])
        notices = [Notice(chat.user_id, chat.chat_id) for chat in chats]
        notify(session, now, "customer_service_chat_ended", notices)
        _record_chat_events(session, "customer_service.chat_ended", chats, "ended_type")
        if len(chats) < batch_size:
            return {"ended": len(chats)}
        yield {"ended": len(chats)}


def warn_silent_chats(
    session: Session, now: datetime, *, warning: timedelta, timeout: timedelta, batch_size: int
) -> Batches:
    """Warn both sides of open chats that are silent for `warning` but not yet for `timeout`.

    Once for each silence: a message from anyone begins a new one.

    Returns:
        ``warned``, the chats.
    """
    while True:
        chats = session.execute(
            WARN_SILENT,
            {
                "now": now,
                "silent_since": now - warning,
                "ended_since": now - timeout,
                "batch_size": batch_size,
            },
        ).all()
        seconds_left = {
            chat: _whole_seconds(chat.last_message_at + timeout - now) for chat in chats
        }
        texts = [(chat, {"seconds": seconds}) for chat, seconds in seconds_left.items()]
        _say(session, now, "timeout_warning", texts)
        notices = [Notice(chat.user_id, chat.chat_id, values) for chat, values in texts]
        notify(session, now, "customer_service_timeout_warning", notices)
        events = [
            (str(chat.chat_id), {**_who(chat), "seconds_left": seconds})
            for chat, seconds in seconds_left.items()
        ]
        record_events(session, "customer_service.timeout_warning", events)
        if len(chats) < batch_size:
            return {"warned": len(chats)}
        yield {"warned": len(chats)}


def _whole_seconds(duration: timedelta) -> int:
    """Round up."""
    return -(-duration // timedelta(seconds=1))


def _say(
    session: Session,
    now: datetime,
    occasion: str,
    chats: Collection[tuple[Row[Any], dict[str, Any]]],
) -> None:
    """Write a system message into each chat. It does not count as somebody having written."""
    if not chats:
        return
    language_of = languages(session, [chat.user_id for chat, _ in chats])
    texts = CHAT_MESSAGES[occasion]
    contents = [texts[language_of[chat.user_id]].format_map(values) for chat, values in chats]
    chat_ids = [chat.chat_id for chat, _ in chats]
    session.execute(SAY, {"now": now, "chat_ids": chat_ids, "contents": contents})


def _record_chat_events(
    session: Session, event_type: str, chats: Collection[Row[Any]], *details: str
) -> None:
    events = [
        (str(chat.chat_id), _who(chat) | {name: getattr(chat, name) for name in details})
        for chat in chats
    ]
    record_events(session, event_type, events)


def _who(chat: Row[Any]) -> dict[str, Any]:
    return {"chat_id": chat.chat_id, "user_id": chat.user_id, "agent_id": chat.agent_id}


# --- Clean-up -------------------------------------------------------------------------------------

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
            # If those were not all, or nothing can be done about them, go on behind them.
            if deleted.found <= pace.most_rows or not deleted.messages:
                chat_ids = chat_ids[len(some) :]
        place = {"after": found.after, "after_id": found.after_id}
    return {"chats": 0, "messages": 0}


def _delete(
    session: Session, chat_ids: Sequence[int], cutoff: Mapping[str, datetime], messages: int
) -> Row[Any]:
    join_by_hash(session)
    locked = session.scalar(LOCK_OLD, {"chat_ids": as_text(chat_ids), **cutoff})
    return session.execute(DELETE_OLD, {"chat_ids": locked, "messages": messages}).one()
