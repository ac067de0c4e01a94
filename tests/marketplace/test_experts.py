"""What experts' cards say of how soon they answer."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import text

from tests.marketplace import marketplace
from tests.marketplace.jobs import NOW, run_job
from workers.database import Database
from workers.marketplace.experts import response_time

JOB = "update_featured_task_experts_response_time"

ADA, BEN = 1_000_001, 1_000_002


@pytest.mark.parametrize(
    ("seconds", "english", "chinese"),
    [
        (None, None, None),
        ("0.000001", "Within 1 minute", "1分钟内"),
        ("60", "Within 1 minute", "1分钟内"),
        ("60.000001", "Within 2 minutes", "2分钟内"),
        ("3540", "Within 59 minutes", "59分钟内"),
        ("3540.5", "Within 1 hour", "1小时内"),
        ("3600", "Within 1 hour", "1小时内"),
        ("3600.0000000000000001", "Within 2 hours", "2小时内"),
        ("82800", "Within 23 hours", "23小时内"),
        ("82801", "Within 1 day", "1天内"),
        ("86400", "Within 1 day", "1天内"),
        ("86401", "Within 2 days", "2天内"),
        ("864000000", "Within 10000 days", "10000天内"),
    ],
)
def test_a_response_time_is_said_rounded_up(
    seconds: str | None, english: str | None, chinese: str | None
) -> None:
    exact = None if seconds is None else Decimal(seconds)

    assert response_time(exact, "en") == english
    assert response_time(exact, "zh") == chinese


def card(database: Database) -> dict[str, Any]:
    (row,) = marketplace.read(database)["featured_task_experts"]
    return row


def test_only_what_others_wrote_and_the_expert_read_later_counts(
    shared_database: Database,
) -> None:
    messages = [
        # From, to, read by whom, after how many seconds.
        (BEN, ADA, ADA, 90),
        (BEN, ADA, ADA, 31),
        (BEN, ADA, ADA, 0),
        (BEN, ADA, ADA, -5),
        (BEN, ADA, BEN, 5000),
        (ADA, ADA, ADA, 5000),
        (None, ADA, ADA, 5000),
        (ADA, BEN, ADA, 5000),
        (ADA, BEN, BEN, 5000),
    ]
    marketplace.clear(shared_database)
    marketplace.fill(
        shared_database,
        {
            "users": [{"id": user_id, "name": "Somebody"} for user_id in (ADA, BEN)],
            "messages": [
                {"id": number, "sender_id": sender, "receiver_id": receiver, "content": "Hello"}
                for number, (sender, receiver, _, _) in enumerate(messages)
            ],
            "message_reads": [
                {
                    "message_id": number,
                    "user_id": reader,
                    "read_at": marketplace.YESTERDAY + timedelta(seconds=seconds),
                }
                for number, (_, _, reader, seconds) in enumerate(messages)
            ],
            "featured_task_experts": [{"user_id": ADA}],
        },
    )

    assert run_job(shared_database, JOB) == {"experts": 1}

    row = card(shared_database)
    assert row["response_seconds"] == Decimal("60.5")
    assert (row["response_time_en"], row["response_time"]) == ("Within 2 minutes", "2分钟内")
    assert row["updated_at"] == NOW


@pytest.mark.parametrize(
    ("written", "odd", "said"),
    [
        ("2026-11-22 23:30Z", "infinity", None),
        ("2026-11-22 23:30Z", "294276-11-22 23:30Z", "Within 106742121 days"),
        # Further apart than an interval can be long
        ("4713-01-01 00:00Z BC", "294276-12-31 00:00Z", "Within 109203489 days"),
    ],
)
def test_dates_beyond_those_of_python_stop_nothing(
    shared_database: Database, written: str, odd: str, said: str | None
) -> None:
    marketplace.clear(shared_database)
    marketplace.fill(
        shared_database,
        {
            "users": [{"id": user_id, "name": "Somebody"} for user_id in (ADA, BEN)],
            "messages": [{"id": 1, "sender_id": BEN, "receiver_id": ADA, "content": "Hello"}],
            "featured_task_experts": [{"user_id": ADA}],
        },
    )
    with shared_database.transaction() as session:
        session.execute(text(f"UPDATE messages SET created_at = '{written}'"))
        session.execute(text(f"INSERT INTO message_reads VALUES (1, {ADA}, '{odd}')"))

    run_job(shared_database, JOB)

    with shared_database.transaction() as session:
        cards = session.scalars(text("SELECT response_time_en FROM featured_task_experts"))
        assert list(cards) == [said]


def test_a_card_that_is_right_is_not_written_again(shared_database: Database) -> None:
    marketplace.clear(shared_database)
    marketplace.fill(
        shared_database,
        {
            "users": [{"id": user_id, "name": "Somebody"} for user_id in (ADA, BEN)],
            "tasks": [{"id": 1, "title": "Paint", "poster_id": BEN, "taker_id": ADA}],
            "featured_task_experts": [{"user_id": ADA, "total_tasks": 1}],
        },
    )

    assert run_job(shared_database, JOB) == {"experts": 0}
    assert card(shared_database)["updated_at"] == marketplace.YESTERDAY


def test_rates_are_rounded_to_two_places(shared_database: Database) -> None:
    def task(number: int, poster: int, taker: int, status: str) -> dict[str, Any]:
        return {
            "id": number,
            "title": "Paint",
            "poster_id": poster,
            "taker_id": taker,
            "status": status,
        }

    def review(task_id: int, rating: str, reviewee: int = BEN) -> dict[str, Any]:
        return {"task_id": task_id, "reviewer_id": ADA, "reviewee_id": reviewee, "rating": rating}

    marketplace.clear(shared_database)
    marketplace.fill(
        shared_database,
        {
            "users": [{"id": user_id, "name": "Somebody"} for user_id in (ADA, BEN)],
            "tasks": [
                task(1, BEN, ADA, "completed"),
                task(2, BEN, ADA, "completed"),
                task(3, BEN, ADA, "in_progress"),
                task(4, ADA, BEN, "completed"),
            ],
            # Whoever wrote it, and of whom: the task went well.
            "reviews": [review(1, "3"), review(1, "1"), review(2, "2.9"), review(4, "2", ADA)],
            "featured_task_experts": [{"user_id": ADA}],
        },
    )

    run_job(shared_database, JOB)

    row = card(shared_database)
    assert (row["completed_tasks"], row["total_tasks"]) == (3, 4)
    assert row["completion_rate"] == Decimal("66.67")
    assert row["success_rate"] == Decimal("33.33")
    assert row["avg_rating"] == Decimal(2)
