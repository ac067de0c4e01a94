"""What all actions of a simulation share: their shape, and how they find somebody or something."""

import random
from collections.abc import Callable
from datetime import datetime
from typing import Any

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from workers.models import User

Action = Callable[[Session, random.Random, datetime], str | None]
"""Does one thing, and says what; None if there was nothing to do."""

NEWEST = 50
"""An action chooses among so many of the newest rows: fast, however many there are."""


def choose(session: Session, chance: random.Random, newest_first: Select[*tuple[Any, ...]]) -> Any:
    """Return one of the newest rows, or None if there is none."""
    rows = session.execute(newest_first.limit(NEWEST)).all()
    return chance.choice(rows) if rows else None


def somebody(session: Session, chance: random.Random) -> User | None:
    """Return any user; None if there are no users."""
    newest_id = session.scalar(select(func.max(User.id))) or 0
    return session.scalar(
        select(User)
        .where(User.id >= chance.randint(1, max(newest_id, 1)))
        .order_by(User.id)
        .limit(1)
    )
