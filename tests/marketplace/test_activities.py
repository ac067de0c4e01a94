"""When activities end, and what becomes of their tasks, by example."""

from datetime import timedelta
from typing import Any

import pytest

from tests.marketplace import marketplace
from tests.marketplace.jobs import NOW, run_job
from workers.database import Database

ADA, BEN, EVA = 1_000_001, 1_000_002, 1_000_003

PEOPLE = [{"id": user_id, "name": "Somebody"} for user_id in (ADA, BEN, EVA)]

MOMENT = timedelta(microseconds=1)
MONTH = timedelta(days=30)
TODAY = NOW.date()

Slot = dict[str, Any]


def linked(ends_at: Any, **values: Any) -> Slot:
    """A slot of the activity, and of another service."""
    return {"starts_at": NOW - MONTH, "ends_at": ends_at, "service_id": 8, "is_linked": 1, **values}


def offered(starts_at: Any, **values: Any) -> Slot:
    """A slot of the activity's service that is not the activity's."""
    return {"starts_at": starts_at, "ends_at": starts_at, "service_id": 7, **values}


OVER = linked(NOW - MOMENT)
ADDS = {"auto_add_new_slots": True}
DATE, SLOT, DEADLINE = (
    "its last day is over",
    "its last time slot has ended",
    "its deadline has passed",
)


@pytest.mark.parametrize(
    ("activity", "slots", "reason"),
    [
        ({}, [], None),
        # Its last day
        ({"end_date": TODAY}, [], None),
        ({"end_date": TODAY - timedelta(days=1)}, [], DATE),
        ({"end_date": TODAY - timedelta(days=1), "has_time_slots": True}, [linked(NOW)], DATE),
        ({"end_date": TODAY - timedelta(days=1), "deadline": NOW - MOMENT}, [OVER], DATE),
        # Its last slot
        ({}, [OVER], SLOT),
        ({"has_time_slots": True}, [OVER], SLOT),
        ({"deadline": NOW - MOMENT}, [OVER], SLOT),
        ({}, [linked(NOW)], None),
        ({}, [OVER, linked(NOW + MOMENT)], None),
        ({}, [OVER, linked(NOW + MOMENT, is_deleted=True)], SLOT),
        ({}, [linked(NOW - MOMENT, is_deleted=True)], None),
        ({"end_date": TODAY}, [OVER], SLOT),
        # The next slot of its service
        (ADDS, [OVER], SLOT),
        (ADDS, [OVER, offered(NOW)], None),
        (ADDS, [OVER, offered(NOW - MOMENT)], SLOT),
        (ADDS, [OVER, offered(NOW + MONTH)], None),
        (ADDS, [OVER, offered(NOW + MONTH + MOMENT)], SLOT),
        (ADDS, [OVER, offered(NOW, is_deleted=True)], SLOT),
        (ADDS, [OVER, offered(NOW, service_id=8)], SLOT),
        ({**ADDS, "service_id": None}, [OVER, offered(NOW)], SLOT),
        ({}, [OVER, offered(NOW)], SLOT),
        # Its deadline
        ({"deadline": NOW}, [], None),
        ({"deadline": NOW - MOMENT}, [], DEADLINE),
        ({"deadline": NOW - MOMENT}, [linked(NOW)], DEADLINE),
        ({"deadline": NOW - MOMENT, "has_time_slots": True}, [], None),
        ({"deadline": NOW - MOMENT, **ADDS}, [OVER, offered(NOW)], DEADLINE),
        # Not open
        ({"deadline": NOW - MOMENT, "status": "closed"}, [], None),
        ({"deadline": NOW - MOMENT, "status": "completed"}, [], None),
    ],
)
def test_an_activity_ends_for_the_first_reason_there_is(
    shared_database: Database, activity: dict[str, Any], slots: list[Slot], reason: str | None
) -> None:
    marketplace.clear(shared_database)
    marketplace.fill(
        shared_database,
        {
            "activities": [{"id": 5, "title": "Yoga", "service_id": 7, **activity}],
            "service_time_slots": [
                {"id": number, **{k: v for k, v in slot.items() if k != "is_linked"}}
                for number, slot in enumerate(slots)
            ],
            "activity_time_slots": [
                {"activity_id": 5, "time_slot_id": number}
                for number, slot in enumerate(slots)
                if "is_linked" in slot
            ],
        },
    )

    counts = run_job(shared_database, "check_and_end_activities")

    assert counts == {"activities": int(reason is not None), "tasks": 0}
    audit = marketplace.read(shared_database)["audit_log"]
    assert [row["detail"] for row in audit] == ([reason] if reason else [])


def test_an_activity_that_ends_cancels_what_is_not_under_way(shared_database: Database) -> None:
    def task(number: int, status: str, taker: int | None) -> dict[str, Any]:
        return {
            "id": number,
            "title": "Yoga",
            "poster_id": ADA,
            "taker_id": taker,
            "activity_id": 5,
            "status": status,
        }

    marketplace.clear(shared_database)
    marketplace.fill(
        shared_database,
        {
            "users": PEOPLE,
            "activities": [{"id": 5, "title": "Yoga", "end_date": NOW.date() - timedelta(days=1)}],
            "tasks": [
                task(1, "open", None),
                task(2, "taken", BEN),
                task(3, "in_progress", EVA),
                task(4, "completed", EVA),
            ],
            "task_applications": [{"task_id": 1, "applicant_id": EVA}],
        },
    )

    counts = run_job(shared_database, "check_and_end_activities")

    assert counts == {"activities": 1, "tasks": 2}
    world = marketplace.read(shared_database)
    assert [row["status"] for row in world["tasks"]] == [
        "cancelled",
        "cancelled",
        "in_progress",
        "completed",
    ]
    assert sorted((row["user_id"], row["related_id"]) for row in world["notifications"]) == [
        (ADA, 1),
        (ADA, 2),
        (BEN, 2),
    ]
    assert [row["status"] for row in world["task_applications"]] == ["pending"]
    audit = [(row["entity"], row["entity_id"], row["detail"]) for row in world["audit_log"]]
    reason = "its last day is over"
    assert sorted(audit) == [
        ("activity", 5, reason),
        ("task", 1, f"activity 5 was completed: {reason}"),
        ("task", 2, f"activity 5 was completed: {reason}"),
    ]
