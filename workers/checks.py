"""What ``python -m workers check`` looks at: everything that the service needs to run."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import dramatiq
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from workers import connections, schema
from workers.broker import InProcessBroker
from workers.database import Database
from workers.job import QUEUES
from workers.periodic import Entry
from workers.settings import Settings

PROCFILE = Path("Procfile")
"""What runs, in the folder that the command is called in."""

ALLOWED = text(
    """
    SELECT least(
        current_setting('max_connections')::int
            - current_setting('superuser_reserved_connections')::int
            -- Since PostgreSQL 16.
            - coalesce(nullif(current_setting('reserved_connections', true), ''), '0')::int,
        (SELECT nullif(rolconnlimit, -1) FROM pg_roles WHERE rolname = current_user),
        (SELECT nullif(datconnlimit, -1) FROM pg_database WHERE datname = current_database())
    )
    """
)
"""How many connections the server, the role and the database leave us, whichever is the least."""


class Finding(NamedTuple):
    """One line of the report."""

    subject: str
    is_ok: bool
    text: str


def _ok(subject: str, text: str) -> Finding:
    return Finding(subject, is_ok=True, text=text)


def _failed(subject: str, text: str) -> Finding:
    return Finding(subject, is_ok=False, text=text)


def run_checks(
    settings: Settings,
    database: Database,
    broker: dramatiq.Broker,
    schedule: tuple[Entry, ...],
    scale: Mapping[str, int],
) -> Iterator[Finding]:
    """Look at one thing after the other. Nothing is created or changed.

    Args:
        settings: the configuration.
        database: where runs take place.
        broker: where messages come from.
        schedule: when which job is due.
        scale: how many there are of the Procfile's processes; of each one, unless named.
    """
    # A wrong setting, or schedule, would have stopped the process before it came here.
    yield _ok("configuration", "every variable can be used")
    yield from _database_findings(settings, database)
    yield from _broker_findings(settings, broker)
    yield from _connection_findings(database, broker, scale)
    yield _ok("schedule", f"{len(schedule)} jobs, each with an actor")


def _database_findings(settings: Settings, database: Database) -> Iterator[Finding]:
    kind = "DATABASE_URL" if settings.database_url else "embedded, DATABASE_URL is not set"
    try:
        with database.transaction() as session:
            version = session.connection().dialect.server_version_info or ()
        yield _ok("database", f"PostgreSQL {'.'.join(map(str, version))} ({kind})")
        schema.require_current(database.engine)
    except SQLAlchemyError as error:
        yield _failed("database", f"{kind}: {first_line(error)}")
        yield _failed("schema", "not checked: the database cannot be reached")
    except schema.SchemaError as error:
        yield _failed("schema", str(error))
    else:
        yield _ok("schema", f"at revision {schema.head_revision()}")


def _broker_findings(settings: Settings, broker: dramatiq.Broker) -> Iterator[Finding]:
    if isinstance(broker, InProcessBroker):
        is_wanted = settings.rabbitmq_url is None
        reason = "RABBITMQ_URL is not set" if is_wanted else "pika cannot be imported"
        yield Finding("broker", is_wanted, f"in-process: {reason}")
        yield _ok("queues", "in memory")
        return
    from workers import rabbitmq  # noqa: PLC0415 - pika may be missing

    assert isinstance(broker, rabbitmq.Rabbitmq)  # noqa: S101 - there are two kinds
    unreachable = rabbitmq.why_unreachable(broker)
    if unreachable:
        yield _failed("broker", f"RABBITMQ_URL: cannot connect: {unreachable}")
        yield _failed("queues", "not checked: RabbitMQ cannot be reached")
        return
    yield _ok("broker", "RabbitMQ answers")
    problems = rabbitmq.find_problems(broker, QUEUES)
    for problem in problems:
        yield _failed("queues", problem)
    if not problems:
        yield _ok("queues", f"{', '.join(QUEUES)}: as declared, or yet to be")


def _connection_findings(
    database: Database, broker: dramatiq.Broker, scale: Mapping[str, int]
) -> Iterator[Finding]:
    if not PROCFILE.exists():
        yield _ok("connections", "not counted: there is no Procfile in this folder")
        return
    try:
        budget = connections.budget(PROCFILE.read_text(), scale)
    except ValueError as error:
        yield _failed("connections", str(error))
        return
    if not isinstance(broker, InProcessBroker):
        # How many it allows, RabbitMQ tells nobody who may not administrate it.
        yield _ok("connections", f"RabbitMQ: {budget.describe('rabbitmq')}")
    needed = f"PostgreSQL: {budget.describe('postgresql')}"
    try:
        with database.transaction() as session:
            allowed = session.scalars(ALLOWED).one()
    except SQLAlchemyError:
        yield _ok("connections", f"{needed}; what it allows cannot be asked")
        return
    if budget.total.postgresql > allowed:
        advice = "start fewer processes, or with fewer threads, or let it allow more"
        yield _failed("connections", f"{needed}, but it allows {allowed}: {advice}")
    else:
        yield _ok("connections", f"{needed}, of {allowed} that it allows")


def first_line(error: Exception) -> str:
    """Return an error's first line; of a database error, the server's or the driver's words."""
    text = str(getattr(error, "orig", None) or error).strip()
    return text.splitlines()[0] if text else type(error).__name__
