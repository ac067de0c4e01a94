"""Statistics follow what changed, however late it was committed, and all of them once a day."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from tests.marketplace import marketplace, worlds
from tests.marketplace.jobs import NOW, run_batches, run_job
from tests.marketplace.marketplace import Marketplace
from tests.marketplace.oracles import ORACLES
from tests.marketplace.web_app import Session, WebApp
from workers.database import Database

JOB = "update_all_users_statistics"

ADA, BEN, EVA = 1_000_001, 1_000_002, 1_000_003

TOMORROW = (NOW + timedelta(days=1)).replace(hour=0, minute=0)

PEOPLE = [{"id": user_id, "name": "Somebody"} for user_id in (ADA, BEN, EVA)]

Figures = tuple[Any, ...]


@pytest.fixture(scope="module")
def web_app(shared_database: Database) -> Iterator[WebApp]:
    web_app = WebApp(shared_database)
    yield web_app
    web_app.close()


@pytest.fixture
def database(shared_database: Database) -> Database:
    """One with three people, all of whom were looked at today."""
    start(shared_database, {"users": PEOPLE})
    return shared_database


def start(database: Database, world: Marketplace) -> None:
    marketplace.clear(database)
    marketplace.fill(database, world)
    run_job(database, JOB)


def figures(database: Database, user_id: int) -> Figures:
    (user,) = (user for user in marketplace.read(database)["users"] if user["id"] == user_id)
    return user["task_count"], user["completed_task_count"], user["avg_rating"]


def notes(database: Database) -> list[int]:
    with database.transaction() as session:
        return list(session.scalars(text("SELECT user_id FROM statistics_changes ORDER BY id")))


def post(poster: int, taker: int | None = None, status: str = "open") -> Callable[[Session], None]:
    def act(web: Session) -> None:
        web.do(
            "INSERT INTO tasks (id, title, poster_id, taker_id, status)"
            " VALUES (7, 'Paint', :poster, :taker, :status)",
            poster=poster,
            taker=taker,
            status=status,
        )

    return act


def change(statement: str, **values: Any) -> Callable[[Session], None]:
    def act(web: Session) -> None:
        web.do(statement, **values)

    return act


def review(rating: str) -> Callable[[Session], None]:
    return change(
        "INSERT INTO reviews (task_id, reviewer_id, reviewee_id, rating)"
        " VALUES (7, :ben, :ada, :rating)",
        ada=ADA,
        ben=BEN,
        rating=rating,
    )


# --- What changed ---------------------------------------------------------------------------------


def test_a_task_counts_for_both_sides(database: Database, web_app: WebApp) -> None:
    web_app.do(post(ADA, BEN, "completed"))

    assert run_job(database, JOB) == {"users": 2}
    assert figures(database, ADA) == figures(database, BEN) == (1, 1, 0)


def test_a_task_that_changes_hands_concerns_three_people(
    database: Database, web_app: WebApp
) -> None:
    web_app.do(post(ADA, BEN, "completed"))
    run_job(database, JOB)

    web_app.do(change("UPDATE tasks SET taker_id = :eva, status = 'taken'", eva=EVA))

    assert run_job(database, JOB) == {"users": 3}
    assert figures(database, ADA) == (1, 0, 0)
    assert figures(database, BEN) == (0, 0, 0)
    assert figures(database, EVA) == (1, 0, 0)


def test_deleted_rows_no_longer_count(database: Database, web_app: WebApp) -> None:
    web_app.do(post(ADA, BEN, "completed"))
    web_app.do(review("4.5"))
    run_job(database, JOB)
    assert figures(database, ADA) == (1, 1, Decimal("4.5"))

    web_app.do(change("DELETE FROM reviews"))
    web_app.do(change("DELETE FROM tasks"))

    assert run_job(database, JOB) == {"users": 2}
    assert figures(database, ADA) == figures(database, BEN) == (0, 0, 0)


def test_a_mean_is_rounded_to_two_places_halves_up(database: Database, web_app: WebApp) -> None:
    web_app.do(post(ADA, BEN, "completed"))
    for rating in ("4.5", "4.5", "4.5", "4.5", "4.5", "4.5", "4.5", "4.9"):
        web_app.do(review(rating))
        run_job(database, JOB)
    assert figures(database, ADA)[2] == Decimal("4.55")

    web_app.do(change("UPDATE reviews SET rating = 4.7 WHERE rating = 4.9"))

    run_job(database, JOB)
    assert figures(database, ADA)[2] == Decimal("4.53")


def test_what_commits_late_is_seen_late_and_not_missed(database: Database, web_app: WebApp) -> None:
    with web_app.transaction(post(ADA)):
        # While that is open, another comes and is counted, and days pass.
        web_app.do(change("INSERT INTO tasks (title, poster_id) VALUES ('Walk', :ben)", ben=BEN))
        assert run_job(database, JOB) == {"users": 1}
        assert run_job(database, JOB, now=TOMORROW) == {"users": 0}

    assert run_job(database, JOB, now=TOMORROW) == {"users": 1}
    assert figures(database, ADA) == (1, 0, 0)


def test_what_is_rolled_back_leaves_no_note(database: Database, web_app: WebApp) -> None:
    def post_and_give_up(web: Session) -> None:
        post(ADA)(web)
        web.must("DELETE FROM users WHERE id = -1")

    web_app.do(post_and_give_up)

    assert notes(database) == []


def test_writers_do_not_wait_for_each_other(database: Database, web_app: WebApp) -> None:
    insert = change("INSERT INTO tasks (title, poster_id) VALUES ('Walk', :ada)", ada=ADA)

    with ExitStack() as open_transactions:
        # Each fails at once if it has to wait for one before it.
        for _ in range(4):
            open_transactions.enter_context(web_app.transaction(insert))

    assert run_job(database, JOB) == {"users": 1}
    assert figures(database, ADA) == (4, 0, 0)


@pytest.mark.parametrize(
    ("statement", "noted"),
    [
        ("UPDATE tasks SET title = 'Paint it black', deadline = now()", []),
        ("UPDATE tasks SET status = 'in_progress'", []),
        ("UPDATE tasks SET status = 'completed'", [ADA, BEN]),
        ("UPDATE tasks SET taker_id = NULL", [BEN]),
        ("UPDATE tasks SET poster_id = 1000003", [ADA, EVA]),
        # Two who swap have what they had.
        ("UPDATE tasks SET poster_id = taker_id, taker_id = poster_id", []),
        ("UPDATE tasks SET id = id + 1 WHERE id = 7", []),
        ("UPDATE tasks SET status = 'completed' WHERE id = -1", []),
        ("UPDATE users SET name = 'Somebody else'", []),
        ("INSERT INTO users (id, name) VALUES (4, 'New')", []),
        ("INSERT INTO users (id, name, task_count) VALUES (4, 'New', 1)", [4]),
    ],
)
def test_only_those_are_noted_whom_a_change_concerns(
    database: Database, web_app: WebApp, statement: str, noted: list[int]
) -> None:
    web_app.do(post(ADA, BEN, "taken"))
    run_job(database, JOB)

    web_app.do(change(statement))

    assert sorted(notes(database)) == sorted(noted)


def test_nobody_else_is_looked_at(database: Database, web_app: WebApp) -> None:
    # Given figures that are wrong, and of which no trigger knows
    web_app.do(change("UPDATE users SET task_count = 9"))

    web_app.do(post(ADA))

    assert run_job(database, JOB) == {"users": 1}
    assert figures(database, BEN)[0] == 9


def test_a_note_about_somebody_who_has_left_is_dropped(database: Database, web_app: WebApp) -> None:
    web_app.do(post(ADA, EVA))
    web_app.do(change("DELETE FROM tasks"))
    web_app.do(change("DELETE FROM users WHERE id = :eva", eva=EVA))

    assert run_job(database, JOB) == {"users": 0}
    assert notes(database) == []


def test_somebody_who_is_locked_stays_noted(database: Database, web_app: WebApp) -> None:
    web_app.do(post(ADA, BEN))

    with web_app.transaction(change("SELECT FROM users WHERE id = :ada FOR UPDATE", ada=ADA)):
        assert run_job(database, JOB) == {"users": 1}
        assert run_job(database, JOB) == {"users": 0}

    assert run_job(database, JOB) == {"users": 1}
    assert notes(database) == []


CHANGES = [
    "INSERT INTO tasks (title, poster_id, status) SELECT 'A', {user}, 'completed'",
    (
        "INSERT INTO tasks (title, poster_id, taker_id) SELECT 'A', {user}, {other}"
        " WHERE {user} <> {other}"
    ),
    "UPDATE tasks SET status = 'completed' WHERE poster_id = {user}",
    "UPDATE tasks SET status = 'open' WHERE taker_id = {user}",
    "UPDATE tasks SET taker_id = {user} WHERE poster_id <> {user}",
    (
        "UPDATE tasks SET poster_id = {other} WHERE poster_id = {user}"
        " AND taker_id IS DISTINCT FROM {other}"
    ),
    "DELETE FROM reviews WHERE reviewee_id = {user}",
    "DELETE FROM tasks WHERE taker_id = {user} AND id NOT IN (SELECT task_id FROM reviews)",
    (
        "INSERT INTO reviews (task_id, reviewer_id, reviewee_id, rating)"
        " SELECT id, {user}, {other}, 3.5 FROM tasks"
    ),
    "UPDATE reviews SET rating = 1 WHERE reviewer_id = {user}",
    "UPDATE reviews SET reviewee_id = {other}",
]


def test_after_any_changes_the_changed_are_as_right_as_all(
    shared_database: Database, web_app: WebApp
) -> None:
    people = st.integers(ADA, EVA)

    @settings(max_examples=60)
    @given(
        changes=st.lists(st.tuples(st.sampled_from(CHANGES), people, people), max_size=8),
        batch_size=st.sampled_from([1, 2, 10_000]),
    )
    def follows(changes: list[tuple[str, int, int]], batch_size: int) -> None:
        start(shared_database, {"users": PEOPLE})
        for statement, user, other in changes:
            web_app.do(change(statement.format(user=user, other=other)))
            expected = marketplace.read(shared_database)
            counts = ORACLES[JOB](expected, NOW)

            assert run_job(shared_database, JOB, batch_size=batch_size) == counts
            assert marketplace.read(shared_database)["users"] == expected["users"]
        assert notes(shared_database) == []

    follows()


# --- All, once a day ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("last", "now", "is_due"),
    [
        (NOW, NOW, False),
        (NOW, NOW + timedelta(minutes=29), False),
        (NOW, TOMORROW, True),
        (TOMORROW, TOMORROW + timedelta(hours=23, minutes=59), False),
        (TOMORROW, TOMORROW + timedelta(days=1), True),
    ],
)
def test_the_first_run_of_a_day_looks_at_all(
    shared_database: Database, web_app: WebApp, last: datetime, now: datetime, *, is_due: bool
) -> None:
    marketplace.clear(shared_database)
    marketplace.fill(shared_database, {"users": PEOPLE})
    run_job(shared_database, JOB, now=last)

    web_app.do(change("UPDATE users SET task_count = 9"))

    assert run_job(shared_database, JOB, now=now) == {"users": 3 if is_due else 0}


def test_a_pass_that_was_cut_short_goes_on_where_it_was(
    database: Database, web_app: WebApp
) -> None:
    web_app.do(change("UPDATE users SET task_count = 9"))

    # Given a run of the next day that ends after two people
    batches = run_batches(database, JOB, now=TOMORROW, batch_size=1)
    assert [next(batches), next(batches)] == [{"users": 1}, {"users": 1}]
    batches.close()

    assert run_job(database, JOB, now=TOMORROW) == {"users": 1}
    assert [figures(database, user_id)[0] for user_id in (ADA, BEN, EVA)] == [0, 0, 0]


@pytest.mark.parametrize("now", [NOW, TOMORROW])
def test_figures_that_cannot_be_are_put_right(
    database: Database, web_app: WebApp, now: datetime
) -> None:
    web_app.do(change("UPDATE users SET task_count = 2147483647"))

    web_app.do(post(ADA, BEN))

    assert run_job(database, JOB, now=now) == {"users": 2 if now == NOW else 3}
    assert figures(database, ADA) == figures(database, BEN) == (1, 0, 0)


def test_any_marketplace_is_right_after_a_full_pass(shared_database: Database) -> None:
    @settings(max_examples=20)
    @given(world=worlds.tasks(), batch_size=st.sampled_from([1, 10_000]))
    def is_right(world: Marketplace, batch_size: int) -> None:
        start(shared_database, world)
        with shared_database.transaction() as session:
            session.execute(text("UPDATE users SET task_count = 9, avg_rating = 1.5"))
        expected = marketplace.read(shared_database)
        counts = ORACLES[JOB](expected, TOMORROW)

        assert run_job(shared_database, JOB, now=TOMORROW, batch_size=batch_size) == counts
        assert marketplace.read(shared_database)["users"] == expected["users"]

    is_right()
