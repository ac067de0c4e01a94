"""Marketplaces as large as one likes, each with work for one job."""

from typing import Any

from sqlalchemy import text

from tests.marketplace import marketplace
from workers.database import Database

PEOPLE = """
    INSERT INTO users (id, name, language)
    SELECT i, 'Somebody', CASE WHEN i % 2 = 0 THEN 'zh' ELSE 'en' END
    FROM generate_series(1, :n + 1) AS i;
"""
AGENTS = """
    INSERT INTO customer_service_agents (id, name, is_online, max_concurrent_chats)
    SELECT i, 'Agent', true, 10 FROM generate_series(1, :n) AS i;
"""
CHATS = (
    PEOPLE
    + AGENTS
    + """
    INSERT INTO customer_service_chats (id, user_id, agent_id, last_message_at, ended_at)
    SELECT i, i, i, :now - interval '{silence}', {ended_at} FROM generate_series(1, :n) AS i;
    INSERT INTO customer_service_messages (chat_id, sender_type, content)
    SELECT i, 'user', 'Hello' FROM generate_series(1, :n) AS i;
"""
)
TASKS = (
    PEOPLE
    + """
    INSERT INTO activities (id, title, deadline)
    SELECT i, 'Yoga', :now - interval '1 minute' FROM generate_series(1, :n) AS i;
    INSERT INTO tasks (id, title, poster_id, activity_id, deadline)
    SELECT i, 'Paint', i, i, :now FROM generate_series(1, :n) AS i;
    INSERT INTO task_applications (task_id, applicant_id)
    SELECT i, i + 1 FROM generate_series(1, :n) AS i;
    INSERT INTO reviews (task_id, reviewer_id, reviewee_id, rating)
    SELECT i, i, i + 1, 4 FROM generate_series(1, :n) AS i;
"""
)

# Rows for each job, that it has something to do with `:n` of.
ROWS = {
    "process_customer_service_queue": PEOPLE
    + AGENTS
    + """
        INSERT INTO customer_service_queue (user_id) SELECT i FROM generate_series(1, :n) AS i;
    """,
    "auto_end_timeout_chats": CHATS.format(silence="120 s", ended_at="NULL"),
    "send_timeout_warnings": CHATS.format(silence="60 s", ended_at="NULL"),
    "cleanup_long_inactive_chats": CHATS.format(
        silence="40 days", ended_at="CAST(:now AS timestamptz) - interval '40 days'"
    ),
    "cancel_expired_tasks": TASKS,
    "check_and_end_activities": TASKS,
    "update_all_users_statistics": TASKS,
    "check_expired_coupons": PEOPLE
    + """
        INSERT INTO coupons (id, code, valid_until)
        SELECT i, i, :now - interval '1 s' FROM generate_series(1, :n) AS i;
        INSERT INTO user_coupons (user_id, coupon_id) SELECT i, i FROM generate_series(1, :n) AS i;
    """,
    "check_expired_invitation_codes": """
        INSERT INTO invitation_codes (code, valid_until)
        SELECT i, :now - interval '1 s' FROM generate_series(1, :n) AS i;
    """,
    "check_expired_points": PEOPLE
    + """
        INSERT INTO points_accounts SELECT i, 3 FROM generate_series(1, :n) AS i;
        INSERT INTO points_transactions (user_id, type, amount, expires_at)
        SELECT i, 'earn', 5, :now FROM generate_series(1, :n) AS i;
        INSERT INTO points_transactions (user_id, type, amount)
        SELECT i, 'spend', 2 FROM generate_series(1, :n) AS i;
    """,
    "update_featured_task_experts_response_time": TASKS
    + """
        INSERT INTO featured_task_experts (user_id) SELECT i FROM generate_series(1, :n) AS i;
        INSERT INTO messages (id, sender_id, receiver_id, content, created_at)
        SELECT i, i + 1, i, 'Hello', :now - interval '1 h' FROM generate_series(1, :n) AS i;
        INSERT INTO message_reads SELECT i, i, :now FROM generate_series(1, :n) AS i;
    """,
}


def start(database: Database, statements: str, **values: Any) -> None:
    """Begin with nothing but what these statements, each with a semicolon, add."""
    marketplace.clear(database)
    with database.transaction() as session:
        for statement in statements.split(";")[:-1]:
            used = {name: value for name, value in values.items() if f":{name}" in statement}
            session.execute(text(statement), used)
