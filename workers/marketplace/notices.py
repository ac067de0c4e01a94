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


# One order for all, so that two jobs cannot deadlock.
INSERT = """
    INSERT INTO notifications (user_id, type, related_id, title, content, created_at)
    SELECT user_id, '{notice_type}', related_id, {title}, {content}, :now
    FROM ({source}) AS notice
    ORDER BY user_id, related_id
    ON CONFLICT (user_id, type, related_id) DO UPDATE
    SET title = excluded.title, content = excluded.content,
        created_at = excluded.created_at, read_at = NULL
"""


def insert_notices(notice_type: str, source: str, **fillings: str) -> str:
    """Return SQL that sends notices of one type; one that a person has already is renewed.

    Args:
        notice_type: of `NOTIFICATIONS`; the statement also needs its `notice_texts`, and ``:now``.
        source: a query for ``user_id``, ``related_id``, the person's ``language``, and what is to
            be filled in; each person and related id once.
        fillings: what fills the names in the texts, as SQL about a row of `source`.
    """

    def said(part: str) -> str:
        choices = " ".join(
            f"WHEN '{language}' THEN :{part}_{language}" for language in NOTIFICATIONS[notice_type]
        )
        filled = f"CASE notice.language {choices} END"
        for name, value in fillings.items():
            filled = f"replace({filled}, '{{{name}}}', {value})"
        return filled

    return INSERT.format(
        notice_type=notice_type, source=source, title=said("title"), content=said("content")
    )


def notice_texts(notice_type: str) -> dict[str, str]:
    """Return the texts of a type as parameters: ``title_en``, ``content_zh`` and so on."""
    return {
        f"{part}_{language}": getattr(said, part)
        for language, said in NOTIFICATIONS[notice_type].items()
        for part in ("title", "content")
    }


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
