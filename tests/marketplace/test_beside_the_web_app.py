"""Jobs and the web app do not disturb each other, whatever the order of their statements.

What becomes of a marketplace is what becomes of it if the two come one after the other, in one
order or the other, at the latest when the job has run once more; and neither waits for the other.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from threading import Barrier
from typing import Any

import pytest

from tests.marketplace import marketplace
from tests.marketplace.jobs import NOW, run_job
from tests.marketplace.marketplace import Marketplace, comparable
from tests.marketplace.web_app import Act, Session, WebApp, before_statement, interleave
from workers.database import Database

ROUNDS = 10

AGO = NOW - timedelta(minutes=1)
LATER = NOW + timedelta(days=1)

# Ids begin high, so that they never meet those that the database gives.
ADA, BEN, EVA, TASK, AGENT, CHAT, ONE, TWO = range(1_000_001, 1_000_009)


@dataclass(frozen=True)
class Meeting:
    """A job, a marketplace in which it has something to do, and what the web app does to that."""

    job: str
    world: Marketplace
    act: Act
    is_waited_for: bool = False
    """Whether the job waits until the transaction has ended, instead of leaving the rows alone."""


def rows(*ids: int, **values: Any) -> list[dict[str, Any]]:
    return [{"id": id_, **values} for id_ in ids]


PEOPLE = rows(ADA, BEN, EVA, name="Somebody")

OVERDUE_TASK = {
    "users": PEOPLE,
    "tasks": rows(TASK, title="Paint", poster_id=ADA, deadline=AGO),
    "task_applications": [
        {"id": ONE, "task_id": TASK, "applicant_id": BEN},
        {"id": TWO, "task_id": TASK, "applicant_id": EVA},
    ],
}


def takes_the_task(web: Session) -> None:
    web.must("UPDATE tasks SET status = 'taken', taker_id = :ben WHERE status = 'open'", ben=BEN)
    web.do("UPDATE task_applications SET status = 'approved' WHERE applicant_id = :ben", ben=BEN)
    web.do("UPDATE task_applications SET status = 'rejected' WHERE applicant_id = :eva", eva=EVA)


def approves_an_application(web: Session) -> None:
    # The other way round: whoever waits for the other's row here could wait for ever.
    web.must(
        "UPDATE task_applications SET status = 'approved'"
        " WHERE applicant_id = :ben AND status = 'pending'",
        ben=BEN,
    )
    web.must("UPDATE tasks SET status = 'taken', taker_id = :ben WHERE status = 'open'", ben=BEN)


def withdraws_the_application(web: Session) -> None:
    web.must(
        "DELETE FROM task_applications WHERE applicant_id = :ben AND status = 'pending'", ben=BEN
    )


def applies(web: Session) -> None:
    web.must("SELECT FROM tasks WHERE status = 'open' FOR SHARE")
    web.do("INSERT INTO task_applications (task_id, applicant_id) VALUES (:t, :a)", t=TASK, a=ADA)


def applies_without_looking(web: Session) -> None:
    web.do("INSERT INTO task_applications (task_id, applicant_id) VALUES (:t, :a)", t=TASK, a=ADA)


def prolongs_the_task(web: Session) -> None:
    web.must("UPDATE tasks SET deadline = :later WHERE status = 'open'", later=LATER)


def deletes_the_task(web: Session) -> None:
    web.must("DELETE FROM tasks WHERE status = 'open'")


def edits_profiles(web: Session) -> None:
    web.do("SELECT FROM users ORDER BY id FOR UPDATE")
    web.do("UPDATE users SET name = 'Somebody else', language = 'zh'")
    web.do("UPDATE tasks SET title = 'Somebody''s'")


HELD_COUPON = {
    "users": PEOPLE,
    # Disabled, so that what people hold of it is all that there is to expire.
    "coupons": rows(ONE, code="SAVE", status="disabled", valid_until=AGO),
    "user_coupons": [
        {"id": ONE, "user_id": ADA, "coupon_id": ONE},
        {"id": TWO, "user_id": BEN, "coupon_id": ONE},
    ],
}
COUPON = {"coupons": rows(ONE, TWO, valid_until=AGO)}
for number, coupon in enumerate(COUPON["coupons"]):
    coupon["code"] = f"SAVE{number}"


def uses_the_coupon(web: Session) -> None:
    web.must("UPDATE user_coupons SET status = 'used' WHERE id = :id AND status = 'unused'", id=ONE)


def prolongs_the_coupon(web: Session) -> None:
    web.must("UPDATE coupons SET valid_until = :later WHERE id = :id", later=LATER, id=ONE)


def prolongs_the_coupon_and_hands_it_out(web: Session) -> None:
    prolongs_the_coupon(web)
    web.do("INSERT INTO user_coupons (user_id, coupon_id) VALUES (:eva, :one)", eva=EVA, one=ONE)


def disables_the_coupon(web: Session) -> None:
    web.must("UPDATE coupons SET status = 'disabled' WHERE id = :id AND status = 'active'", id=ONE)


def prolongs_the_code(web: Session) -> None:
    web.must("UPDATE invitation_codes SET valid_until = :later WHERE is_active", later=LATER)


DUE_LOTS = {
    "users": PEOPLE,
    "points_accounts": [{"user_id": ADA, "balance": 140}, {"user_id": BEN, "balance": 5}],
    "points_transactions": [
        {"id": ONE, "user_id": ADA, "type": "earn", "amount": 100, "expires_at": AGO},
        {"id": TWO, "user_id": BEN, "type": "earn", "amount": 5, "expires_at": AGO},
        {"id": TASK, "user_id": ADA, "type": "earn", "amount": 40, "expires_at": NOW},
    ],
}
PAY = "UPDATE points_accounts SET balance = balance - 30 WHERE user_id = :ada AND balance >= 30"
WRITE_IT_DOWN = (
    "INSERT INTO points_transactions (user_id, type, amount, created_at)"
    " VALUES (:ada, 'spend', 30, :now)"
)


def spends_points(web: Session) -> None:
    web.must(PAY, ada=ADA)
    web.do(WRITE_IT_DOWN, ada=ADA, now=NOW)


def spends_points_and_pays_last(web: Session) -> None:
    web.do(WRITE_IT_DOWN, ada=ADA, now=NOW)
    web.must(PAY, ada=ADA)


def earns_points(web: Session) -> None:
    web.do(
        "INSERT INTO points_transactions (user_id, type, amount, expires_at, created_at)"
        " VALUES (:ada, 'earn', 7, :later, :now)",
        ada=ADA,
        later=LATER,
        now=NOW,
    )
    web.do("UPDATE points_accounts SET balance = balance + 7 WHERE user_id = :ada", ada=ADA)


def prolongs_the_lot(web: Session) -> None:
    web.must(
        "UPDATE points_transactions SET expires_at = :later WHERE id = :id AND NOT expired",
        later=LATER,
        id=ONE,
    )


OVERDUE_ACTIVITY = {
    "users": PEOPLE,
    "activities": rows(ONE, TWO, title="Yoga", deadline=AGO),
    "tasks": [
        {
            "id": TASK,
            "title": "A",
            "poster_id": ADA,
            "taker_id": BEN,
            "activity_id": ONE,
            "status": "taken",
        },
        {
            "id": ONE,
            "title": "B",
            "poster_id": ADA,
            "taker_id": None,
            "activity_id": ONE,
            "status": "open",
        },
        {
            "id": TWO,
            "title": "C",
            "poster_id": EVA,
            "taker_id": None,
            "activity_id": TWO,
            "status": "open",
        },
    ],
}


def begins_the_task(web: Session) -> None:
    web.must(
        "UPDATE tasks SET status = 'in_progress' WHERE id = :task AND status = 'taken'", task=TASK
    )


def prolongs_the_activity(web: Session) -> None:
    web.must(
        "UPDATE activities SET deadline = :later WHERE id = :id AND status = 'open'",
        later=LATER,
        id=ONE,
    )


def adds_a_task_to_the_activity(web: Session) -> None:
    web.must("SELECT FROM activities WHERE id = :id AND status = 'open' FOR SHARE", id=ONE)
    adds_a_task_without_looking(web)


def adds_a_task_without_looking(web: Session) -> None:
    web.do(
        "INSERT INTO tasks (id, title, poster_id, activity_id, created_at, updated_at)"
        " VALUES (:new, 'D', :eva, :id, :now, :now)",
        new=CHAT,
        eva=EVA,
        id=ONE,
        now=NOW,
    )


COUNTED = {
    "users": PEOPLE,
    "tasks": rows(TASK, ONE, title="Paint", poster_id=ADA, taker_id=BEN, status="completed"),
    "reviews": rows(ONE, task_id=TASK, reviewer_id=ADA, reviewee_id=BEN, rating=4),
}


def reviews_a_task(web: Session) -> None:
    web.do(
        "INSERT INTO reviews (task_id, reviewer_id, reviewee_id, rating, created_at)"
        " VALUES (:task, :ben, :ada, 3, :now)",
        task=TASK,
        ada=ADA,
        ben=BEN,
        now=NOW,
    )


def hands_a_task_over(web: Session) -> None:
    web.must("UPDATE tasks SET taker_id = :eva WHERE id = :task", eva=EVA, task=TASK)


def deletes_a_task_with_its_reviews(web: Session) -> None:
    web.do("DELETE FROM reviews")
    web.must("DELETE FROM tasks WHERE id = :task", task=TASK)


def leaves(web: Session) -> None:
    web.must("DELETE FROM users WHERE id = :eva", eva=EVA)


WAITING = {
    "users": PEOPLE,
    "customer_service_agents": rows(AGENT, name="Ana", is_online=True, max_concurrent_chats=1),
    "customer_service_queue": [
        {"id": ONE, "user_id": ADA, "queued_at": AGO},
        {"id": TWO, "user_id": BEN, "queued_at": NOW},
    ],
}


def opens_a_chat(web: Session) -> None:
    web.do("SELECT FROM customer_service_agents WHERE id = :agent FOR UPDATE", agent=AGENT)
    taken = web.number("SELECT count(*) FROM customer_service_chats WHERE ended_at IS NULL")
    if taken < 1:
        web.do(
            "INSERT INTO customer_service_chats (user_id, agent_id, created_at, last_message_at)"
            " VALUES (:eva, :agent, :now, :now)",
            eva=EVA,
            agent=AGENT,
            now=NOW,
        )


def answers_somebody_who_waits(web: Session) -> None:
    web.do("SELECT FROM customer_service_agents WHERE id = :agent FOR UPDATE", agent=AGENT)
    if not web.number("SELECT count(*) FROM customer_service_chats WHERE ended_at IS NULL"):
        web.do(
            "INSERT INTO customer_service_chats (user_id, agent_id, created_at, last_message_at)"
            " VALUES (:ada, :agent, :now, :now)",
            ada=ADA,
            agent=AGENT,
            now=NOW,
        )


def leaves_the_queue(web: Session) -> None:
    web.must(
        "UPDATE customer_service_queue SET status = 'cancelled'"
        " WHERE id = :id AND status = 'waiting'",
        id=ONE,
    )


def agent_goes_offline(web: Session) -> None:
    web.do("UPDATE customer_service_agents SET is_online = false")


def agent_takes_fewer_chats(web: Session) -> None:
    open_chats = "(SELECT count(*) FROM customer_service_chats WHERE ended_at IS NULL)"
    web.do("SELECT FROM customer_service_agents FOR UPDATE")
    web.do(f"UPDATE customer_service_agents SET max_concurrent_chats = {open_chats}")


def chats(silent_for: timedelta, **values: Any) -> Marketplace:
    silence = {"created_at": NOW - silent_for, "last_message_at": NOW - silent_for}
    return {
        "users": PEOPLE,
        "customer_service_agents": rows(AGENT, name="Ana", is_online=True),
        "customer_service_chats": [
            {"id": CHAT, "user_id": ADA, "agent_id": AGENT, **silence, **values},
            {"id": ONE, "user_id": BEN, "agent_id": AGENT, **silence, **values},
        ],
        "customer_service_messages": rows(
            ONE, chat_id=CHAT, sender_type="user", content="Hello", created_at=NOW - silent_for
        ),
        "customer_service_queue": [
            {"id": ONE, "user_id": ADA, "status": "assigned", "chat_id": CHAT, "queued_at": AGO}
        ],
    }


def writes_in_the_chat(web: Session) -> None:
    web.must(
        "UPDATE customer_service_chats SET last_message_at = :now WHERE id = :chat"
        " AND ended_at IS NULL",
        now=NOW,
        chat=CHAT,
    )
    web.do(
        "INSERT INTO customer_service_messages (chat_id, sender_type, content, created_at)"
        " VALUES (:chat, 'agent', 'Hello', :now)",
        now=NOW,
        chat=CHAT,
    )


def ends_the_chat(web: Session) -> None:
    web.must(
        "UPDATE customer_service_chats SET ended_at = :now, ended_by = 'user' WHERE id = :chat"
        " AND ended_at IS NULL",
        now=NOW,
        chat=CHAT,
    )


def opens_the_chat_again(web: Session) -> None:
    web.do(
        "UPDATE customer_service_chats SET ended_at = NULL, last_message_at = :now"
        " WHERE id = :chat",
        now=NOW,
        chat=CHAT,
    )


SILENT = chats(timedelta(seconds=90))
TIMED_OUT = chats(timedelta(seconds=120))
OLD = chats(timedelta(days=31), ended_at=NOW - timedelta(days=31))
CODES = {"invitation_codes": rows(ONE, code="COME", valid_until=AGO)}
CARD = {**COUNTED, "featured_task_experts": [{"user_id": BEN, "updated_at": AGO}]}


def edits_the_card(web: Session) -> None:
    web.do("UPDATE featured_task_experts SET avg_rating = 1")


# Only agents are waited for: how much room they have is known when nobody else holds their rows.
MEETINGS = [
    Meeting("process_customer_service_queue", WAITING, opens_a_chat, is_waited_for=True),
    Meeting(
        "process_customer_service_queue", WAITING, answers_somebody_who_waits, is_waited_for=True
    ),
    Meeting("process_customer_service_queue", WAITING, leaves_the_queue),
    Meeting("process_customer_service_queue", WAITING, agent_goes_offline, is_waited_for=True),
    Meeting("process_customer_service_queue", WAITING, agent_takes_fewer_chats, is_waited_for=True),
    Meeting("auto_end_timeout_chats", TIMED_OUT, writes_in_the_chat),
    Meeting("auto_end_timeout_chats", TIMED_OUT, ends_the_chat),
    Meeting("send_timeout_warnings", SILENT, writes_in_the_chat),
    Meeting("send_timeout_warnings", SILENT, ends_the_chat),
    Meeting("cancel_expired_tasks", OVERDUE_TASK, takes_the_task),
    Meeting("cancel_expired_tasks", OVERDUE_TASK, approves_an_application),
    Meeting("cancel_expired_tasks", OVERDUE_TASK, withdraws_the_application),
    Meeting("cancel_expired_tasks", OVERDUE_TASK, applies),
    Meeting("cancel_expired_tasks", OVERDUE_TASK, applies_without_looking),
    Meeting("cancel_expired_tasks", OVERDUE_TASK, prolongs_the_task),
    Meeting("cancel_expired_tasks", OVERDUE_TASK, deletes_the_task),
    Meeting("cancel_expired_tasks", OVERDUE_TASK, edits_profiles),
    Meeting("check_expired_coupons", HELD_COUPON, uses_the_coupon),
    Meeting("check_expired_coupons", HELD_COUPON, prolongs_the_coupon),
    Meeting("check_expired_coupons", HELD_COUPON, prolongs_the_coupon_and_hands_it_out),
    Meeting("check_expired_coupons", COUPON, prolongs_the_coupon),
    Meeting("check_expired_coupons", COUPON, disables_the_coupon),
    Meeting("check_expired_invitation_codes", CODES, prolongs_the_code),
    Meeting("check_expired_points", DUE_LOTS, spends_points),
    Meeting("check_expired_points", DUE_LOTS, spends_points_and_pays_last),
    Meeting("check_expired_points", DUE_LOTS, earns_points),
    Meeting("check_expired_points", DUE_LOTS, prolongs_the_lot),
    Meeting("check_expired_points", DUE_LOTS, edits_profiles),
    Meeting("check_and_end_activities", OVERDUE_ACTIVITY, begins_the_task),
    Meeting("check_and_end_activities", OVERDUE_ACTIVITY, prolongs_the_activity),
    Meeting("check_and_end_activities", OVERDUE_ACTIVITY, adds_a_task_to_the_activity),
    Meeting("check_and_end_activities", OVERDUE_ACTIVITY, adds_a_task_without_looking),
    Meeting("check_and_end_activities", OVERDUE_ACTIVITY, edits_profiles),
    Meeting("update_all_users_statistics", COUNTED, reviews_a_task),
    Meeting("update_all_users_statistics", COUNTED, hands_a_task_over),
    Meeting("update_all_users_statistics", COUNTED, deletes_a_task_with_its_reviews),
    Meeting("update_all_users_statistics", COUNTED, edits_profiles),
    Meeting("update_all_users_statistics", COUNTED, leaves),
    Meeting("cleanup_long_inactive_chats", OLD, opens_the_chat_again),
    Meeting("update_featured_task_experts_response_time", CARD, reviews_a_task),
    Meeting("update_featured_task_experts_response_time", CARD, edits_the_card),
]


@pytest.fixture(scope="module")
def web_app(shared_database: Database) -> Iterator[WebApp]:
    web_app = WebApp(shared_database)
    yield web_app
    web_app.close()


@pytest.fixture(scope="module")
def patient_web_app(shared_database: Database) -> Iterator[WebApp]:
    """One that waits for the job."""
    web_app = WebApp(shared_database, lock_timeout_seconds=10)
    yield web_app
    web_app.close()


@pytest.fixture(scope="module")
def second_database(shared_database: Database) -> Iterator[Database]:
    """Another process' way to the same database."""
    database = Database(shared_database.engine.url.render_as_string(hide_password=False))
    yield database
    database.close()


