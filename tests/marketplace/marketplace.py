"""A marketplace as plain rows: put into a database, read from it again, cleared away."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import insert, text

from workers.database import Database
from workers.models import Base

Rows = list[dict[str, Any]]
Marketplace = dict[str, Rows]
"""Rows by table."""

FIRST_ID = 1_000_000
"""Ids given by tests begin here, so that they never meet those that the database gives."""

TABLES = {
    table.name: table
    for table in Base.metadata.sorted_tables
    if table.name not in ("job_runs", "statistics_changes", "statistics_full_pass")
}
"""What belongs to the marketplace, in an order in which it can be filled."""

CLEAR = "; ".join(
    f"DELETE FROM {table.name}"
    for table in [
        *reversed(Base.metadata.sorted_tables),
        Base.metadata.tables["statistics_changes"],
    ]
)


def fill(database: Database, marketplace: Mapping[str, Rows]) -> None:
    """Add rows; what they leave out is filled in by the database."""
    with database.transaction() as session:
        for name, table in TABLES.items():
            # Rows with the same columns go together.
            for columns in {tuple(row) for row in marketplace.get(name, [])}:
                rows = [row for row in marketplace[name] if tuple(row) == columns]
                session.execute(insert(table), rows)


def read(database: Database) -> Marketplace:
    """Return all rows of all tables, in the order of their keys."""
    with database.transaction() as session:
        return {
            name: [
                dict(row)
                for row in session.execute(
                    text(
                        f"SELECT * FROM {name} ORDER BY "
                        + ", ".join(column.name for column in table.primary_key)
                    )
                ).mappings()
            ]
            for name, table in TABLES.items()
        }


def clear(database: Database) -> None:
    """Remove all rows, and what the database remembers of them."""
    with database.transaction() as session:
        session.execute(text(CLEAR))
