"""The sample: small, believable, the same each time, and with work for every job."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, inspect, text

from tests.rig.postgres import Postgres
from workers.database import Database
from workers.models import Base
from workers.sample_data import fill

NOW = datetime(2026, 11, 23, 23, 30, tzinfo=UTC)

Ask = Callable[..., Any]


@pytest.fixture(scope="module")
def sample_url(postgres: Postgres) -> Iterator[str]:
    url = postgres.create_database()
    database = Database(url)
    with database.transaction() as session:
        fill(session, NOW)
    database.close()
    yield url
    postgres.drop_database(url)


@pytest.fixture(scope="module")
def engine(sample_url: str) -> Iterator[Engine]:
    engine = create_engine(sample_url, connect_args={"options": "-c timezone=UTC"})
    yield engine
    engine.dispose()


@pytest.fixture
def ask(engine: Engine) -> Ask:
    """Ask for one number, true or false; `:now` is the sample's present."""

    def ask(question: str, **parameters: Any) -> Any:
        with engine.connect() as connection:
            return connection.scalar(text(question), {"now": NOW, **parameters})

    return ask


def content(url: str) -> dict[str, list[tuple[Any, ...]]]:
    """All rows of all tables, without what the database's own clock wrote."""
    engine = create_engine(url)
    tables = {}
    with engine.connect() as connection:
        for table in Base.metadata.sorted_tables:
            columns = [
                column
                for column in table.columns
                if not (table.name == "featured_task_experts" and column.name == "updated_at")
            ]
            rows = connection.execute(table.select().with_only_columns(*columns))
            tables[table.name] = sorted(map(tuple, rows), key=repr)
    engine.dispose()
    return tables


def test_the_counts_it_returns_are_the_rows_it_added(database: Database, ask: Ask) -> None:
    with database.transaction() as session:
        counts = fill(session, NOW)

    assert counts
    assert counts == {table: ask(f"SELECT count(*) FROM {table}") for table in counts}
    # Triggers note in the first whom the added tasks and reviews concern.
    untouched = {*Base.metadata.tables} - {"statistics_changes"} - {*counts}
    assert untouched == {
        "job_runs",
        "job_totals",
        "outbox_events",
        "outbox_messages",
        "service_processes",
        "notifications",
        "audit_log",
        "statistics_full_pass",
    }
    assert all(ask(f"SELECT count(*) FROM {table}") == 0 for table in untouched)


def test_the_same_present_gives_the_same_sample(
    database: Database, database_url: str, sample_url: str
) -> None:
    with database.transaction() as session:
        fill(session, NOW)

    assert content(database_url) == content(sample_url)


def test_it_adds_nothing_where_there_are_users(database: Database, database_url: str) -> None:
    with database.transaction() as session:
        session.execute(text("INSERT INTO users (name) VALUES ('Somebody')"))
    before = content(database_url)

    with database.transaction() as session:
        counts = fill(session, NOW)

    assert counts == {}
    assert content(database_url) == before


def test_it_leaves_the_commit_to_its_caller(database: Database, database_url: str) -> None:
    def fill_and_fail() -> None:
        with database.transaction() as session:
            fill(session, NOW)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fill_and_fail()

    assert not content(database_url)["users"]


def test_rows_added_later_get_ids_of_their_own(database: Database) -> None:
    with database.transaction() as session:
        fill(session, NOW)

    with database.transaction() as session:
        added = session.scalar(text("INSERT INTO users (name) VALUES ('New') RETURNING id"))
        assert added == session.scalar(text("SELECT max(id) FROM users"))


def test_nothing_lies_in_the_future_but_ends(ask: Ask, engine: Engine) -> None:
    ends = {"deadline", "valid_until", "expires_at", "starts_at", "ends_at"}
    # The database's own clock wrote these; the sample's present may be any time.
    own = {("featured_task_experts", "updated_at")}
    inspector = inspect(engine)
    for table in Base.metadata.tables:
        for column in inspector.get_columns(table):
            name = column["name"]
            is_time = "TIMESTAMP" in str(column["type"])
            if is_time and name not in ends and (table, name) not in own:
                assert not ask(f"SELECT bool_or({name} > :now) FROM {table}"), (table, name)