def start(database: Database, world: Marketplace) -> Marketplace:
    marketplace.clear(database)
    marketplace.fill(database, world)
    return marketplace.read(database)


CASES = [
    pytest.param(meeting, is_held_open, id=f"{meeting.job}-{meeting.act.__name__}-{name}")
    for meeting in MEETINGS
    for is_held_open, name in ((False, "commits"), (True, "stays open"))
    if not (is_held_open and meeting.is_waited_for)
]


def one_after_the_other(
    database: Database, web_app: WebApp, meeting: Meeting
) -> tuple[dict[str, Any], ...]:
    """What comes of a meeting when the job is first, and when the web app is."""

    def run() -> None:
        run_job(database, meeting.job)

    def act() -> None:
        web_app.do(meeting.act)

    outcomes = []
    for order in ([run, act, run], [act, run]):
        before = start(database, meeting.world)
        for step in order:
            step()
        outcomes.append(comparable(marketplace.read(database), before))
    return tuple(outcomes)


@pytest.mark.parametrize(("meeting", "is_held_open"), CASES)
def test_every_order_of_statements_ends_as_one_after_the_other(
    shared_database: Database, web_app: WebApp, meeting: Meeting, *, is_held_open: bool
) -> None:
    database, job = shared_database, meeting.job
    expected = one_after_the_other(database, web_app, meeting)

    is_over, statement = False, 0
    while not is_over:
        statement += 1
        before = start(database, meeting.world)

        is_over = not interleave(
            database, job, web_app, meeting.act, before=statement, is_held_open=is_held_open
        )
        run_job(database, job)

        after = comparable(marketplace.read(database), before)
        assert after in expected, f"before statement {statement}"


