"""The simulation: keeps a marketplace busy, stops when it should, and keeps the books straight."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import make_url, text
from sqlalchemy.exc import ProgrammingError

from tests.rig.postgres import Postgres, query
from tests.rig.waiting import eventually
from workers.database import Database
from workers.periodic import utc_now
from workers.sample_data import fill
from workers.simulate import simulate
from workers.simulate.acting import Action
from workers.simulate.bustle import BUSTLE
from workers.simulate.conversations import agent_answered, agent_came_or_went, customer_wrote
from workers.simulate.errands import ERRANDS

EVERYTHING = {**ERRANDS, **BUSTLE}

Ask = Callable[[str], int]


@pytest.fixture
def sample(database: Database) -> Database:
    """A database with sample data."""
    with database.transaction() as session:
        fill(session, utc_now())
    return database


@pytest.fixture(scope="module")
def shared_sample(postgres: Postgres) -> Iterator[Database]:
    """A database with sample data, as the tests before have left it."""
    url = postgres.create_database()
    database = Database(url)
    with database.transaction() as session:
        fill(session, utc_now())
    yield database
    database.close()
    postgres.drop_database(url)


@pytest.fixture
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let everything follow on everything else without a pause."""
    monkeypatch.setattr("workers.simulate.ARRIVAL_SECONDS", 0.0)
    monkeypatch.setattr("workers.simulate.AWAY_SECONDS", 0.01)


@pytest.fixture
def ask(database: Database) -> Ask:
    """Ask the database for one number."""

    def ask(question: str) -> int:
        with database.transaction() as session:
            return int(session.scalar(text(question)) or 0)

    return ask


@pytest.fixture
def chance() -> random.Random:
    return random.Random(7)


def attempt(database: Database, action: Action, chance: random.Random) -> str | None:
    with database.transaction() as session:
        return action(session, chance, utc_now())


# --- How long ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("_fast")
def test_it_ends_when_all_people_have_arrived(sample: Database) -> None:
    events: list[str] = []

    counts = simulate(sample, seconds=None, people=200, on_event=events.append, seed=1)

    assert counts.pop("arrived") == 200
    # Everything that happened was reported, one line each.
    assert sum(counts.values()) == len(events)
    assert all("\n" not in event for event in events)
    assert set(counts) <= {action.__name__ for action in EVERYTHING}
    assert counts["asked_customer_service"] > 50


def test_it_ends_when_the_time_is_up(sample: Database) -> None:
    began = time.monotonic()

    counts = simulate(sample, seconds=0.3, people=1_000_000)

    assert time.monotonic() - began < 5
    assert 1 <= counts["arrived"] <= 4


def test_it_ends_when_it_is_told_to_even_while_it_waits(sample: Database) -> None:
    stop = threading.Event()
    is_running = threading.Event()

    def run() -> dict[str, int]:
        return simulate(
            sample, seconds=3600, people=2, on_event=lambda _: is_running.set(), stop=stop
        )

    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(run)
        assert is_running.wait(10)
        stop.set()

        assert ended.result(timeout=5)


def test_whoever_comes_in_little_time_comes_evenly(sample: Database) -> None:
    arrivals: list[float] = []

    simulate(sample, seconds=1, people=4, on_event=lambda _: arrivals.append(time.monotonic()))

    # The last of them after three quarters of the time.
    assert arrivals[-1] - arrivals[0] > 0.5


@pytest.mark.usefixtures("_fast")
def test_it_does_without_sample_data(database: Database, ask: Ask) -> None:
    counts = simulate(database, seconds=None, people=50, seed=2)

    assert counts["arrived"] == 50
    assert ask("SELECT count(*) FROM users") > 0


# --- What happens --------------------------------------------------------------------------------


@pytest.mark.parametrize("action", EVERYTHING, ids=[action.__name__ for action in EVERYTHING])
def test_everything_that_can_happen_happens(
    shared_sample: Database, chance: random.Random, action: Action
) -> None:
    assert any(attempt(shared_sample, action, chance) for _ in range(20))


@pytest.mark.parametrize("action", EVERYTHING, ids=[action.__name__ for action in EVERYTHING])
def test_nothing_fails_where_there_is_nothing(
    database: Database, chance: random.Random, action: Action
) -> None:
    attempt(database, action, chance)


