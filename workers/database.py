"""PostgreSQL: the engine, the transaction, and the locks that a run holds.

This is the one file in which ``commit`` and ``rollback`` stand (a test keeps it so). Everything
else works inside `Database.transaction`, or inside the transactions of a `Lease`.
"""

import logging
import math
import selectors
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import Any

import psycopg2
from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.orm import Session

from workers import local_postgres

log = logging.getLogger(__name__)

LOCK_TIMEOUT_SECONDS = 10
"""How long a statement waits for a row that somebody else has locked, before it fails."""

KEPT_CONNECTIONS = 5
"""So many are kept open once they were needed; those beyond are closed after use."""

MAX_CONNECTIONS = 25
"""One a worker thread; more threads than this wait for each other."""


class Database:
    """The connection pool of one process. Connects when first used, not when made.

    Args:
        url: a SQLAlchemy URL; None starts, or joins, the embedded server.
        statement_timeout_seconds: when PostgreSQL itself ends a statement. An exception raised in
            a thread does not reach it while it waits for the server, so the server must.
        max_connections: how many there are at most; whoever wants another waits for 10 s.
    """

    def __init__(
        self,
        url: str | None,
        *,
        statement_timeout_seconds: int = 1500,
        max_connections: int = MAX_CONNECTIONS,
    ) -> None:
        self._url = url
        self._statement_timeout_seconds = statement_timeout_seconds
        self._max_connections = max_connections

    @cached_property
    def engine(self) -> Engine:
        server_settings = {
            "timezone": "UTC",
            "statement_timeout": f"{self._statement_timeout_seconds}s",
            "lock_timeout": f"{LOCK_TIMEOUT_SECONDS}s",
            # A killed worker's backend would otherwise go on waiting for a lock, and hold the
            # claim of its run, until the statement returns.
            "client_connection_check_interval": "2s",
        }
        return create_engine(
            self._url or local_postgres.start(),
            pool_size=KEPT_CONNECTIONS,
            max_overflow=self._max_connections - KEPT_CONNECTIONS,
            pool_timeout=10,
            # One round trip at checkout, so that a database restart fails no run that began later.
            pool_pre_ping=True,
            connect_args={
                "application_name": "workers",
                "connect_timeout": 5,
                "options": " ".join(
                    f"-c {name}={value}" for name, value in server_settings.items()
                ),
                "keepalives": 1,
                "keepalives_idle": 30,
                "keepalives_interval": 10,
                "keepalives_count": 3,
                # Keepalives only speak when nothing else is said: a statement whose answer never
                # comes because its question never arrived would hang for a quarter of an hour.
                "tcp_user_timeout": 30_000,
            },
        )

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """Commit what the block did, or roll it back if anything at all was raised."""
        with self.engine.connect() as connection, _transaction(_session(connection)) as session:
            yield session

    @contextmanager
    def lease(self, *, statement_timeout_seconds: float | None = None) -> Iterator["Lease"]:
        """Lend one connection for several transactions, with locks that outlive each of them.

        Args:
            statement_timeout_seconds: what counts instead of the timeout of this database's other
                connections. It costs each transaction a round trip.
        """
        if statement_timeout_seconds == self._statement_timeout_seconds:
            statement_timeout_seconds = None
        with self.engine.connect() as connection:
            lease = Lease(connection, statement_timeout_seconds)
            try:
                yield lease
            finally:
                lease.release()

    def close(self) -> None:
        """Close all connections that are not in use."""
        if "engine" in self.__dict__:
            self.engine.dispose()


class Lease:
    """One connection, held for the length of one run, or for as long as a process relays.

    The locks are PostgreSQL's session-level advisory locks: they belong to the connection, so that
    a killed worker, a cut network or a restarted server gives them back without anybody's help.
    """

    def __init__(
        self, connection: Connection, statement_timeout_seconds: float | None = None
    ) -> None:
        self._connection = connection
        self._statement_timeout_seconds = statement_timeout_seconds
        self._is_listening = False
        # As it is now: asked for a broken connection, SQLAlchemy would make another one.
        driver_connection: Any = connection.connection.driver_connection
        self._driver_connection = driver_connection
        self.backend_pid: int = driver_connection.info.backend_pid
        """The server's process at the other end of this connection."""
        self.session = _session(connection)

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """Like `Database.transaction`, on this lease's connection, always with its one session."""
        with _transaction(self.session):
            if self._statement_timeout_seconds is not None:
                self.session.execute(
                    text("SELECT set_config('statement_timeout', :milliseconds, true)"),
                    {"milliseconds": str(math.ceil(self._statement_timeout_seconds * 1000))},
                )
            yield self.session

    def cancel_statement(self) -> None:
        """Have the server end the statement that it executes for this connection, if any.

        For other threads than the one that waits for it.
        """
        with suppress(psycopg2.Error):  # the connection is closed, or the server cannot be reached
            self._driver_connection.cancel()

    def try_lock(self, name: str) -> bool:
        """Take the lock `name` until the lease ends, unless another connection holds it."""
        taken = self.session.scalar(
            text("SELECT pg_try_advisory_lock(hashtextextended(:name, 0))"), {"name": name}
        )
        return bool(taken)

    def listen(self, channel: str) -> None:
        """From now on, let `wait` end when a transaction commits that notified `channel`."""
        self._is_listening = True
        with self.transaction() as session:
            session.execute(text(f'LISTEN "{channel}"'))

    def wait(self, timeout_seconds: float, *, wake: socket.socket) -> None:
        """Wait for a notification, for something to read on `wake`, or until the time is up.

        What was notified since the last call ends it at once. It ends too when the connection
        breaks; the next statement says so. No transaction may be open: notifications would wait.
        """
        connection = self._driver_connection
        # psycopg2's own errors; SQLAlchemy translates only those of statements.
        with suppress(psycopg2.Error), selectors.DefaultSelector() as selector:
            # First what is here already: libpq may have read it along with an earlier answer.
            connection.poll()
            if not connection.notifies:
                selector.register(connection, selectors.EVENT_READ)
                selector.register(wake, selectors.EVENT_READ)
                selector.select(timeout_seconds)
                connection.poll()
            connection.notifies.clear()

    def release(self) -> None:
        """Give the locks back. A connection that cannot is closed, which gives them back too."""
        try:
            with self.transaction() as session:
                session.execute(text("SELECT pg_advisory_unlock_all()"))
                if self._is_listening:
                    session.execute(text("UNLISTEN *"))
        except BaseException as error:
            self._connection.invalidate()
            if not isinstance(error, Exception):
                raise
            log.warning("Closed a database connection that could not release its locks: %s", error)


def terminate_backend(session: Session, backend_pid: int) -> None:
    """End another connection of this role, and wait a second at most until it is gone."""
    session.execute(text("SELECT pg_terminate_backend(:pid, 1000)"), {"pid": backend_pid})


def _session(connection: Connection) -> Session:
    return Session(connection, expire_on_commit=False)


@contextmanager
def _transaction(session: Session) -> Iterator[Session]:
    try:
        yield session
        session.commit()
    except BaseException:
        # Also for time limits and shutdown, which arrive as BaseException at any line, even inside
        # COMMIT. What its outcome was is then settled by the claim, at the next delivery.
        _roll_back(session)
        raise
    finally:
        session.close()


def _roll_back(session: Session) -> None:
    try:
        session.rollback()
    except Exception:
        # The error that brought us here matters more; the server rolls back by itself.
        log.warning("Rollback failed; closing the connection", exc_info=True)
        session.invalidate()