@pytest.mark.parametrize(
    "meeting", MEETINGS, ids=lambda meeting: f"{meeting.job}-{meeting.act.__name__}"
)
def test_both_at_once_end_as_one_after_the_other(
    shared_database: Database, patient_web_app: WebApp, meeting: Meeting
) -> None:
    # Within a statement too, things happen; where, only chance can tell.
    database, web_app = shared_database, patient_web_app
    expected = one_after_the_other(database, web_app, meeting)
    together = Barrier(2)

    def act() -> None:
        together.wait()
        web_app.do(meeting.act)

    with ThreadPoolExecutor(1) as pool:
        for _ in range(ROUNDS):
            before = start(database, meeting.world)

            acting = pool.submit(act)
            together.wait()
            run_job(database, meeting.job)
            acting.result()
            run_job(database, meeting.job)

            assert comparable(marketplace.read(database), before) in expected


TWICE = [
    ("auto_end_timeout_chats", TIMED_OUT),
    ("send_timeout_warnings", SILENT),
    ("cancel_expired_tasks", OVERDUE_TASK),
    ("check_expired_coupons", HELD_COUPON),
    ("check_expired_invitation_codes", CODES),
    ("check_expired_points", DUE_LOTS),
    ("check_and_end_activities", OVERDUE_ACTIVITY),
    ("cleanup_long_inactive_chats", OLD),
    ("update_featured_task_experts_response_time", CARD),
]


@pytest.mark.parametrize(("job", "world"), TWICE, ids=[job for job, _ in TWICE])
def test_two_runs_at_once_do_what_one_does(
    shared_database: Database, second_database: Database, job: str, world: Marketplace
) -> None:
    # The ledger's lock keeps runs of a job apart; were it lost, nobody would be told twice.
    before = start(shared_database, world)
    run_job(shared_database, job)
    once = comparable(marketplace.read(shared_database), before)

    is_over, statement = False, 0
    while not is_over:
        statement += 1
        start(shared_database, world)

        is_over = not before_statement(
            shared_database, statement, job, lambda: run_job(second_database, job)
        )

        assert comparable(marketplace.read(shared_database), before) == once
