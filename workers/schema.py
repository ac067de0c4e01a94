"""The database's schema: bring it up to date, and say where it stands.

Any number of processes may call `migrate` at once, as the release step and the dynos of a deploy
do. A session-level advisory lock lets one through at a time; whoever comes later finds nothing
left to do. The lock belongs to the connection that migrates, so that a process which is killed
half-way gives it back, and its changes, all in one transaction, are rolled back.
"""

import logging
import threading
import time
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import OperationalError

if TYPE_CHECKING:
    from alembic.config import Config
    from alembic.script import ScriptDirectory

log = logging.getLogger(__name__)

MIGRATIONS = Path(__file__).parent / "migrations"

POLL_SECONDS = 0.2
LOCK_NOT_AVAILABLE = "55P03"

# Alembic keeps the command in progress in a module global: one at a time in a process, also when
# they concern different databases.
_alembic = threading.Lock()


class SchemaError(Exception):
    """The schema is not what this version of the code needs; one line says what to do."""


class SchemaBehind(SchemaError):  # noqa: N818 - it names a state
    """Migrations are yet to be applied."""


def migrate(
    engine: Engine, *, wait_seconds: float = 60, table_wait_seconds: float = 10
) -> list[str]:
    """Bring the schema to the newest revision: all of it, or, on any error, nothing.

    Args:
        engine: where to.
        wait_seconds: how long to wait for another process that is migrating.
        table_wait_seconds: how long a statement waits for a table that is in use. Whoever comes
            after a waiting migration waits too, and so this must be short.

    Returns:
        the revisions applied, oldest first; empty if there was nothing to do.

    Raises:
        SchemaError: if a wait was in vain, or the database is newer than the code.
    """
    with engine.connect() as connection:
        # Out of the pool: its settings and its lock must not reach anybody else.
        connection.detach()
        _prepare(connection, table_wait_seconds)
        _take_lock(connection, wait_seconds)
        return _upgrade(connection)


def current_revision(engine: Engine) -> str | None:
    """The revision that the database is at; None before the first migration."""
    with engine.connect() as connection:
        return _revision(connection)


def head_revision() -> str:
    """The newest revision that the code knows."""
    head = _scripts().get_current_head()
    if head is None:
        raise SchemaError(f"there are no migrations in {MIGRATIONS}; is the installation complete?")
    return head


def require_current(engine: Engine) -> None:
    """Make sure that the database is at the code's revision.

    Raises:
        SchemaBehind: if migrations are yet to be applied.
        SchemaError: if the database is newer than the code.
    """
    with engine.connect() as connection:
        require_current_on(connection)


def require_current_on(connection: Connection) -> None:
    """Do what `require_current` does, on a connection that is there already."""
    current = _revision(connection)
    if pending := _pending(current):
        raise SchemaBehind(
            f"the database is at revision {current or 'none'}, the code at {pending[-1]}: "
            "run `python -m workers migrate`"
        )


def _prepare(connection: Connection, table_wait_seconds: float) -> None:
    settings = {
        "lock_timeout": f"{round(table_wait_seconds * 1000)}ms",
        # Building an index over much data may take longer than any statement of a job may.
        "statement_timeout": "0",
    }
    with connection.begin():
        for name, value in settings.items():
            connection.execute(
                text("SELECT set_config(:name, :value, false)"), {"name": name, "value": value}
            )


def _take_lock(connection: Connection, wait_seconds: float) -> None:
    # Asked for again and again, rather than waited for: a waiting statement would keep a snapshot
    # open, for which a migration that builds an index concurrently waits in its turn.
    deadline = time.monotonic() + wait_seconds
    is_waiting = False
    while True:
        with connection.begin():
            if connection.scalar(
                text("SELECT pg_try_advisory_lock(hashtextextended('workers.schema', 0))")
            ):
                return
        if time.monotonic() >= deadline:
            raise SchemaError(
                f"another process has been migrating this database for {wait_seconds:g} s; "
                "try again when it has finished"
            )
        if not is_waiting:
            log.info("Waiting for another process that is migrating the schema")
            is_waiting = True
        time.sleep(POLL_SECONDS)


def _upgrade(connection: Connection) -> list[str]:
    began = time.monotonic()
    try:
        with connection.begin():
            current = _revision(connection)
        pending = _pending(current)
        if not pending:
            log.info("The schema is up to date at revision %s", current)
            return []
        log.info("Migrating the schema from revision %s to %s", current or "none", pending[-1])
        from alembic import command  # noqa: PLC0415 - see _config

        with _alembic:
            command.upgrade(_config(connection), "head")
    except OperationalError as error:
        if getattr(error.orig, "pgcode", None) == LOCK_NOT_AVAILABLE:
            raise SchemaError(
                "a table to be changed was in use for too long; nothing was changed, try again"
            ) from error
        raise
    log.info("Migrated the schema in %.1f s", time.monotonic() - began)
    return pending


def _revision(connection: Connection) -> str | None:
    # Alembic's own way announces itself in the log each time; health checks ask often.
    if connection.scalar(text("SELECT to_regclass('alembic_version')")) is None:
        return None
    revision: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return revision


def _pending(current: str | None) -> list[str]:
    """The revisions after `current`, oldest first."""
    newest_first = _revisions(MIGRATIONS)
    if current is None:
        return newest_first[::-1]
    if current not in newest_first:
        raise SchemaError(
            f"the database is at revision {current}, which this version of the code does not "
            f"know (it knows {newest_first[0]}): deploy the newer code"
        )
    return newest_first[: newest_first.index(current)][::-1]


@cache
def _revisions(_folder: Path) -> list[str]:
    """All that the code knows, newest first. Read once: reading imports every migration."""
    return [script.revision for script in _scripts().walk_revisions()]


def _scripts() -> "ScriptDirectory":
    from alembic.script import ScriptDirectory  # noqa: PLC0415 - see _config

    return ScriptDirectory.from_config(_config())


def _config(connection: Connection | None = None) -> "Config":
    # Not at the top: Alembic is slow to import, and logs a page of details while at it. Every
    # process of the service imports this module, and few have anything to migrate.
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    # Read through configparser, to which a percent sign in a path means something.
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config
