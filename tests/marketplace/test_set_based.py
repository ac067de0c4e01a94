"""Jobs work on sets: as many statements for many rows as for few, in batches that are bounded."""

from datetime import timedelta

import pytest
from sqlalchemy import text

from tests.marketplace import marketplace
from tests.marketplace.crowds import CHATS, PEOPLE, ROWS, start
from tests.marketplace.jobs import JOBS, NOW, run_batches, run_job
from tests.rig.statements import count_statements
from workers.database import Database

FEW, MANY = 10, 1_000

RESULTS = {
    "process_customer_service_queue": {"assigned": MANY, "waiting": 0},
    "auto_end_timeout_chats": {"ended": MANY},
    "send_timeout_warnings": {"warned": MANY},
    "cleanup_long_inactive_chats": {"chats": MANY, "messages": MANY},
    "cancel_expired_tasks": {"cancelled": MANY},
    "check_and_end_activities": {"activities": MANY, "tasks": MANY},
    "update_all_users_statistics": {"users": MANY + 1},
    "check_expired_coupons": {"coupons": MANY, "user_coupons": MANY},
    "check_expired_invitation_codes": {"codes": MANY},
    "check_expired_points": {"lots": MANY, "points": 3 * MANY, "users": MANY, "mismatched": 0},
    "update_featured_task_experts_response_time": {"experts": MANY},
}


@pytest.mark.parametrize("job", JOBS)
def test_many_rows_take_as_many_statements_as_few(shared_database: Database, job: str) -> None:
    counted = []
    for n in (FEW, MANY):
        start(shared_database, ROWS[job], n=n, now=NOW)
        with count_statements(shared_database.engine) as statements:
            counts = run_job(shared_database, job)
        counted.append(len(statements))

    assert counts == RESULTS[job]
    assert counted[0] == counted[1]


@pytest.mark.parametrize("job", JOBS)
def test_with_nothing_to_do_the_counts_are_all_there(shared_database: Database, job: str) -> None:
    marketplace.clear(shared_database)

    assert run_job(shared_database, job) == dict.fromkeys(RESULTS[job], 0)


@pytest.mark.parametrize("job", JOBS)
def test_no_batch_changes_more_rows_than_it_may(shared_database: Database, job: str) -> None:
    start(shared_database, ROWS[job], n=25, now=NOW)

    batches = list(run_batches(shared_database, job, batch_size=10))

    most = {name: max(batch.get(name, 0) for batch in batches) for name in RESULTS[job]}
    # Fewer, where each row brings others with it. Points are no rows.
    bounds = dict.fromkeys(most, 10) | {"points": 30}
    assert all(most[name] <= bounds[name] for name in most), most
    assert len(batches) > 2


# --- Rows that bring many others with them --------------------------------------------------------


def test_tasks_with_many_applications_are_cancelled_few_at_a_time(
    shared_database: Database,
) -> None:
    start(
        shared_database,
        PEOPLE
        + """
            INSERT INTO tasks (id, title, poster_id, deadline)
            SELECT i, 'Paint', 1, :now FROM generate_series(1, 12) AS i;
            INSERT INTO task_applications (task_id, applicant_id)
            SELECT i, 1 + j FROM generate_series(1, 12) AS i, generate_series(1, :n) AS j;
        """,
        n=5,
        now=NOW,
    )

    batches = list(run_batches(shared_database, "cancel_expired_tasks", batch_size=10))

    # In a transaction that finds them, and one that finds no more, none is cancelled.
    assert [batch["cancelled"] for batch in batches] == [0, 2, 2, 2, 2, 2, 2, 0]


def test_activities_with_many_tasks_end_few_at_a_time(shared_database: Database) -> None:
    start(
        shared_database,
        PEOPLE
        + """
            INSERT INTO activities (id, title, end_date)
            SELECT i, 'Yoga', '2026-01-01' FROM generate_series(1, 4) AS i;
            INSERT INTO tasks (title, poster_id, activity_id)
            SELECT 'Yoga', 1, i FROM generate_series(1, 4) AS i, generate_series(1, :n) AS j;
        """,
        n=7,
    )

    batches = list(run_batches(shared_database, "check_and_end_activities", batch_size=10))

    assert max(batch["activities"] for batch in batches) == 2
    assert sum(batch["tasks"] for batch in batches) == 28


