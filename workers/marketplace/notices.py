"""Notifications to people, in their languages."""

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import text
from sqlalchemy.orm import Session

from workers.marketplace.texts import NOTIFICATIONS


class Notice(NamedTuple):
    """One notification: to whom, about what, and what fills its text."""

    user_id: int
    related_id: int
    values: Mapping[str, Any] = {}


UPSERT = text("""
    INSERT INTO notifications (user_id, type, related_id, title, content, created_at)
    SELECT user_id, :type, related_id, title, content, :now
    FROM unnest(CAST(:user_ids AS bigint[]), CAST(:related_ids AS bigint[]),
                CAST(:titles AS text[]), CAST(:contents AS text[]))
         AS notice (user_id, related_id, title, content)
    ORDER BY user_id, related_id  -- one order for all, so that two jobs cannot deadlock
    ON CONFLICT (user_id, type, related_id) DO UPDATE
    SET title = excluded.title, content = excluded.content,
        created_at = excluded.created_at, read_at = NULL
""")


def notify(session: Session, now: datetime, notice_type: str, notices: Collection[Notice]) -> None:
    """Send notices of one type. One that a user has already is renewed: new text, unread again.

    A user who stands there twice for the same thing gets one.
    """
    if not notices:
        return
    distinct = {(notice.user_id, notice.related_id): notice for notice in notices}.values()
    language_of = languages(session, [notice.user_id for notice in distinct])
    texts = NOTIFICATIONS[notice_type]
    said = [(notice, texts[language_of[notice.user_id]]) for notice in distinct]
    session.execute(
        UPSERT,
        {
            "type": notice_type,
            "now": now,
            "user_ids": [notice.user_id for notice, _ in said],
            "related_ids": [notice.related_id for notice, _ in said],
            "titles": [text.title.format_map(notice.values) for notice, text in said],
            "contents": [text.content.format_map(notice.values) for notice, text in said],
        },
    )


def languages(session: Session, user_ids: Collection[int]) -> dict[int, str]:
    """Return the language of each of these users, by id."""
    rows = session.execute(
        text("SELECT id, language FROM users WHERE id = ANY(:ids)"), {"ids": list(user_ids)}
    )
    return {row.id: row.language for row in rows}
