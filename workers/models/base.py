"""What every table shares: the declarative base, constraint names and column types."""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, ClassVar, get_args

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Identity,
    Index,
    Integer,
    MetaData,
    Numeric,
    Text,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import TIMESTAMP
from sqlalchemy.orm import DeclarativeBase, mapped_column

# The names PostgreSQL itself gives to unnamed constraints. Migrations are plain SQL, so that what
# they leave unnamed is called the same there, in the models, and in an error message.
NAMING_CONVENTION = {
    "pk": "%(table_name)s_pkey",
    "fk": "%(table_name)s_%(column_0_name)s_fkey",
    "uq": "%(table_name)s_%(column_0_N_name)s_key",
    "ck": "%(table_name)s_%(constraint_name)s_check",
    "ix": "%(table_name)s_%(column_0_N_name)s_idx",
}

BigInt = Annotated[int, mapped_column(BigInteger)]

# BY DEFAULT, not ALWAYS: data is loaded from elsewhere with the ids it has there.
BigIntId = Annotated[int, mapped_column(BigInteger, Identity(always=False), primary_key=True)]

# The database's clock, so that a writer other than this project need not give the time.
TimestampNow = Annotated[datetime, mapped_column(server_default=func.now())]

CountFromZero = Annotated[int, mapped_column(Integer, server_default=text("0"))]
Flag = Annotated[bool, mapped_column(server_default=text("false"))]
Rating = Annotated[Decimal, mapped_column(Numeric(3, 2), server_default=text("0"))]
Percentage = Annotated[Decimal, mapped_column(Numeric(5, 2), server_default=text("0"))]


class Base(DeclarativeBase):
    """The base of all tables: text is unbounded, times carry their zone."""

    metadata = MetaData(naming_convention=NAMING_CONVENTION)
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        datetime: TIMESTAMP(timezone=True),
        int: Integer,
        str: Text,
    }


def one_of(column: str, values: Any) -> CheckConstraint:
    """A check that `column` holds one of the values of a `Literal`.

    Text with a check, not a PostgreSQL enum: a value is added or removed in one transaction, and
    every client sees plain text.
    """
    listed = ", ".join(f"'{value}'" for value in get_args(values))
    return CheckConstraint(f"{column} IN ({listed})", name=column)


def between(column: str, low: str, high: str) -> CheckConstraint:
    """A check that `column` lies between two SQL literals, both included."""
    return CheckConstraint(f"{column} BETWEEN {low} AND {high}", name=column)


def at_least_zero(column: str) -> CheckConstraint:
    """A check that `column` is not negative."""
    return CheckConstraint(f"{column} >= 0", name=column)


def at_most_bytes(column: str, limit: int, *, as_text: str | None = None) -> CheckConstraint:
    """A check that `column`, or its form as text, is no longer than `limit` bytes."""
    return CheckConstraint(f"octet_length({as_text or column}) <= {limit}", name=column)


def partial_index(name: str, columns: Sequence[str], where: str) -> Index:
    """An index of the live rows only: it stays small while the table keeps its history."""
    return Index(name, *columns, postgresql_where=text(where))