def test_a_chat_with_many_messages_is_deleted_little_by_little(shared_database: Database) -> None:
    start(
        shared_database,
        CHATS.format(silence="40 days", ended_at="CAST(:now AS timestamptz) - interval '40 days'")
        + """
            INSERT INTO customer_service_messages (chat_id, sender_type, content)
            SELECT 1, 'user', 'Hello' FROM generate_series(1, 199);
        """,
        n=1,
        now=NOW,
    )

    batches = list(run_batches(shared_database, "cleanup_long_inactive_chats", batch_size=10))

    # Five for each chat of a batch.
    assert [batch["messages"] for batch in batches] == [50] * 4 + [0]
    assert sum(batch["chats"] for batch in batches) == 1


@pytest.mark.parametrize(
    ("job", "at_once"),
    # One would leave two fifths of a batch empty, and two fill it by more than nine tenths.
    [("update_all_users_statistics", 2), ("check_expired_points", 1)],
)
def test_people_with_long_histories_are_taken_few_at_a_time(
    shared_database: Database, job: str, at_once: int
) -> None:
    start(
        shared_database,
        PEOPLE
        + """
            INSERT INTO tasks (title, poster_id)
            SELECT 'Paint', i FROM generate_series(1, 6) AS i, generate_series(1, :n) AS j;
            INSERT INTO points_accounts SELECT i, 1000 FROM generate_series(1, 6) AS i;
            INSERT INTO points_transactions (user_id, type, amount, expires_at)
            SELECT i, 'earn', 100, :now FROM generate_series(1, 6) AS i;
            INSERT INTO points_transactions (user_id, type, amount)
            SELECT i, 'spend', 1 FROM generate_series(1, 6) AS i, generate_series(1, :n) AS j;
        """,
        n=60,
        now=NOW,
    )

    batches = list(run_batches(shared_database, job, batch_size=10))

    assert max(batch.get("users", 0) for batch in batches) == at_once
    assert sum(batch.get("users", 0) for batch in batches) == 6


def test_long_ledgers_are_taken_few_at_a_time_also_behind_short_ones(
    shared_database: Database,
) -> None:
    start(
        shared_database,
        PEOPLE
        + """
            INSERT INTO points_accounts SELECT i, 1000 FROM generate_series(1, :n) AS i;
            INSERT INTO points_transactions (user_id, type, amount, expires_at)
            SELECT i, 'earn', 100, :now FROM generate_series(1, :n) AS i;
            INSERT INTO points_transactions (user_id, type, amount)
            SELECT i, 'spend', 1 FROM generate_series(12, 15) AS i, generate_series(1, 60) AS j;
            INSERT INTO points_transactions (user_id, type, amount)
            SELECT 16, 'spend', 1 FROM generate_series(1, 200);
        """,
        n=18,
        now=NOW,
    )

    batches = list(run_batches(shared_database, "check_expired_points", batch_size=10))

    # All but 16, who spent all, had something left. What was too much to read changed nothing.
    assert [batch["lots"] for batch in batches if batch["lots"]] == [1, 9, 2, 1, 1, 1, 1, 1, 1]
    assert sum(batch["users"] for batch in batches) == 17


# --- Ten thousand people who wait -----------------------------------------------------------------


def test_all_who_can_be_placed_are_placed_in_one_run(shared_database: Database) -> None:
    start(
        shared_database,
        PEOPLE
        + """
            INSERT INTO customer_service_agents (id, name, is_online, max_concurrent_chats)
            SELECT i, 'Agent', true, 5 + i % 10 FROM generate_series(1, 1000) AS i;
            INSERT INTO customer_service_queue (id, user_id, queued_at)
            SELECT i, i, :now - i % 100 * interval '1 s' FROM generate_series(1, :n) AS i;
        """,
        n=10_000,
        now=NOW - timedelta(minutes=1),
    )
    seats = sum(5 + agent % 10 for agent in range(1, 1001))

    counts = run_job(shared_database, "process_customer_service_queue")

    assert counts == {"assigned": seats, "waiting": 10_000 - seats}
    with shared_database.transaction() as session:
        # The oldest, and none before somebody who came earlier.
        by_age = session.scalars(
            text("SELECT status FROM customer_service_queue ORDER BY queued_at, id")
        ).all()
        assert list(by_age) == ["assigned"] * seats + ["waiting"] * (10_000 - seats)
        over = """
            SELECT count(*) FROM customer_service_agents AS agent WHERE max_concurrent_chats <>
            (SELECT count(*) FROM customer_service_chats WHERE agent_id = agent.id)"""
        assert session.scalar(text(over)) == 0
