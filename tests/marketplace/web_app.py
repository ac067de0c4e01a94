"""The web app: somebody else who writes the same tables, on connections of its own.

Its transactions are those of a careful backend: they look at what they are about to change again,
under the lock of the change itself. `interleave` puts one of them before each statement of a job
in turn, which shows every order there is; threads, which show only some, are not needed.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from sqlalchemy import Connection, create_engine, event, text
from sqlalchemy.exc import OperationalError

from tests.marketplace.jobs import run_job
from workers.database import Database

Act = Callable[["Session"], None]


class TooLate(Exception):  # noqa: N818 - it names an outcome
    """What the transaction was about to change has changed meanwhile: it gives up."""


class Session:
    """One transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def do(self, statement: str, **values: Any) -> int:
        """Execute one statement, and return how many rows it concerned."""
        return self._connection.execute(text(statement), values).rowcount

    def must(self, statement: str, **values: Any) -> None:
        """Execute one statement, and give up if it concerned no row."""
        if not self.do(statement, **values):
            raise TooLate

    def number(self, question: str, **values: Any) -> Any:
        return self._connection.scalar(text(question), values)


class WebApp:
    """Transactions on the database of `database`.

    Args:
        database: the job's way to it.
        lock_timeout_seconds: how long a statement waits for a lock until it fails.
    """

    def __init__(self, database: Database, *, lock_timeout_seconds: float = 0.02) -> None:
        timeout = f"-c lock_timeout={round(lock_timeout_seconds * 1000)}ms"
        self._engine = create_engine(
            database.engine.url, connect_args={"options": f"{timeout} -c timezone=UTC"}
        )

    def close(self) -> None:
        self._engine.dispose()

    @contextmanager
    def transaction(self, act: Act) -> Iterator[None]:
        """Act, hold the transaction open during the block, and commit it.

        Raises:
            OperationalError: if it has to wait for a lock for too long.
        """
        with self._engine.connect() as connection, connection.begin() as transaction:
            try:
                act(Session(connection))
            except TooLate:
                transaction.rollback()
            yield

    def do(self, act: Act) -> None:
        """Act and commit."""
        with self.transaction(act):
            pass


def before_statement(database: Database, number: int, job: str, act: Callable[[], object]) -> bool:
    """Run a job, and call `act` before its statement of that number.

    Returns:
        whether the job had so many statements.
    """
    count = 0

    def call(*_: Any) -> None:
        nonlocal count
        count += 1
        if count == number:
            act()

    event.listen(database.engine, "before_cursor_execute", call)
    try:
        run_job(database, job)
    finally:
        event.remove(database.engine, "before_cursor_execute", call)
    return count >= number


def interleave(
    database: Database, job: str, web_app: WebApp, act: Act, *, before: int, is_held_open: bool
) -> bool:
    """Run a job, and have the web app act before its statement of that number.

    If it would have to wait for the job, it acts after it, as it then would. Held open, it commits
    when the job has ended.

    Returns:
        whether the job had so many statements.
    """
    has_acted = False

    def attempt() -> None:
        nonlocal has_acted
        # If it must wait, it is undone: nothing of it has happened yet.
        with suppress(OperationalError):
            held.enter_context(web_app.transaction(act))
            has_acted = True
        if not is_held_open:
            held.close()

    with ExitStack() as held:
        is_there = before_statement(database, before, job, attempt)
    if not has_acted:
        web_app.do(act)
    return is_there
