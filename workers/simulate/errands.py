"""What people come for: each arrives, does one of these, and may stay in a chat."""

import random
from datetime import datetime, timedelta

from sqlalchemy import exists, select, update
from sqlalchemy.dialects.postgresql import insert as insert_or_update
from sqlalchemy.orm import Session

from workers.models import (
    Coupon,
    CustomerServiceQueueEntry,
    Language,
    Message,
    PointsAccount,
    PointsTransaction,
    Task,
    TaskApplication,
    TaskHistory,
    User,
    UserCoupon,
)
from workers.sample_data.texts import FIRST_NAMES, INITIALS, LETTERS, TASK_TITLES
from workers.simulate.acting import Action, choose, somebody


def visitor(session: Session, chance: random.Random) -> User:
    """Return who comes in: mostly somebody known, sometimes somebody new."""
    known = None if chance.random() < 0.2 else somebody(session, chance)
    if known is not None:
        return known
    language: Language = chance.choice(["en", "zh"])
    name = f"{chance.choice(FIRST_NAMES[language])} {chance.choice(INITIALS[language])}."
    newcomer = User(name=name, language=language)
    session.add(newcomer)
    session.flush()
    return newcomer


def asked_customer_service(session: Session, chance: random.Random, now: datetime) -> str | None:
    """Join the queue, unless waiting in it already."""
    person = visitor(session, chance)
    is_waiting = exists().where(
        CustomerServiceQueueEntry.user_id == person.id,
        CustomerServiceQueueEntry.status == "waiting",
    )
    if session.scalar(select(is_waiting)):
        return None
    session.add(CustomerServiceQueueEntry(user_id=person.id, queued_at=now))
    return f"{person.name} asks for customer service"


def posted_a_task(session: Session, chance: random.Random, now: datetime) -> str | None:
    """Post a task, often one whose deadline comes soon."""
    person = visitor(session, chance)
    title = chance.choice(TASK_TITLES[person.language])
    minutes_left = chance.choice([0.5, 1, 2, 5, 60, 1440, None])
    deadline = None if minutes_left is None else now + timedelta(minutes=minutes_left)
    task = Task(title=title, poster_id=person.id, deadline=deadline, created_at=now, updated_at=now)
    session.add(task)
    session.flush()
    session.add(TaskHistory(task_id=task.id, user_id=person.id, action="created", created_at=now))
    return f"{person.name} posts the task “{title}”"


def applied_for_a_task(session: Session, chance: random.Random, now: datetime) -> str | None:
    """Apply for somebody else's open task."""
    person = visitor(session, chance)
    task = choose(
        session,
        chance,
        select(Task.id, Task.title)
        .where(
            Task.status == "open",
            Task.poster_id != person.id,
            Task.deadline.is_(None) | (Task.deadline > now),
        )
        .order_by(Task.id.desc()),
    )
    if task is None:
        return None
    session.execute(
        insert_or_update(TaskApplication)
        .values(task_id=task.id, applicant_id=person.id)
        .on_conflict_do_nothing()
    )
    return f"{person.name} applies for “{task.title}”"


def collected_a_coupon(session: Session, chance: random.Random, now: datetime) -> str | None:
    """Take one of the coupons on offer."""
    person = visitor(session, chance)
    coupon = choose(
        session,
        chance,
        select(Coupon.id, Coupon.code)
        .where(Coupon.status == "active", Coupon.valid_until.is_(None) | (Coupon.valid_until > now))
        .order_by(Coupon.id.desc()),
    )
    if coupon is None:
        return None
    session.add(UserCoupon(user_id=person.id, coupon_id=coupon.id))
    return f"{person.name} collects the coupon {coupon.code}"


def used_a_coupon(session: Session, chance: random.Random, now: datetime) -> str | None:
    """Use a coupon that still holds."""
    held = choose(
        session,
        chance,
        select(UserCoupon.id, User.name, Coupon.code)
        .join(Coupon, Coupon.id == UserCoupon.coupon_id)
        .join(User, User.id == UserCoupon.user_id)
        .where(
            UserCoupon.status == "unused",
            Coupon.status == "active",
            Coupon.valid_until.is_(None) | (Coupon.valid_until > now),
        )
        .order_by(UserCoupon.id.desc()),
    )
    if held is None:
        return None
    # It may have expired since it was read: then there is nothing to use.
    used = session.scalar(
        update(UserCoupon)
        .where(UserCoupon.id == held.id, UserCoupon.status == "unused")
        .values(status="used")
        .returning(UserCoupon.id)
    )
    return f"{held.name} uses the coupon {held.code}" if used else None


def earned_points(session: Session, chance: random.Random, now: datetime) -> str | None:
    """Get points, often ones that expire soon."""
    person = visitor(session, chance)
    amount = 5 * chance.randint(1, 20)
    minutes_left = chance.choice([1, 3, 1440, None])
    balance = session.scalar(
        insert_or_update(PointsAccount)
        .values(user_id=person.id, balance=amount)
        .on_conflict_do_update(
            index_elements=[PointsAccount.user_id], set_={"balance": PointsAccount.balance + amount}
        )
        .returning(PointsAccount.balance)
    )
    session.add(
        PointsTransaction(
            user_id=person.id,
            type="earn",
            amount=amount,
            balance_after=balance,
            source="task_reward",
            expires_at=None if minutes_left is None else now + timedelta(minutes=minutes_left),
            created_at=now,
        )
    )
    return f"{person.name} earns {amount} points"


def spent_points(session: Session, chance: random.Random, now: datetime) -> str | None:
    """Spend some of what one has."""
    account = choose(
        session,
        chance,
        select(PointsAccount.user_id, User.name)
        .join(User, User.id == PointsAccount.user_id)
        .where(PointsAccount.balance >= 5)
        .order_by(PointsAccount.user_id.desc()),
    )
    if account is None:
        return None
    balance = session.scalar(
        select(PointsAccount.balance)
        .where(PointsAccount.user_id == account.user_id, PointsAccount.balance >= 5)
        .with_for_update()
    )
    if balance is None:
        return None
    amount = chance.randint(1, balance)
    session.execute(
        update(PointsAccount)
        .where(PointsAccount.user_id == account.user_id)
        .values(balance=balance - amount)
    )
    session.add(
        PointsTransaction(
            user_id=account.user_id,
            type="spend",
            amount=amount,
            balance_after=balance - amount,
            source="coupon",
            created_at=now,
        )
    )
    return f"{account.name} spends {amount} points"


def wrote_a_letter(session: Session, chance: random.Random, now: datetime) -> str | None:
    """Write to somebody."""
    person, other = visitor(session, chance), somebody(session, chance)
    if other is None or other.id == person.id:
        return None
    content = chance.choice(LETTERS[other.language])
    session.add(Message(sender_id=person.id, receiver_id=other.id, content=content, created_at=now))
    return f"{person.name} writes to {other.name}"


ERRANDS: dict[Action, int] = {
    asked_customer_service: 45,
    posted_a_task: 12,
    applied_for_a_task: 12,
    collected_a_coupon: 8,
    used_a_coupon: 4,
    earned_points: 8,
    spent_points: 4,
    wrote_a_letter: 7,
}
"""Each errand, and how often it is chosen, of 100."""
