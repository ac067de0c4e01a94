"""What the tables take, what they fill in, and what they refuse."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.exc import IntegrityError

NOW = object()
"""Stands for the time of the transaction."""

LATER = datetime(2026, 12, 24, 18, 0, tzinfo=UTC)

Insert = Callable[..., dict[str, Any]]


@pytest.fixture
def connection(database_url: str) -> Iterator[Connection]:
    engine = create_engine(database_url)
    with engine.connect() as connection:
        yield connection
    engine.dispose()


@pytest.fixture
def insert(connection: Connection) -> Insert:
    """Insert a row as the web backend would, and return all of it."""

    def insert(table: str, **values: Any) -> dict[str, Any]:
        columns, parameters = ", ".join(values), ", ".join(f":{name}" for name in values)
        statement = f"INSERT INTO {table} ({columns}) VALUES ({parameters}) RETURNING *"
        return dict(connection.execute(text(statement), values).mappings().one())

    return insert


@pytest.fixture
def world(insert: Insert) -> dict[str, int]:
    """One row of each table that others refer to."""
    poster, taker = insert("users", name="Ada B.")["id"], insert("users", name="Ben C.")["id"]
    agent = insert("customer_service_agents", name="Agent Ana")["id"]
    return {
        "poster": poster,
        "taker": taker,
        "agent": agent,
        "chat": insert("customer_service_chats", user_id=poster, agent_id=agent)["id"],
        "task": insert("tasks", title="Paint a fence", poster_id=poster)["id"],
        "coupon": insert("coupons", code="SAVE")["id"],
        "activity": insert("activities", title="Yoga", service_id=7)["id"],
        "slot": insert("service_time_slots", service_id=7, starts_at=LATER, ends_at=LATER)["id"],
        "message": insert("messages", receiver_id=poster, content="Welcome!")["id"],
    }


# Table, the least that must be given (a text starting with @ is an id), and what is filled in.
LEAST: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    (
        "users",
        {"name": "Eva F."},
        {
            "language": "en",
            "task_count": 0,
            "completed_task_count": 0,
            "avg_rating": Decimal(0),
            "created_at": NOW,
        },
    ),
    (
        "customer_service_agents",
        {"name": "Agent Bao"},
        {"is_online": False, "max_concurrent_chats": 5, "avg_rating": Decimal(0)},
    ),
    (
        "customer_service_queue",
        {"user_id": "@poster"},
        {
            "status": "waiting",
            "queued_at": NOW,
            "assigned_agent_id": None,
            "assigned_at": None,
            "chat_id": None,
        },
    ),
    (
        "customer_service_chats",
        {"user_id": "@poster", "agent_id": "@agent"},
        {
            "created_at": NOW,
            "last_message_at": NOW,
            "warned_at": None,
            "ended_at": None,
            "ended_reason": None,
            "ended_by": None,
            "ended_type": None,
        },
    ),
    (
        "customer_service_messages",
        {"chat_id": "@chat", "sender_type": "system", "content": "Hello"},
        {"sender_id": None, "created_at": NOW},
    ),
    (
        "tasks",
        {"title": "Walk a dog", "poster_id": "@poster"},
        {
            "taker_id": None,
            "activity_id": None,
            "status": "open",
            "deadline": None,
            "created_at": NOW,
            "updated_at": NOW,
            "completed_at": None,
        },
    ),
    (
        "task_applications",
        {"task_id": "@task", "applicant_id": "@taker"},
        {"status": "pending"},
    ),
    (
        "task_history",
        {"task_id": "@task", "user_id": "@poster", "action": "created"},
        {"remark": None, "created_at": NOW},
    ),
    (
        "audit_log",
        {"entity": "task", "entity_id": 123, "action": "task_cancelled"},
        {"old_status": None, "new_status": None, "detail": None, "created_at": NOW},
    ),
    (
        "notifications",
        {"user_id": "@poster", "type": "greeting", "title": "Hi", "content": "Welcome!"},
        {"related_id": None, "created_at": NOW, "read_at": None},
    ),
    ("coupons", {"code": "MORE"}, {"status": "active", "valid_until": None}),
    ("user_coupons", {"user_id": "@poster", "coupon_id": "@coupon"}, {"status": "unused"}),
    ("invitation_codes", {"code": "COME"}, {"is_active": True, "valid_until": None}),
    ("points_accounts", {"user_id": "@poster", "balance": 5}, {}),
    (
        "points_transactions",
        {"user_id": "@poster", "type": "earn", "amount": 5, "balance_after": 5, "source": "task"},
        {"related_id": None, "expires_at": None, "expired": False, "created_at": NOW},
    ),
    (
        "activities",
        {"title": "Chess", "service_id": 8},
        {
            "status": "open",
            "has_time_slots": False,
            "deadline": None,
            "end_date": None,
            "auto_add_new_slots": False,
            "updated_at": NOW,
        },
    ),
    (
        "service_time_slots",
        {"service_id": 8, "starts_at": LATER, "ends_at": LATER + timedelta(hours=1)},
        {"is_deleted": False},
    ),
    ("activity_time_slots", {"activity_id": "@activity", "time_slot_id": "@slot"}, {}),
    (
        "reviews",
        {"task_id": "@task", "reviewer_id": "@poster", "reviewee_id": "@taker", "rating": "4.5"},
        {"created_at": NOW},
    ),
    (
        "messages",
        {"receiver_id": "@poster", "content": "Hello"},
        {"sender_id": None, "created_at": NOW},
    ),
    ("message_reads", {"message_id": "@message", "user_id": "@poster", "read_at": LATER}, {}),
    (
        "featured_task_experts",
        {"user_id": "@poster"},
        {
            "response_seconds": None,
            "response_time": None,
            "response_time_en": None,
            "avg_rating": Decimal(0),
            "completed_tasks": 0,
            "total_tasks": 0,
            "completion_rate": Decimal(0),
            "success_rate": Decimal(0),
            "updated_at": NOW,
        },
    ),
    (
        "job_runs",
        {
            "run_key": "job@2026-11-23T19:30:00Z",
            "job": "job",
            "message_id": "1",
            "queue": "low",
            "status": "running",
        },
        {
            "attempt": 0,
            "budget_from": 0,
            "broker": "rabbitmq",
            "enqueued_at": NOW,
            "slot": None,
            "started_at": None,
            "finished_at": None,
            "result": None,
            "error": None,
            "worker": None,
        },
    ),
    (
        "outbox_events",
        {"type": "something.happened", "key": "1", "payload": '{"chat_id": 1}'},
        {"created_at": NOW, "published_at": None, "payload": {"chat_id": 1}},
    ),
    (
        "outbox_messages",
        {"message_id": "1", "queue": "default", "actor": "close_tickets", "body": "{}"},
        {"priority": None, "created_at": NOW, "published_at": None},
    ),
    (
        "job_totals",
        {"job": "job", "event": "lost", "count": 1},
        {"seconds": 0.0, "buckets": [], "last_at": NOW, "last_slot": None, "since": NOW},
    ),
    (
        "service_processes",
        {"name": "host:1", "kind": "worker"},
        {"queues": [], "state": None, "started_at": NOW, "seen_at": NOW},
    ),
    ("statistics_changes", {"user_id": 123}, {}),
    (
        "statistics_full_pass",
        {"is_only": True},
        {"resume_after": None, "finished_at": None},
    ),
]


def resolved(values: dict[str, Any], world: dict[str, int]) -> dict[str, Any]:
    return {
        name: world[value[1:]] if isinstance(value, str) and value.startswith("@") else value
        for name, value in values.items()
    }


@pytest.mark.parametrize("least", LEAST, ids=[row[0] for row in LEAST])
def test_the_rest_of_a_row_is_filled_in(
    connection: Connection,
    insert: Insert,
    world: dict[str, int],
    least: tuple[str, dict[str, Any], dict[str, Any]],
) -> None:
    table, values, filled_in = least
    now = connection.scalar(text("SELECT now()"))

    row = insert(table, **resolved(values, world))

    assert {name: row[name] for name in filled_in} == {
        name: now if value is NOW else value for name, value in filled_in.items()
    }
    assert set(row) == {"id"} & set(row) | set(values) | set(filled_in)


def test_every_table_is_tried(connection: Connection) -> None:
    tables = connection.scalars(
        text(
            "SELECT relname FROM pg_class WHERE relkind = 'r' AND relname <> 'alembic_version'"
            " AND relnamespace = 'public'::regnamespace"
        )
    )
    assert {*tables} == {table for table, _, _ in LEAST}


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("users", {"name": "X", "language": "fr"}, "users_language_check"),
    ("users", {"name": "X", "avg_rating": 6}, "users_avg_rating_check"),
    ("users", {"name": "X", "task_count": -1}, "users_task_count_check"),
    (
        "customer_service_agents",
        {"name": "X", "max_concurrent_chats": -1},
        "customer_service_agents_max_concurrent_chats_check",
    ),
    (
        "customer_service_queue",
        {"user_id": "@poster", "status": "lost"},
        "customer_service_queue_status_check",
    ),
    (
        "customer_service_messages",
        {"chat_id": "@chat", "sender_type": "ghost", "content": "Boo"},
        "customer_service_messages_sender_type_check",
    ),
    (
        "tasks",
        {"title": "X", "poster_id": "@poster", "taker_id": "@poster"},
        "tasks_taker_is_not_poster_check",
    ),
    ("tasks", {"title": "X", "poster_id": "@poster", "status": "gone"}, "tasks_status_check"),
    ("tasks", {"title": "X", "poster_id": -1}, "tasks_poster_id_fkey"),
    ("audit_log", {"entity": "user", "entity_id": 1, "action": "x"}, "audit_log_entity_check"),
    ("coupons", {"code": "SAVE"}, "coupons_code_key"),
    ("points_accounts", {"user_id": "@poster", "balance": -1}, "points_accounts_balance_check"),
    (
        "points_transactions",
        {"user_id": "@poster", "type": "earn", "amount": 0},
        "points_transactions_amount_check",
    ),
    (
        "points_transactions",
        {"user_id": "@poster", "type": "spend", "amount": 1, "expires_at": LATER},
        "points_transactions_only_lots_expire_check",
    ),
    ("activities", {"title": "X", "status": "paused"}, "activities_status_check"),
    (
        "service_time_slots",
        {"service_id": 1, "starts_at": LATER, "ends_at": LATER - timedelta(hours=1)},
        "service_time_slots_ends_after_start_check",
    ),
    (
        "reviews",
        {"task_id": "@task", "reviewer_id": "@poster", "reviewee_id": "@taker", "rating": 0},
        "reviews_rating_check",
    ),
    (
        "outbox_events",
        {"type": "t" * 256, "key": "1", "payload": "{}"},
        "outbox_events_type_check",
    ),
    (
        "outbox_events",
        {"type": "t", "key": "é" * 128, "payload": "{}"},
        "outbox_events_key_check",
    ),
    (
        "outbox_events",
        {"type": "t", "key": "1", "payload": '"' + "x" * 256 * 1024 + '"'},
        "outbox_events_payload_check",
    ),
    (
        "outbox_messages",
        {"message_id": "1", "queue": "default", "actor": "a", "body": "x" * (256 * 1024 + 1)},
        "outbox_messages_body_check",
    ),
    (
        "outbox_messages",
        {"message_id": "1", "queue": "default", "actor": "a", "body": "{}", "priority": 256},
        "outbox_messages_priority_check",
    ),
]


@pytest.mark.parametrize(
    ("table", "values", "constraint"), REFUSED, ids=[row[-1] for row in REFUSED]
)
def test_what_cannot_be_is_refused(
    insert: Insert, world: dict[str, int], table: str, values: dict[str, Any], constraint: str
) -> None:
    with pytest.raises(IntegrityError, match=constraint):
        insert(table, **resolved(values, world))


def test_a_person_applies_for_a_task_once(insert: Insert, world: dict[str, int]) -> None:
    insert("task_applications", task_id=world["task"], applicant_id=world["taker"])

    with pytest.raises(IntegrityError, match="task_applications_task_id_applicant_id_key"):
        insert("task_applications", task_id=world["task"], applicant_id=world["taker"])


def test_there_is_one_notification_of_a_type_about_a_thing(
    insert: Insert, world: dict[str, int]
) -> None:
    news = {"user_id": world["poster"], "type": "t", "title": "", "content": ""}
    insert("notifications", **news, related_id=1)
    insert("notifications", **news, related_id=2)

    with pytest.raises(IntegrityError, match="notifications_user_id_type_related_id_key"):
        insert("notifications", **news, related_id=1)


def test_a_person_may_have_several_open_chats(insert: Insert, world: dict[str, int]) -> None:
    insert("customer_service_chats", user_id=world["poster"], agent_id=world["agent"])


def test_rows_may_bring_their_ids(insert: Insert) -> None:
    assert insert("users", id=4_000_000_000, name="Ida J.")["id"] == 4_000_000_000


def test_a_deleted_chat_takes_its_messages_along_but_not_its_queue_entry(
    connection: Connection, insert: Insert, world: dict[str, int]
) -> None:
    chat = world["chat"]
    insert("customer_service_messages", chat_id=chat, sender_type="user", content="Hello?")
    insert("customer_service_queue", user_id=world["poster"], status="assigned", chat_id=chat)

    connection.execute(text("DELETE FROM customer_service_chats"))

    assert connection.scalar(text("SELECT count(*) FROM customer_service_messages")) == 0
    assert connection.execute(text("SELECT status, chat_id FROM customer_service_queue")).all() == [
        ("assigned", None)
    ]


def test_a_new_chat_locks_its_user_before_its_agent(connection: Connection) -> None:
    # PostgreSQL checks foreign keys in the order of their triggers' names, which is that of their
    # making. Assignment locks in the same order, or the two could wait for each other.
    checked = connection.scalars(
        text("""SELECT tgconstrrelid::regclass::text FROM pg_trigger
                WHERE tgrelid = 'customer_service_chats'::regclass AND tgfoid =
                '"RI_FKey_check_ins"'::regproc ORDER BY tgname""")
    )
    assert list(checked) == ["users", "customer_service_agents"]


def test_every_foreign_key_has_an_index(connection: Connection) -> None:
    # Else a deletion, or a join from the other side, reads the whole table.
    without = connection.scalars(
        text("""SELECT conname FROM pg_constraint WHERE contype = 'f' AND NOT EXISTS (
                    SELECT FROM pg_index WHERE indrelid = conrelid AND indkey[0] = conkey[1]
                    AND (indpred IS NULL
                         OR pg_get_expr(indpred, indrelid) = format('(%I IS NOT NULL)', (
                             SELECT attname FROM pg_attribute
                             WHERE attrelid = conrelid AND attnum = conkey[1]))))""")
    )
    assert list(without) == []


@pytest.mark.parametrize(
    ("index", "question"),
    [
        (
            "customer_service_queue_waiting_idx",
            "customer_service_queue WHERE status = 'waiting' ORDER BY queued_at, id",
        ),
        (
            "customer_service_chats_open_last_message_at_idx",
            "customer_service_chats WHERE ended_at IS NULL AND last_message_at <= now()",
        ),
        (
            "customer_service_chats_open_user_id_idx",
            "customer_service_chats WHERE ended_at IS NULL AND user_id = 1 ORDER BY id",
        ),
        ("customer_service_chats_ended_at_idx", "customer_service_chats WHERE ended_at < now()"),
        ("customer_service_queue_chat_id_idx", "customer_service_queue WHERE chat_id = 1"),
        ("tasks_open_deadline_idx", "tasks WHERE status = 'open' AND deadline <= now()"),
        (
            "coupons_active_valid_until_idx",
            "coupons WHERE status = 'active' AND valid_until < now()",
        ),
        (
            "invitation_codes_active_valid_until_idx",
            "invitation_codes WHERE is_active AND valid_until < now()",
        ),
        (
            "points_transactions_due_lots_idx",
            "points_transactions WHERE type = 'earn' AND NOT expired AND expires_at <= now()",
        ),
        ("activities_open_idx", "activities WHERE status = 'open'"),
        ("job_runs_unfinished_idx", "job_runs WHERE status IN ('running', 'retrying')"),
        ("job_runs_dead_idx", "job_runs WHERE status = 'dead' ORDER BY id DESC"),
        (
            "job_runs_ended_idx",
            "job_runs WHERE status IN ('succeeded', 'skipped') AND finished_at < now()",
        ),
        ("job_runs_job_newest_idx", "job_runs WHERE job = 'x' ORDER BY id DESC LIMIT 1"),
        ("outbox_events_unpublished_idx", "outbox_events WHERE published_at IS NULL ORDER BY id"),
        (
            "outbox_messages_unpublished_idx",
            "outbox_messages WHERE published_at IS NULL ORDER BY id",
        ),
        ("outbox_events_published_idx", "outbox_events WHERE published_at < now()"),
        ("outbox_messages_published_idx", "outbox_messages WHERE published_at < now()"),
    ],
)
def test_a_job_with_nothing_due_reads_no_table(
    connection: Connection, index: str, question: str
) -> None:
    # An empty table is read as a whole, unless that is made to look dear.
    connection.execute(text("SET enable_seqscan = off"))

    plan = connection.scalars(text(f"EXPLAIN SELECT * FROM {question}")).all()

    assert index in "\n".join(plan)
