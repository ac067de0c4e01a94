"""Rows that somebody else has locked are left alone: how that is seen, and how a walk goes on."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.orm import Session

LOCK_PEOPLE = text("""
    SELECT id FROM users WHERE id = ANY(:user_ids) ORDER BY id FOR KEY SHARE SKIP LOCKED
""")

BEFORE_ALL_IDS = -(2**63)
"""Where a walk over rows in the order of their ids begins."""

BEFORE_ALL_TIMES = "-infinity"
"""Where a walk in the order of a time begins. Such a place is kept as text: PostgreSQL's times
reach further than Python's, and one odd row must not stop the others."""


def lock_people(session: Session, user_ids: Collection[int]) -> set[int]:
    """Return those of the people whose rows can be referred to without waiting, and lock them so.

    Every row about a person, a notification for one, locks that person's row against deletion, and
    waits for whoever holds it exclusively: one transaction about one person would hold up all.
    """
    return set(session.scalars(LOCK_PEOPLE, {"user_ids": list(user_ids)}))


def lock_rows(
    session: Session, select: str, parameters: Mapping[str, Any]
) -> tuple[Sequence[Row[Any]], Sequence[Row[Any]]]:
    """Lock what `select` finds, which must include an ``id``.

    Read twice rather than joined to itself: what the planner makes of such a join depends on its
    guess of how many rows there are, and a wrong one costs minutes.

    Returns:
        all the rows, locked or not; and those that somebody else has locked.
    """
    lock = text(f"{select} FOR UPDATE SKIP LOCKED")
    locked = {row.id for row in session.execute(lock, parameters)}
    rows = session.execute(text(select), parameters).all()
    return rows, [row for row in rows if row.id not in locked]
