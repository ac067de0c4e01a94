"""Trap 25: a statement that locks the agents and counts their chats counts as of its beginning.
What was committed while it waited for the lock is not in it, and an agent gets a chat too many.

So the agents are locked by a statement of its own, and then their chats are counted.
"""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from tests.probes import PATIENCE_SECONDS
from tests.rig.waiting import eventually
from workers.database import Database
from workers.marketplace import assignment
from workers.periodic import utc_now

ROOM = """
    SELECT max_concurrent_chats - (
        SELECT count(*) FROM customer_service_chats
        WHERE agent_id = agent.id AND ended_at IS NULL
    ) FROM customer_service_agents AS agent
    """
WAITING = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event_type = 'Lock'
    """


@pytest.fixture
def web_app(database: Database) -> Iterator[Session]:
    """The web app, about to give its only agent, who has one seat, a chat."""
    with database.transaction() as session:
        session.execute(
            text("""
                INSERT INTO users (name) VALUES ('Ada'), ('Ben');
                INSERT INTO customer_service_agents (name, is_online, max_concurrent_chats)
                VALUES ('Eve', true, 1);
                INSERT INTO customer_service_queue (user_id) SELECT id FROM users WHERE name = 'Ben'
            """)
        )
    session = Session(database.engine)
    session.execute(
        text("""
            INSERT INTO customer_service_chats (user_id, agent_id)
            SELECT users.id, agent.id FROM users, customer_service_agents AS agent
            WHERE users.name = 'Ada'
        """)
    )
    yield session
    session.close()


def is_anybody_waiting(database: Database) -> bool:
    # A transaction of its own each time: within one, the view does not change.
    with database.transaction() as session:
        return bool(session.scalar(text(WAITING)))


def meanwhile(database: Database, work: Callable[[Session], Any], web_app: Session) -> Any:
    """Do something in a transaction that has to wait for the web app's, which then commits."""
    answers = []

    def run() -> None:
        with database.transaction() as session:
            answers.append(work(session))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    eventually(lambda: is_anybody_waiting(database))
    web_app.commit()
    thread.join(PATIENCE_SECONDS)
    return answers[0]


def test_the_trap_is_there(database: Database, web_app: Session) -> None:
    room = meanwhile(database, lambda session: session.scalar(text(f"{ROOM} FOR UPDATE")), web_app)

    # The only seat is taken, and yet there seems to be one.
    assert room == 1


def test_what_is_counted_after_the_lock_is_true(database: Database, web_app: Session) -> None:
    def lock_and_then_count(session: Session) -> Any:
        session.execute(text("SELECT FROM customer_service_agents FOR UPDATE"))
        return session.scalar(text(ROOM))

    assert meanwhile(database, lock_and_then_count, web_app) == 0


def test_nobody_gets_a_seat_that_is_taken(database: Database, web_app: Session) -> None:
    def assign(session: Session) -> None:
        for _ in assignment.assign_waiting(session, utc_now(), batch_size=10):
            pass

    meanwhile(database, assign, web_app)

    with database.transaction() as session:
        assert session.scalar(text(ROOM)) == 0