@pytest.mark.usefixtures("_fast")
def test_the_books_stay_straight(sample: Database, ask: Ask) -> None:
    simulate(sample, seconds=None, people=300, seed=3)

    assert not ask(
        """SELECT count(*) FROM points_accounts account
           WHERE balance <> (SELECT sum(CASE type WHEN 'earn' THEN amount ELSE -amount END)
                             FROM points_transactions WHERE user_id = account.user_id)
              OR balance <> (SELECT balance_after FROM points_transactions
                             WHERE user_id = account.user_id ORDER BY id DESC LIMIT 1)"""
    )
    assert not ask(
        """SELECT count(*) FROM customer_service_chats chat
           WHERE last_message_at <> (SELECT max(created_at) FROM customer_service_messages
                                     WHERE chat_id = chat.id)"""
    )
    assert not ask(
        """SELECT count(*) FROM tasks WHERE (status = 'open') <> (taker_id IS NULL)
           AND status <> 'cancelled'"""
    )
    assert not ask(
        """SELECT count(*) FROM customer_service_queue WHERE status = 'waiting'
           GROUP BY user_id HAVING count(*) > 1"""
    )


def test_chats_fall_silent(sample: Database, chance: random.Random, ask: Ask) -> None:
    lines = "SELECT count(*) FROM customer_service_messages"
    before = ask(lines)

    # Nobody goes on for ever: at most five lines of the customer in each of 18 chats, and answers.
    for _ in range(200):
        said = [attempt(sample, action, chance) for action in (customer_wrote, agent_answered)]
        if said == [None, None]:
            break

    assert said == [None, None]
    assert ask(lines) > before


@pytest.mark.parametrize("action", [customer_wrote, agent_answered])
def test_nobody_writes_in_a_chat_that_has_ended(
    sample: Database, chance: random.Random, action: Action
) -> None:
    with sample.transaction() as session:
        session.execute(text("UPDATE customer_service_chats SET ended_at = now()"))

    assert attempt(sample, action, chance) is None


def test_some_agents_always_stay(sample: Database, chance: random.Random, ask: Ask) -> None:
    for _ in range(100):
        attempt(sample, agent_came_or_went, chance)
        assert ask("SELECT count(*) FROM customer_service_agents WHERE is_online") >= 2


# --- When the database goes away -----------------------------------------------------------------


@pytest.fixture
def door(postgres: Postgres, database_url: str) -> Iterator["Door"]:
    door = Door(postgres, database_url)
    yield door
    door.open()


class Door:
    """Shuts everybody out of one database, and lets them in again."""

    def __init__(self, postgres: Postgres, database_url: str) -> None:
        self._admin_url = postgres.url
        self._name = make_url(database_url).database

    def shut(self) -> None:
        query(self._admin_url, f'ALTER DATABASE "{self._name}" ALLOW_CONNECTIONS false')
        query(
            self._admin_url,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name",
            name=self._name,
        )

    def open(self) -> None:
        query(self._admin_url, f'ALTER DATABASE "{self._name}" ALLOW_CONNECTIONS true')


@pytest.mark.usefixtures("_fast")
def test_it_goes_on_when_the_database_is_back(sample: Database, door: Door) -> None:
    stop = threading.Event()
    events: list[str] = []

    def count(beginning: str) -> int:
        return sum(event.startswith(beginning) for event in events)

    def run() -> dict[str, int]:
        return simulate(sample, seconds=60, people=600_000, on_event=events.append, stop=stop)

    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(run)
        try:
            eventually(lambda: events)
            door.shut()
            eventually(lambda: count("The database cannot be used: "))
            door.open()
            eventually(lambda: count("The database can be used again"))
            so_far = len(events)
            eventually(lambda: len(events) > so_far + 3)
        finally:
            stop.set()
        counts = ended.result(timeout=10)

    assert counts["failed"] >= 1
    # Said once, however often it was tried.
    assert count("The database cannot be used: ") == count("The database can be used again") == 1


def test_a_missing_schema_is_no_reason_to_wait(empty_database_url: str) -> None:
    database = Database(empty_database_url)

    with pytest.raises(ProgrammingError):
        simulate(database, seconds=60, people=10)
    database.close()
