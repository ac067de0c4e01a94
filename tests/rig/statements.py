"""Counting SQL statements, to show that a rule is set-based: as many for many rows as for one."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Engine, event


@contextmanager
def count_statements(engine: Engine) -> Iterator[list[str]]:
    """List every statement that `engine` sends within the block; BEGIN and COMMIT are none.

    One statement executed for many sets of parameters counts once for each of them.
    """
    statements: list[str] = []

    def note(
        _connection: Any,
        _cursor: Any,
        statement: str,
        parameters: Any,
        _context: Any,
        executemany: bool,  # noqa: FBT001 - the signature is SQLAlchemy's
    ) -> None:
        statements.extend([statement] * (len(parameters) if executemany else 1))

    event.listen(engine, "before_cursor_execute", note)
    try:
        yield statements
    finally:
        event.remove(engine, "before_cursor_execute", note)
