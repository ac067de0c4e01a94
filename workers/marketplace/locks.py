"""Rows that somebody else has locked are left alone: how that is seen, and how a walk goes on."""

from collections.abc import Collection, Iterable, Mapping, Sequence
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


BATCHES_AHEAD = 10
"""How many batches are looked for at once."""

Ids = str
"""An array of ids as PostgreSQL writes it. Many ids travel as one text: Python and the driver would
take longer over each of them than the server takes over its row."""


def as_text(ids: Iterable[int]) -> Ids:
    """Return ids as an array in PostgreSQL's words."""
    return f"{{{','.join(map(str, ids))}}}"


JOIN_BY_HASH = text("SET LOCAL enable_nestloop = off")


def join_by_hash(session: Session) -> None:
    """For this transaction, have intermediate results joined by hashing, whatever their size.

    How many rows such a result has, the planner can but guess. If it guesses one where there are
    ten thousand, it compares each with each, and a batch takes minutes. Hashing costs little more
    where there are few. Rows of tables are looked up by ``= ANY(ARRAY(...))``, which is no join.
    """
    session.execute(JOIN_BY_HASH)


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
