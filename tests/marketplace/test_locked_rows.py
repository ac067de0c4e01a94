"""Who is locked is left alone, the others are not, and the next run looks again."""

from collections.abc import Iterator

import pytest

from tests.marketplace.crowds import ROWS, start
from tests.marketplace.jobs import NOW, run_job
from tests.marketplace.web_app import WebApp
from workers.database import Database

# The row that somebody else has locked, and what is done of three nevertheless.
LOCKED = [
    ("process_customer_service_queue", "users WHERE id = 1", {"assigned": 2, "waiting": 1}),
    (
        "process_customer_service_queue",
        "customer_service_queue WHERE user_id = 1",
        {"assigned": 2, "waiting": 1},
    ),
    ("auto_end_timeout_chats", "customer_service_chats WHERE id = 1", {"ended": 2}),
    ("auto_end_timeout_chats", "users WHERE id = 1", {"ended": 2}),
    ("send_timeout_warnings", "customer_service_chats WHERE id = 1", {"warned": 2}),
    ("send_timeout_warnings", "users WHERE id = 1", {"warned": 2}),
    (
        "cleanup_long_inactive_chats",
        "customer_service_chats WHERE id = 1",
        {"chats": 2, "messages": 2},
    ),
    (
        "cleanup_long_inactive_chats",
        "customer_service_messages WHERE chat_id = 1",
        {"chats": 2, "messages": 2},
    ),
    ("cancel_expired_tasks", "tasks WHERE id = 1", {"cancelled": 2}),
    ("cancel_expired_tasks", "task_applications WHERE task_id = 1", {"cancelled": 2}),
    ("cancel_expired_tasks", "users WHERE id = 1", {"cancelled": 2}),
    # The applicant of the first is the poster of the second.
    ("cancel_expired_tasks", "users WHERE id = 2", {"cancelled": 1}),
    ("check_and_end_activities", "activities WHERE id = 1", {"activities": 2, "tasks": 2}),
    ("check_and_end_activities", "tasks WHERE id = 1", {"activities": 2, "tasks": 2}),
    ("check_and_end_activities", "users WHERE id = 1", {"activities": 2, "tasks": 2}),
    ("update_all_users_statistics", "users WHERE id = 1", {"users": 3}),
    ("check_expired_coupons", "coupons WHERE id = 1", {"coupons": 2, "user_coupons": 3}),
    (
        "check_expired_coupons",
        "user_coupons WHERE coupon_id = 1",
        {"coupons": 3, "user_coupons": 2},
    ),
    ("check_expired_invitation_codes", "invitation_codes WHERE code = '1'", {"codes": 2}),
    *(
        ("check_expired_points", row, {"lots": 2, "points": 6, "users": 2, "mismatched": 0})
        for row in (
            "points_accounts WHERE user_id = 1",
            "points_transactions WHERE user_id = 1 AND type = 'earn'",
            "users WHERE id = 1",
        )
    ),
    (
        "update_featured_task_experts_response_time",
        "featured_task_experts WHERE user_id = 1",
        {"experts": 2},
    ),
]

IN_ALL = {
    "process_customer_service_queue": {"assigned": 3, "waiting": 0},
    "auto_end_timeout_chats": {"ended": 3},
    "send_timeout_warnings": {"warned": 3},
    "cleanup_long_inactive_chats": {"chats": 3, "messages": 3},
    "cancel_expired_tasks": {"cancelled": 3},
    "check_and_end_activities": {"activities": 3, "tasks": 3},
    "update_all_users_statistics": {"users": 4},
    "check_expired_coupons": {"coupons": 3, "user_coupons": 3},
    "check_expired_invitation_codes": {"codes": 3},
    "check_expired_points": {"lots": 3, "points": 9, "users": 3, "mismatched": 0},
    "update_featured_task_experts_response_time": {"experts": 3},
}


@pytest.fixture(scope="module")
def web_app(shared_database: Database) -> Iterator[WebApp]:
    web_app = WebApp(shared_database)
    yield web_app
    web_app.close()


@pytest.mark.parametrize("batch_size", [1, 2, 10_000])
@pytest.mark.parametrize(("job", "row", "meanwhile"), LOCKED, ids=[" ".join(c[:2]) for c in LOCKED])
def test_a_locked_row_holds_up_no_other(
    shared_database: Database,
    web_app: WebApp,
    job: str,
    row: str,
    meanwhile: dict[str, int],
    *,
    batch_size: int,
) -> None:
    start(shared_database, ROWS[job], n=3, now=NOW)

    with web_app.transaction(lambda web: web.must(f"SELECT FROM {row} FOR UPDATE")):
        assert run_job(shared_database, job, batch_size=batch_size) == meanwhile

    later = run_job(shared_database, job, batch_size=batch_size)
    assert {
        name: count + (meanwhile[name] if name != "waiting" else 0) for name, count in later.items()
    } == IN_ALL[job]


def test_a_coupon_that_is_being_handed_out_expires_all_the_same(
    shared_database: Database, web_app: WebApp
) -> None:
    # Such a transaction locks the coupon's row against deletion. Popular coupons always have one.
    start(shared_database, ROWS["check_expired_coupons"], n=1, now=NOW)

    with web_app.transaction(
        lambda web: web.must("INSERT INTO user_coupons (user_id, coupon_id) VALUES (2, 1)")
    ):
        counts = run_job(shared_database, "check_expired_coupons")

    assert counts == {"coupons": 1, "user_coupons": 1}
    assert run_job(shared_database, "check_expired_coupons") == {"coupons": 0, "user_coupons": 1}


@pytest.mark.parametrize("row", ["customer_service_chats", "customer_service_agents"])
def test_who_has_a_chat_that_is_locked_holds_up_nobody(
    shared_database: Database, web_app: WebApp, row: str
) -> None:
    # Given somebody with a chat, whose agent has gone, and somebody else who waits
    job = "process_customer_service_queue"
    start(
        shared_database,
        ROWS[job]
        + """
        INSERT INTO customer_service_agents (id, name) VALUES (7, 'Gone');
        INSERT INTO customer_service_chats (id, user_id, agent_id) VALUES (7, 1, 7);
        """,
        n=2,
        now=NOW,
    )

    with web_app.transaction(lambda web: web.must(f"SELECT FROM {row} WHERE id = 7 FOR UPDATE")):
        assert run_job(shared_database, job) == {"assigned": 1, "waiting": 1}

    assert run_job(shared_database, job) == {"assigned": 1, "waiting": 0}


def test_a_long_chat_that_is_in_use_holds_up_no_other(
    shared_database: Database, web_app: WebApp
) -> None:
    # Given one with more messages than a batch may delete
    job = "cleanup_long_inactive_chats"
    start(
        shared_database,
        ROWS[job]
        + """
        INSERT INTO customer_service_messages (chat_id, sender_type, content)
        SELECT 1, 'user', 'Hello' FROM generate_series(1, 200);
        -- Those of the others lie behind.
        UPDATE customer_service_messages SET content = 'Bye' WHERE chat_id > 1;
        """,
        n=3,
        now=NOW,
    )

    messages = "customer_service_messages WHERE chat_id = 1"
    with web_app.transaction(lambda web: web.must(f"SELECT FROM {messages} FOR UPDATE")):
        counts = run_job(shared_database, job, batch_size=30)

    assert counts == {"chats": 2, "messages": 2}
    assert run_job(shared_database, job, batch_size=30) == {"chats": 1, "messages": 201}
