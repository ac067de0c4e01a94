"""Notifications to people, and whatever else is said to them, in their languages."""

from typing import get_args

from workers.marketplace.texts import NOTIFICATIONS, Language

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
    return INSERT.format(
        notice_type=notice_type,
        source=source,
        title=in_language("title", **fillings),
        content=in_language("content", **fillings),
    )


def notice_texts(notice_type: str) -> dict[str, str]:
    """Return the texts of a type as parameters: ``title_en``, ``content_zh`` and so on."""
    return {
        f"{part}_{language}": getattr(said, part)
        for language, said in NOTIFICATIONS[notice_type].items()
        for part in ("title", "content")
    }


def in_language(name: str, **fillings: str) -> str:
    """Return SQL for a text in the ``language`` of a row.

    Args:
        name: of the text; the statement needs it in each language, as ``:name_en`` and so on.
        fillings: what fills the names in the text, as SQL about the row.
    """
    choices = " ".join(f"WHEN '{each}' THEN :{name}_{each}" for each in get_args(Language))
    filled = f"CASE language {choices} END"
    for place, value in fillings.items():
        filled = f"replace({filled}, '{{{place}}}', {value})"
    return filled
