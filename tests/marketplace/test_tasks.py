"""Cancelled tasks, by example: who is told, in which language, and how."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text

from tests.marketplace import marketplace
from tests.marketplace.jobs import NOW, run_job
from workers.database import Database

ADA, BEN, EVA, TASK = range(1_000_001, 1_000_005)

PEOPLE = [
    {"id": ADA, "name": "Ada", "language": "en"},
    {"id": BEN, "name": "Ben", "language": "zh"},
    {"id": EVA, "name": "Eva", "language": "zh"},
]


def told(database: Database) -> dict[int, tuple[str, str]]:
    rows = marketplace.read(database)["notifications"]
    return {row["user_id"]: (row["title"], row["content"]) for row in rows}


def start(database: Database, task: dict[str, Any], **world: Any) -> None:
    marketplace.clear(database)
    marketplace.fill(
        database, {"users": PEOPLE, "tasks": [{"id": TASK, "poster_id": ADA, **task}], **world}
    )


# A title is anybody's text, and no part of ours.
@pytest.mark.parametrize("title", ["Paint a fence", "{0} {title} %s %(x)s \\ 'or' \"so\"", "画 🎨"])
def test_everybody_is_told_in_their_language(shared_database: Database, title: str) -> None:
    start(
        shared_database,
        {"title": title, "deadline": NOW},
        task_applications=[{"task_id": TASK, "applicant_id": BEN}],
    )

    assert run_job(shared_database, "cancel_expired_tasks") == {"cancelled": 1}

    assert told(shared_database) == {
        ADA: ("A task was cancelled", f"“{title}” was cancelled because its time ran out."),
        BEN: ("任务已取消", f"任务“{title}”已过期，系统已自动取消。"),
    }


def test_a_poster_who_applied_is_told_once_and_a_rejected_applicant_is_not(
    shared_database: Database,
) -> None:
    start(
        shared_database,
        {"title": "Paint", "deadline": NOW},
        task_applications=[
            {"task_id": TASK, "applicant_id": ADA, "status": "pending"},
            {"task_id": TASK, "applicant_id": BEN, "status": "approved"},
            {"task_id": TASK, "applicant_id": EVA, "status": "rejected"},
        ],
    )

    run_job(shared_database, "cancel_expired_tasks")

    world = marketplace.read(shared_database)
    assert sorted(row["user_id"] for row in world["notifications"]) == [ADA, BEN]
    assert {row["status"] for row in world["task_applications"]} == {"rejected"}


def test_news_that_was_read_is_renewed(shared_database: Database) -> None:
    start(
        shared_database,
        {"title": "Paint", "deadline": NOW},
        notifications=[
            {
                "user_id": ADA,
                "type": "task_cancelled",
                "related_id": TASK,
                "title": "Old",
                "content": "Old",
                "read_at": NOW,
            }
        ],
    )

    run_job(shared_database, "cancel_expired_tasks")

    (news,) = marketplace.read(shared_database)["notifications"]
    assert (news["title"], news["read_at"], news["created_at"]) == (
        "A task was cancelled",
        None,
        NOW,
    )


@pytest.mark.parametrize(
    ("status", "deadline", "is_cancelled"),
    [
        ("open", NOW, True),
        ("open", NOW + timedelta(microseconds=1), False),
        ("open", None, False),
        ("taken", NOW, False),
        ("completed", NOW, False),
    ],
)
def test_only_an_open_task_whose_deadline_has_come_is_cancelled(
    shared_database: Database, status: str, deadline: Any, *, is_cancelled: bool
) -> None:
    start(shared_database, {"title": "Paint", "status": status, "deadline": deadline})

    assert run_job(shared_database, "cancel_expired_tasks") == {"cancelled": int(is_cancelled)}


def test_dates_beyond_those_of_python_stop_nothing(shared_database: Database) -> None:
    start(shared_database, {"title": "Paint", "deadline": NOW})
    with shared_database.transaction() as session:
        for deadline in ("-infinity", "4000-01-01 BC", "infinity", "20000-01-01"):
            session.execute(
                text(
                    "INSERT INTO tasks (title, poster_id, deadline)"
                    f" VALUES ('Odd', {ADA}, '{deadline}')"
                )
            )

    assert run_job(shared_database, "cancel_expired_tasks", batch_size=1) == {"cancelled": 3}
