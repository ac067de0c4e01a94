"""How a batch is found, locked and carried: what the rules about many rows have in common."""

from collections.abc import Iterable

from sqlalchemy import text
from sqlalchemy.orm import Session

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


class Pace:
    """How many things the next batch takes, so that it reads as many rows as it may.

    How much there is to read about each is not known, and to count it would take as long as to read
    it. So the next batch goes by the last one: it takes as many as would have had nine tenths of
    the rows, or half as many if there were too many to go on.
    """

    def __init__(self, *, most_things: int, most_rows: int) -> None:
        self._most_things = most_things
        self.most_rows = most_rows
        self.things = max(1, most_things // 10)

    def follow(self, things: int, rows: int) -> None:
        """Go by a batch that took so many things, and had so many rows to read about them."""
        if rows > self.most_rows:
            fitting = things // 2
        else:
            fitting = self.most_rows * things * 9 // (10 * max(1, rows))
        self.things = max(1, min(fitting, self._most_things))


LOOK_UP_BY_INDEX = text("SET LOCAL enable_seqscan = off")


def look_up_by_index(session: Session) -> None:
    """For this transaction, have no table read as a whole that has an index to look things up by.

    Where the planner believes that most rows belong to one thing, it reads the whole table for each
    thing that it is asked about. What it believes may be of yesterday.
    """
    session.execute(LOOK_UP_BY_INDEX)


JOIN_BY_HASH = text("SET LOCAL enable_nestloop = off")


def join_by_hash(session: Session) -> None:
    """For this transaction, have intermediate results joined by hashing, whatever their size.

    How many rows such a result has, the planner can but guess. If it guesses one where there are
    ten thousand, it compares each with each, and a batch takes minutes. Hashing costs little more
    where there are few. Rows of tables are looked up by ``= ANY(ARRAY(...))``, which is no join.
    """
    session.execute(JOIN_BY_HASH)
