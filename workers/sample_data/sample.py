"""What all parts of the sample share: its random numbers, its present, and how rows are added."""

import random
from collections import Counter
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import insert
from sqlalchemy.orm import Session

from workers.models import Base

SEED = 20_240_229


class Sample:
    """A sample in the making. The same `now` gives the same rows, always."""

    def __init__(self, session: Session, now: datetime) -> None:
        self.session = session
        self.now = now
        self.random = random.Random(SEED)
        self.counts: Counter[str] = Counter()

    def add(self, table: type[Base], rows: list[dict[str, Any]]) -> None:
        """Insert rows, all with the same keys, in few statements."""
        self.session.execute(insert(table), rows)
        self.counts[table.__tablename__] += len(rows)

    def add_returning_ids(self, table: Any, rows: list[dict[str, Any]]) -> list[int]:
        """Insert rows, and return their ids in the order of the rows."""
        ids = self.session.scalars(
            insert(table).returning(table.id, sort_by_parameter_order=True), rows
        )
        self.counts[table.__tablename__] += len(rows)
        return list(ids)

    def ago(self, **units: float) -> datetime:
        """Return the time that lies `timedelta(**units)` before now."""
        return self.now - timedelta(**units)

    def ahead(self, **units: float) -> datetime:
        """Return the time that lies `timedelta(**units)` after now."""
        return self.now + timedelta(**units)
