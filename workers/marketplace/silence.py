"""Customer service: chats in which nobody writes are warned, and then ended."""

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

from workers.batches import Batches
from workers.marketplace.batching import join_by_hash
from workers.marketplace.notices import in_language, insert_notices, notice_texts
from workers.marketplace.texts import CHAT_MESSAGES
from workers.outbox import insert_events

# The person's row too, since their notification will need it: whoever holds it would be waited for.
LOCK = """
    SELECT CAST(ARRAY(
        SELECT chat.id
        FROM customer_service_chats AS chat
        JOIN users AS person ON person.id = chat.user_id
        WHERE chat.ended_at IS NULL AND {condition}
        ORDER BY chat.last_message_at, chat.id
        LIMIT :batch_size
        FOR UPDATE OF chat SKIP LOCKED
        FOR KEY SHARE OF person SKIP LOCKED
    ) AS text)
"""
LOCK_TO_END = text(LOCK.format(condition="chat.last_message_at <= :silent_since"))
LOCK_TO_WARN = text(
    LOCK.format(
        condition="""
              chat.last_message_at <= :silent_since AND chat.last_message_at > :ended_since
          AND (chat.warned_at IS NULL OR chat.warned_at < chat.last_message_at)"""
    )
)
NONE = "{}"

# A system message does not count as somebody having written.
TELL = """
    WITH chat AS ({change}), addressed AS MATERIALIZED (
        SELECT chat.*, person.language
        FROM chat
        JOIN users AS person ON person.id = chat.user_id
        WHERE person.id = ANY(ARRAY(SELECT user_id FROM chat))
    ), said AS (
        INSERT INTO customer_service_messages (chat_id, sender_type, content, created_at)
        SELECT chat_id, 'system', {content}, :now FROM addressed ORDER BY chat_id
    ), told AS ({notices}), recorded AS ({events})
    SELECT count(*) FROM chat
"""

EVENTS = """
    SELECT CAST(chat_id AS text) AS key,
           jsonb_build_object('chat_id', chat_id, 'user_id', user_id, 'agent_id', agent_id,
                              '{detail}', {detail}) AS payload
    FROM chat
    ORDER BY chat_id
"""

END = """
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
    WHERE id = ANY(CAST(:chat_ids AS bigint[]))
    RETURNING id AS chat_id, user_id, agent_id, ended_type
"""
END_AND_TELL = text(
    TELL.format(
        change=END,
        content=in_language("message"),
        notices=insert_notices(
            "customer_service_chat_ended",
            "SELECT user_id, chat_id AS related_id, language FROM addressed",
        ),
        events=insert_events("customer_service.chat_ended", EVENTS.format(detail="ended_type")),
    )
)

SECONDS_LEFT = "CAST(seconds_left AS text)"

WARN = """
    UPDATE customer_service_chats SET warned_at = :now
    WHERE id = ANY(CAST(:chat_ids AS bigint[]))
    RETURNING id AS chat_id, user_id, agent_id,
              CAST(ceil(extract(epoch FROM last_message_at + :timeout - :now)) AS bigint)
                  AS seconds_left
"""
WARN_AND_TELL = text(
    TELL.format(
        change=WARN,
        content=in_language("message", seconds=SECONDS_LEFT),
        notices=insert_notices(
            "customer_service_timeout_warning",
            "SELECT user_id, chat_id AS related_id, language, seconds_left FROM addressed",
            seconds=SECONDS_LEFT,
        ),
        events=insert_events(
            "customer_service.timeout_warning", EVENTS.format(detail="seconds_left")
        ),
    )
)


def end_silent_chats(
    session: Session, now: datetime, *, timeout: timedelta, batch_size: int
) -> Batches:
    """End the open chats in which nobody has written for `timeout` or longer.

    Returns:
        ``ended``, the chats.
    """
    silent = {"silent_since": now - timeout, "batch_size": batch_size}
    texts = notice_texts("customer_service_chat_ended") | _messages("timeout")
    while (chat_ids := session.scalar(LOCK_TO_END, silent)) != NONE:
        join_by_hash(session)
        chats = {"chat_ids": chat_ids, "now": now}
        yield {"ended": session.execute(END_AND_TELL, {**chats, **texts}).scalar_one()}
    return {"ended": 0}


def warn_silent_chats(
    session: Session, now: datetime, *, warning: timedelta, timeout: timedelta, batch_size: int
) -> Batches:
    """Warn both sides of open chats that are silent for `warning` but not yet for `timeout`.

    Once for each silence: a message from anyone begins a new one.

    Returns:
        ``warned``, the chats.
    """
    silent = {
        "silent_since": now - warning,
        "ended_since": now - timeout,
        "batch_size": batch_size,
    }
    texts = notice_texts("customer_service_timeout_warning") | _messages("timeout_warning")
    while (chat_ids := session.scalar(LOCK_TO_WARN, silent)) != NONE:
        join_by_hash(session)
        chats = {"chat_ids": chat_ids, "now": now, "timeout": timeout}
        yield {"warned": session.execute(WARN_AND_TELL, {**chats, **texts}).scalar_one()}
    return {"warned": 0}


def _messages(occasion: str) -> dict[str, Any]:
    """Return what is said in the chats as parameters: ``message_en`` and so on."""
    return {f"message_{language}": said for language, said in CHAT_MESSAGES[occasion].items()}
