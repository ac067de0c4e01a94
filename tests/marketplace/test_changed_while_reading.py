"""A row that was changed after a job's statement began, but before it was locked, is left alone.

The statement still sees the row as it was. The lock is for the row as it is now, and so is had at
once: no waiting tells the job that it is about to work with what is no longer true.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest
from sqlalchemy import Connection, event, text

from tests.marketplace.crowds import ROWS, start
from tests.marketplace.jobs import NOW, run_job
from tests.marketplace.web_app import Session, WebApp
from tests.rig.waiting import eventually
from workers.batches import Counts
from workers.database import Database

GATE = 27
"""The number of an advisory lock."""

PAUSE = f", (SELECT pg_advisory_xact_lock({GATE}) OFFSET 0) AS pause"


class Change(NamedTuple):
    job: str
    locks: str
    """What the job's statement reads to know which rows to lock: it is held up there."""
    act: str
    meanwhile: dict[str, int]
    """What the job does of two, one of which was changed."""


CHANGES = [
    Change(
        "cancel_expired_tasks",
        "SELECT id FROM application",
        "UPDATE task_applications SET status = 'rejected' WHERE task_id = 1",
        {"cancelled": 1},
    ),
    Change(
        "check_and_end_activities",
        "SELECT id FROM task",
        "UPDATE tasks SET title = 'Paint it black' WHERE id = 1",
        {"activities": 1, "tasks": 1},
    ),
    Change(
        "check_expired_points",
        "SELECT version FROM due",
        "UPDATE points_transactions SET source = 'gift' WHERE user_id = 1 AND type = 'earn'",
        {"lots": 1, "points": 3, "users": 1, "mismatched": 0},
    ),
    Change(
        "cleanup_long_inactive_chats",
        "SELECT version FROM message",
        "UPDATE customer_service_messages SET content = 'Sorry' WHERE chat_id = 1",
        {"chats": 1, "messages": 1},
    ),
]


@pytest.fixture(scope="module")
def web_app(shared_database: Database) -> Iterator[WebApp]:
    web_app = WebApp(shared_database)
    yield web_app
    web_app.close()


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.job)
def test_what_is_not_as_it_was_read_is_left_for_the_next_run(
    shared_database: Database, web_app: WebApp, change: Change
) -> None:
    start(shared_database, ROWS[change.job], n=2, now=NOW)

    meanwhile = run_while(
        shared_database,
        change.job,
        at=change.locks,
        act=lambda: web_app.do(lambda web: web.must(change.act)),
    )

    assert meanwhile == change.meanwhile
    assert any(run_job(shared_database, change.job).values())
    assert not any(run_job(shared_database, change.job).values())


def test_a_slot_that_was_added_before_the_activity_was_locked_counts(
    shared_database: Database, web_app: WebApp
) -> None:
    start(
        shared_database,
        """
        INSERT INTO activities (id, title, has_time_slots) VALUES (1, 'Yoga', true);
        INSERT INTO service_time_slots (id, service_id, starts_at, ends_at) VALUES
            (1, 1, :now - interval '2 hours', :now - interval '1 hour'),
            (2, 1, :now + interval '1 hour', :now + interval '2 hours');
        INSERT INTO activity_time_slots VALUES (1, 1);
        """,
        n=1,
        now=NOW,
    )

    def prolong(web: Session) -> None:
        web.must("SELECT FROM activities WHERE id = 1 AND status = 'open' FOR UPDATE")
        web.do("INSERT INTO activity_time_slots VALUES (1, 2)")

    meanwhile = run_while(
        shared_database,
        "check_and_end_activities",
        at="SELECT id FROM activities",
        act=lambda: web_app.do(prolong),
    )

    assert meanwhile == {"activities": 0, "tasks": 0}


def run_while(database: Database, job: str, *, at: str, act: Callable[[], None]) -> Counts:
    """Run a job, and act while a statement of it is held up where it reads `at`."""
    with (
        held_up(database, at),
        database.engine.connect() as gate,
        ThreadPoolExecutor(1) as pool,
    ):
        gate.execute(text("SELECT pg_advisory_lock(:gate)"), {"gate": GATE})
        running = pool.submit(run_job, database, job)
        try:
            eventually(lambda: is_anybody_at(gate), message="The job does not come by")
            act()
        finally:
            gate.execute(text("SELECT pg_advisory_unlock(:gate)"), {"gate": GATE})
        return running.result()


@contextmanager
def held_up(database: Database, reading: str) -> Iterator[None]:
    """Have a statement that reads so wait for the gate, after it has begun."""

    def rewrite(
        _connection: Connection, _cursor: Any, statement: str, parameters: Any, *_: Any
    ) -> tuple[str, Any]:
        return statement.replace(f"ARRAY({reading}", f"ARRAY({reading}{PAUSE}"), parameters

    event.listen(database.engine, "before_cursor_execute", rewrite, retval=True)
    try:
        yield
    finally:
        event.remove(database.engine, "before_cursor_execute", rewrite)


def is_anybody_at(gate: Connection) -> bool:
    question = "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted)"
    return bool(gate.scalar(text(question)))
