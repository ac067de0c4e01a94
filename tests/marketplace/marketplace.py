"""A marketplace as plain rows: put into a database, read from it again, cleared away."""

from collections.abc import Mapping
from datetime import timedelta
from decimal import Decimal
from typing import Any

from sqlalchemy import insert, text
from sqlalchemy.dialects.postgresql import TIMESTAMP

from tests.marketplace.jobs import NOW
from workers.database import Database
from workers.models import Base

Rows = list[dict[str, Any]]
Marketplace = dict[str, Rows]
"""Rows by table."""

FIRST_ID = 1_000_000
"""Ids given by tests begin here, so that they never meet those that the database gives."""

YESTERDAY = NOW - timedelta(days=1)

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
    """Add rows. Times that they leave out are yesterday's; the database fills in the rest."""
    with database.transaction() as session:
        for name, table in TABLES.items():
            # Else the database would take them from its own clock.
            times = {
                column.name: YESTERDAY
                for column in table.columns
                if column.server_default is not None and isinstance(column.type, TIMESTAMP)
            }
            rows = [times | row for row in marketplace.get(name, [])]
            # Those with the same columns go together.
            for columns in {frozenset(row) for row in rows}:
                session.execute(insert(table), [row for row in rows if row.keys() == columns])


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


def comparable(world: Marketplace, before: Marketplace) -> dict[str, Any]:
    """A marketplace without what the database chose: ids of new rows, and its own clock."""
    known = {table: {row["id"] for row in rows if "id" in row} for table, rows in before.items()}
    new_chats = {
        chat["id"]: f"chat of {chat['user_id']}"
        for chat in world["customer_service_chats"]
        if chat["id"] not in known["customer_service_chats"]
    }

    def named(chat_id: Any) -> Any:
        return new_chats.get(chat_id, chat_id)

    def comparable_row(table: str, row: dict[str, Any]) -> dict[str, Any]:
        row = dict(row)
        if "id" in row and row["id"] not in known[table]:
            row["id"] = "new"
        if table == "outbox_events":
            row.pop("created_at", None)
            row["payload"] = row["payload"] | {"chat_id": named(row["payload"]["chat_id"])}
            row["key"] = str(row["payload"]["chat_id"])
        if table == "customer_service_queue":
            row["chat_id"] = named(row["chat_id"])
        if table == "notifications" and row["type"].startswith("customer_service"):
            row["related_id"] = named(row["related_id"])
        return row

    return {
        table: sorted((comparable_row(table, row) for row in rows), key=place)
        for table, rows in world.items()
    }


def place(row: dict[str, Any]) -> list[str]:
    """Where a row stands among others: by what is equal in equal rows."""
    exact = {
        # Equal numbers may have more or fewer zeros at their ends, or be means that go on for ever.
        name: value.normalize() if isinstance(value, Decimal) else value
        for name, value in row.items()
        if name != "response_seconds"
    }
    return [f"{name}={exact[name]!r}" for name in sorted(exact)]