@pytest.mark.parametrize(
    ("what", "question"),
    [
        ("people wait", "SELECT count(*) FROM customer_service_queue WHERE status = 'waiting'"),
        (
            "a chat is to be warned about now",
            """SELECT count(*) FROM customer_service_chats WHERE ended_at IS NULL
               AND last_message_at > :now - interval '120 s'
               AND last_message_at <= :now - interval '60 s'""",
        ),
        (
            "a chat is to be warned about within the next 30 seconds",
            """SELECT count(*) FROM customer_service_chats WHERE ended_at IS NULL
               AND last_message_at > :now - interval '60 s'
               AND last_message_at <= :now - interval '30 s'""",
        ),
        (
            "a chat ends now",
            """SELECT count(*) FROM customer_service_chats WHERE ended_at IS NULL
               AND last_message_at <= :now - interval '120 s'""",
        ),
        (
            "an old chat is to be cleaned up",
            """SELECT count(*) FROM customer_service_chats
               WHERE ended_at < :now - interval '30 d'""",
        ),
        (
            "a task is overdue",
            "SELECT count(*) FROM tasks WHERE status = 'open' AND deadline < :now",
        ),
        (
            "somebody applied for an overdue task",
            """SELECT count(*) FROM task_applications JOIN tasks ON tasks.id = task_id
               WHERE tasks.status = 'open' AND deadline < :now
               AND task_applications.status = 'pending'""",
        ),
        (
            "a coupon is overdue",
            "SELECT count(*) FROM coupons WHERE status = 'active' AND valid_until < :now",
        ),
        (
            "somebody holds an unused coupon that was disabled and is overdue",
            """SELECT count(*) FROM user_coupons JOIN coupons ON coupons.id = coupon_id
               WHERE coupons.status = 'disabled' AND valid_until < :now
               AND user_coupons.status = 'unused'""",
        ),
        (
            "an invitation code is overdue",
            "SELECT count(*) FROM invitation_codes WHERE is_active AND valid_until < :now",
        ),
        (
            "a lot is due",
            """SELECT count(*) FROM points_transactions
               WHERE type = 'earn' AND NOT expired AND expires_at <= :now""",
        ),
        (
            "an activity without slots is overdue",
            """SELECT count(*) FROM activities
               WHERE status = 'open' AND NOT has_time_slots AND deadline < :now""",
        ),
        (
            "an activity's last day is over",
            "SELECT count(*) FROM activities WHERE status = 'open' AND end_date < date :today",
        ),
        ("reviews are to be averaged", "SELECT count(*) FROM reviews"),
        ("experts' messages are read", "SELECT count(*) FROM message_reads"),
    ],
)
def test_there_is_work_for_every_job(ask: Ask, what: str, question: str) -> None:
    question = question.replace(":today", f"'{NOW:%Y-%m-%d}'")

    assert ask(question) > 0, what


def test_no_agent_has_more_open_chats_than_it_takes(ask: Ask) -> None:
    assert not ask(
        """SELECT count(*) FROM customer_service_agents agent
           WHERE max_concurrent_chats < (SELECT count(*) FROM customer_service_chats
                                         WHERE agent_id = agent.id AND ended_at IS NULL)"""
    )


def test_not_everybody_who_waits_can_be_placed_at_once(ask: Ask) -> None:
    room = ask(
        """SELECT sum(max_concurrent_chats) - (SELECT count(*) FROM customer_service_chats
                                               WHERE ended_at IS NULL)
           FROM customer_service_agents WHERE is_online"""
    )
    assert 0 < room < ask("SELECT count(*) FROM customer_service_queue WHERE status = 'waiting'")


def test_a_chat_was_last_written_to_when_its_last_message_was(ask: Ask) -> None:
    assert not ask(
        """SELECT count(*) FROM customer_service_chats chat
           WHERE last_message_at <> (SELECT max(created_at) FROM customer_service_messages
                                     WHERE chat_id = chat.id)
              OR created_at > last_message_at OR ended_at < last_message_at"""
    )


def test_points_add_up(ask: Ask) -> None:
    assert not ask(
        """SELECT count(*) FROM points_accounts account
           WHERE balance <> (SELECT sum(CASE type WHEN 'earn' THEN amount ELSE -amount END)
                             FROM points_transactions WHERE user_id = account.user_id)
              OR balance <> (SELECT balance_after FROM points_transactions
                             WHERE user_id = account.user_id ORDER BY id DESC LIMIT 1)"""
    )
    assert not ask(
        """SELECT count(*) FROM points_transactions WHERE balance_after < 0
           OR user_id NOT IN (SELECT user_id FROM points_accounts)"""
    )


def test_what_expired_before_belongs_to_a_lot_that_expired(ask: Ask) -> None:
    expired = "SELECT count(*) FROM points_transactions WHERE type = 'expire'"
    assert ask(expired) > 0
    assert ask(expired) == ask(
        """SELECT count(*) FROM points_transactions line
           JOIN points_transactions lot ON lot.id = line.related_id
           WHERE line.type = 'expire' AND lot.type = 'earn' AND lot.expired
           AND lot.user_id = line.user_id AND lot.amount >= line.amount"""
    )


def test_people_speak_both_languages(ask: Ask) -> None:
    assert ask("SELECT count(*) FROM users WHERE language = 'en'") > 100
    assert ask("SELECT count(*) FROM users WHERE language = 'zh'") > 100


def test_experts_answer_in_minutes_hours_and_days(ask: Ask) -> None:
    means = """(SELECT avg(read_at - created_at) AS mean FROM message_reads
                JOIN messages ON messages.id = message_id AND receiver_id = user_id
                JOIN featured_task_experts USING (user_id)
                WHERE sender_id IS NOT NULL GROUP BY user_id) means"""
    for shortest, longest in (("0 s", "1 h"), ("1 h", "1 d"), ("1 d", "9 d")):
        assert ask(
            f"""SELECT count(*) FROM {means}
                WHERE mean BETWEEN interval '{shortest}' AND interval '{longest}'"""
        )


def test_any_present_will_do(database: Database) -> None:
    moment = datetime(2028, 2, 29, 0, 0, tzinfo=UTC) - timedelta(microseconds=1)

    with database.transaction() as session:
        assert fill(session, moment)
