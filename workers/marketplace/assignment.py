"""Customer service: who waits is given an agent.

The fairest agent is the one with the most room, and taking a seat leaves one less. So an agent with
room 3 offers seats of the levels 3, 2, 1, and giving each person in turn to the agent with the most
room is the same as handing out all seats by falling level. Only the levels that so many people
reach are looked at: above a level, the k agents with the most room, S together, have S − k × level
seats at least, and exactly so many for one k.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.orm import Session

from workers.batches import Batches
from workers.marketplace.batching import as_text, join_by_hash
from workers.marketplace.notices import insert_notices, notice_texts
from workers.outbox import insert_events

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
# and what is counted after this is true.
#
# Agents are waited for, and so come before all else: who waits and holds nothing that others may
# want can be in no deadlock. Nobody waits for a person's row: a long transaction about one person
# must not hold up all others.
LOCK_AGENTS = text("""
    SELECT id FROM customer_service_agents WHERE is_online ORDER BY id FOR UPDATE
""")
LOCK_PEOPLE = text("""
    SELECT id FROM users
    WHERE id = ANY(CAST(:user_ids AS bigint[]))
    ORDER BY id
    FOR UPDATE SKIP LOCKED
""")

# Whoever is given the chat that they have refers to it, and to its agent, who may be offline.
FIND_BUSY = text("""
    WITH chat AS MATERIALIZED (
        SELECT DISTINCT ON (user_id) id, user_id
        FROM customer_service_chats
        WHERE user_id = ANY(CAST(:user_ids AS bigint[])) AND ended_at IS NULL
        ORDER BY user_id, id
    ), locked AS MATERIALIZED (
        SELECT chat.id
        FROM customer_service_chats AS chat
        JOIN customer_service_agents AS agent ON agent.id = chat.agent_id
        WHERE chat.id = ANY(ARRAY(SELECT id FROM chat)) AND chat.ended_at IS NULL
        FOR KEY SHARE OF chat, agent SKIP LOCKED
    )
    SELECT user_id FROM chat WHERE id NOT IN (SELECT id FROM locked)
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
    ), most AS (
        SELECT row_number() OVER roomiest AS agents, sum(room) OVER roomiest AS room
        FROM agent
        WHERE room > 0
        WINDOW roomiest AS (ORDER BY room DESC, id)
    ), lowest AS (
        SELECT CAST(greatest(1, max(div(room - :people, agents)) + 1) AS bigint) AS level FROM most
    ), seat AS (
        SELECT agent.id AS agent_id,
               row_number() OVER (ORDER BY seat.level DESC, avg_rating DESC, agent.id) AS turn
        FROM agent, lowest, generate_series(lowest.level, room) AS seat (level)
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
    size = min(batch_size, PEOPLE_AT_ONCE)
    is_room_left = True
    while True:
        left = session.execute(COUNT_WAITING, {"passed_over": passed_over}).one()
        done = {"assigned": 0, "waiting": left.waiting}
        if not left.with_chat and not (left.candidates and is_room_left):
            return done
        agent_ids = session.scalars(LOCK_AGENTS).all()
        batch = {"batch_size": size, "passed_over": passed_over}
        entries = session.execute(LOCK_WAITING, batch).all()
        reachable = _reachable(session, {entry.user_id for entry in entries})
        unreachable = [entry.id for entry in entries if entry.user_id not in reachable]
        placed = _place(session, now, entries, reachable, agent_ids)
        if not placed and not unreachable:
            return done
        # They still wait, and would stand first in each batch: those behind them have their turn.
        passed_over += unreachable
        is_room_left = placed + len(unreachable) == len(entries)
        yield {"assigned": placed}


def _reachable(session: Session, user_ids: set[int]) -> set[int]:
    """Lock people, and return those whom nobody else is busy with."""
    locked = session.scalars(LOCK_PEOPLE, {"user_ids": as_text(user_ids)}).all()
    busy = session.scalars(FIND_BUSY, {"user_ids": as_text(locked)}).all()
    return {*locked} - {*busy}


def _place(
    session: Session,
    now: datetime,
    entries: Sequence[Row[Any]],
    user_ids: set[int],
    agent_ids: Sequence[int],
) -> int:
    """Return how many entries were placed."""
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
    return int(placed)
