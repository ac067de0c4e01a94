"""What goes on by itself, whoever arrives or not."""

import random
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import not_, select, update
from sqlalchemy.dialects.postgresql import insert as insert_or_update
from sqlalchemy.orm import Session, aliased

from workers.models import (
    Activity,
    Coupon,
    Message,
    MessageRead,
    Review,
    Task,
    TaskApplication,
    TaskHistory,
    TaskStatus,
    User,
)
from workers.sample_data.texts import ACTIVITY_TITLES
from workers.simulate.acting import Action, choose
from workers.simulate.conversations import agent_answered, agent_came_or_went, customer_wrote


def task_was_taken(session: Session, chance: random.Random, now: datetime) -> str | None:
    """Let the poster of a task choose among those who applied."""
    application = choose(
        session,
        chance,
        select(TaskApplication.task_id, TaskApplication.applicant_id, User.name, Task.title)
        .join(Task, Task.id == TaskApplication.task_id)
        .join(User, User.id == TaskApplication.applicant_id)
        .where(
            TaskApplication.status == "pending",
            Task.status == "open",
            Task.poster_id != TaskApplication.applicant_id,
        )
        .order_by(TaskApplication.id.desc()),
    )
    if application is None or not _move_task(
        session, application.task_id, "open", now, status="taken", taker_id=application.applicant_id
    ):
        return None
    is_chosen = TaskApplication.applicant_id == application.applicant_id
    of_task = TaskApplication.task_id == application.task_id
    session.execute(update(TaskApplication).where(of_task, is_chosen).values(status="approved"))
    session.execute(
        update(TaskApplication).where(of_task, not_(is_chosen)).values(status="rejected")
    )
    session.add(
        TaskHistory(
            task_id=application.task_id,
            user_id=application.applicant_id,
            action="taken",
            created_at=now,
        )
    )
    return f"{application.name} takes “{application.title}”"


def task_was_finished(session: Session, chance: random.Random, now: datetime) -> str | None:
    """Complete a task; mostly its poster reviews the taker."""
    task = choose(
        session,
        chance,
        select(Task.id, Task.title, Task.poster_id, Task.taker_id)
        .where(Task.status == "taken", Task.taker_id.is_not(None))
        .order_by(Task.id.desc()),
    )
    if task is None or not _move_task(
        session, task.id, "taken", now, status="completed", completed_at=now
    ):
        return None
    session.add(
        TaskHistory(task_id=task.id, user_id=task.poster_id, action="completed", created_at=now)
    )
    if chance.random() < 0.8:
        session.add(
            Review(
                task_id=task.id,
                reviewer_id=task.poster_id,
                reviewee_id=task.taker_id,
                rating=chance.choice(["2", "3.5", "4", "4.5", "5"]),
                created_at=now,
            )
        )
    return f"“{task.title}” is done"


def _move_task(
    session: Session, task_id: int, from_status: TaskStatus, now: datetime, **values: Any
) -> bool:
    """Change a task, unless it has left `from_status` since it was read."""
    moved = session.scalar(
        update(Task)
        .where(Task.id == task_id, Task.status == from_status)
        .values(updated_at=now, **values)
        .returning(Task.id)
    )
    return moved is not None


def letter_was_read(session: Session, chance: random.Random, now: datetime) -> str | None:
    """Read a letter."""
    receiver = aliased(User)
    is_read = (
        select(MessageRead.message_id)
        .where(MessageRead.message_id == Message.id, MessageRead.user_id == Message.receiver_id)
        .exists()
    )
    letter = choose(
        session,
        chance,
        select(Message.id, Message.receiver_id, receiver.name)
        .join(receiver, receiver.id == Message.receiver_id)
        .where(not_(is_read))
        .order_by(Message.id.desc()),
    )
    if letter is None:
        return None
    session.execute(
        insert_or_update(MessageRead)
        .values(message_id=letter.id, user_id=letter.receiver_id, read_at=now)
        .on_conflict_do_nothing()
    )
    return f"{letter.name} reads a message"


def coupon_was_offered(session: Session, chance: random.Random, now: datetime) -> str | None:
    """Offer a coupon that does not hold for long."""
    minutes = chance.choice([1, 3, 10])
    code = f"FLASH-{chance.getrandbits(48):012X}"
    session.add(Coupon(code=code, valid_until=now + timedelta(minutes=minutes)))
    return f"The coupon {code} is offered for {minutes} min"


def activity_was_announced(session: Session, chance: random.Random, now: datetime) -> str | None:
    """Announce an activity that is soon over."""
    minutes = chance.choice([1, 5, 30])
    title = chance.choice(ACTIVITY_TITLES)
    session.add(Activity(title=title, deadline=now + timedelta(minutes=minutes), updated_at=now))
    return f"The activity “{title}” is open for {minutes} min"


BUSTLE: dict[Action, int] = {
    customer_wrote: 34,
    agent_answered: 34,
    agent_came_or_went: 4,
    task_was_taken: 8,
    task_was_finished: 6,
    letter_was_read: 8,
    coupon_was_offered: 4,
    activity_was_announced: 2,
}
"""Each event, and how often it is chosen, of 100."""
