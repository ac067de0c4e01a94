"""Sample activities and tasks: with applications, histories and reviews, many of them overdue."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from workers.models import (
    Activity,
    ActivityTimeSlot,
    Review,
    ServiceTimeSlot,
    Task,
    TaskApplication,
    TaskHistory,
    TaskStatus,
)
from workers.sample_data.people import Person
from workers.sample_data.sample import Sample
from workers.sample_data.texts import ACTIVITY_TITLES, TASK_TITLES

# How many tasks of each status; of the open ones, every fifth is overdue, every sixth flexible.
TASKS: dict[TaskStatus, int] = {
    "open": 200,
    "taken": 60,
    "in_progress": 50,
    "pending_confirmation": 30,
    "completed": 150,
    "cancelled": 40,
}

RATINGS = [Decimal(rating) for rating in ("5", "5", "5", "4.5", "4.5", "4", "4", "3", "2", "0.5")]

# Status, has slots, deadline (days from now), last day, adds slots, its slots (days from now).
ACTIVITIES: list[tuple[str, bool, float | None, int | None, bool, tuple[float, ...]]] = [
    ("open", False, 12, None, False, ()),
    ("open", False, -0.1, None, False, ()),
    ("open", False, -3, None, False, ()),
    ("open", False, None, 20, False, ()),
    ("open", True, None, -1, True, (-2, 5)),
    ("open", True, None, None, False, (-9, -2)),
    ("open", True, None, None, False, (-4, 3)),
    ("open", True, None, None, True, (-6, 4)),
    ("open", True, None, None, True, (-8, -1)),
    ("open", True, None, 40, True, (-1, 45)),
    ("closed", False, -2, None, False, ()),
    ("cancelled", True, None, None, False, (-3,)),
    ("completed", True, None, -30, False, (-40, -33)),
]


def add_activities(sample: Sample) -> list[int]:
    """Add activities, some of which have ended without anybody noticing, and return their ids."""
    today = sample.now.astimezone(UTC).date()
    activity_ids = sample.add_returning_ids(
        Activity,
        [
            {
                "title": ACTIVITY_TITLES[index % len(ACTIVITY_TITLES)],
                "service_id": 1 + index,
                "status": status,
                "has_time_slots": has_slots,
                "deadline": None if deadline is None else sample.ahead(days=deadline),
                "end_date": None if last_day is None else today + timedelta(days=last_day),
                "auto_add_new_slots": adds_slots,
                "updated_at": sample.ago(days=20),
            }
            for index, (status, has_slots, deadline, last_day, adds_slots, _) in enumerate(
                ACTIVITIES
            )
        ],
    )
    slots = [
        (index, days) for index, activity in enumerate(ACTIVITIES) for days in sorted(activity[-1])
    ]
    slot_ids = sample.add_returning_ids(
        ServiceTimeSlot,
        [
            {
                "service_id": 1 + index,
                "starts_at": sample.ahead(days=days),
                "ends_at": sample.ahead(days=days, hours=1.5),
            }
            for index, days in slots
        ],
    )
    sample.add(
        ActivityTimeSlot,
        [
            {"activity_id": activity_ids[index], "time_slot_id": slot_id}
            for (index, _), slot_id in zip(slots, slot_ids, strict=True)
        ],
    )
    return activity_ids


def add_tasks(sample: Sample, people: list[Person], activity_ids: list[int]) -> None:
    """Add tasks in all statuses, with what belongs to them."""
    rows = [
        _task(sample, people, activity_ids, status, number)
        for status, count in TASKS.items()
        for number in range(count)
    ]
    tasks = list(zip(sample.add_returning_ids(Task, rows), rows, strict=True))
    sample.add(
        TaskApplication,
        [row for id_, task in tasks for row in _applications(sample, people, id_, task)],
    )
    sample.add(TaskHistory, [row for id_, task in tasks for row in _history(id_, task)])
    sample.add(Review, [row for id_, task in tasks for row in _reviews(sample, id_, task)])


def _task(
    sample: Sample,
    people: list[Person],
    activity_ids: list[int],
    status: TaskStatus,
    number: int,
) -> dict[str, Any]:
    chance = sample.random
    poster, taker = chance.sample(people, 2)
    created_at = sample.ago(days=chance.uniform(2, 90))
    # One in eight was booked through an activity.
    is_of_activity = status in ("open", "taken") and chance.random() < 0.125
    return {
        "title": chance.choice(TASK_TITLES[poster.language]),
        "poster_id": poster.id,
        "taker_id": None if status in ("open", "cancelled") else taker.id,
        "activity_id": chance.choice(activity_ids) if is_of_activity else None,
        "status": status,
        "deadline": _deadline(sample, status, number),
        "created_at": created_at,
        "updated_at": created_at + timedelta(days=1),
        "completed_at": created_at + timedelta(days=1) if status == "completed" else None,
    }


def _deadline(sample: Sample, status: TaskStatus, number: int) -> datetime | None:
    if status == "open" and number % 5 == 0:
        return sample.ago(minutes=sample.random.uniform(1, 3000))
    if number % 6 == 1:
        return None
    # A few of the open ones fall due while somebody is watching.
    minutes_ahead = sample.random.choice([(1, 30), (60, 1440), (1440, 20_000)])
    return sample.ahead(minutes=sample.random.uniform(*minutes_ahead))


def _applications(
    sample: Sample, people: list[Person], task_id: int, task: dict[str, Any]
) -> list[dict[str, Any]]:
    chance = sample.random
    involved = (task["poster_id"], task["taker_id"])
    others = [person.id for person in chance.sample(people, chance.randint(0, 4))]
    # Who is left when somebody else was chosen was rejected.
    status = "pending" if task["status"] == "open" else "rejected"
    applications = {id_: status for id_ in others if id_ not in involved}
    if task["taker_id"] is not None:
        applications[task["taker_id"]] = "approved"
    return [
        {"task_id": task_id, "applicant_id": applicant_id, "status": status}
        for applicant_id, status in applications.items()
    ]


def _history(task_id: int, task: dict[str, Any]) -> list[dict[str, Any]]:
    events = [("created", task["poster_id"], task["created_at"])]
    if task["taker_id"] is not None:
        events.append(("taken", task["taker_id"], task["created_at"] + timedelta(hours=6)))
    if task["status"] in ("completed", "cancelled"):
        events.append((task["status"], task["poster_id"], task["updated_at"]))
    return [
        {"task_id": task_id, "user_id": user_id, "action": action, "created_at": happened_at}
        for action, user_id, happened_at in events
    ]


def _reviews(sample: Sample, task_id: int, task: dict[str, Any]) -> list[dict[str, Any]]:
    if task["status"] != "completed":
        return []
    poster_id, taker_id = task["poster_id"], task["taker_id"]
    return [
        {
            "task_id": task_id,
            "reviewer_id": reviewer_id,
            "reviewee_id": reviewee_id,
            "rating": sample.random.choice(RATINGS),
            "created_at": task["completed_at"] + timedelta(hours=5),
        }
        for reviewer_id, reviewee_id in ((poster_id, taker_id), (taker_id, poster_id))
        if sample.random.random() < 0.7
    ]
