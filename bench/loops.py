"""The loop: what one would write first. Load what is due, go through it, ask for what hangs on it.

Each takes the session, `now` and how many things to look at at most, leaves the commit to its
caller, and returns how many it looked at. Relationships, where there were any, would load the same
rows by the same queries.
"""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from workers.marketplace.texts import NOTIFICATIONS
from workers.models import (
    Activity,
    ActivityTimeSlot,
    AuditedEntity,
    AuditLogEntry,
    Coupon,
    CustomerServiceAgent,
    CustomerServiceChat,
    CustomerServiceMessage,
    CustomerServiceQueueEntry,
    Notification,
    OutboxEvent,
    PointsAccount,
    PointsTransaction,
    Review,
    ServiceTimeSlot,
    Task,
    TaskApplication,
    TaskHistory,
    User,
    UserCoupon,
)

Loop = Callable[[Session, datetime, int], int]


def expire_coupons(session: Session, now: datetime, limit: int) -> int:
    due = select(Coupon).where(Coupon.status == "active", Coupon.valid_until < now).limit(limit)
    coupons = session.scalars(due).all()
    for coupon in coupons:
        coupon.status = "expired"
        for held in session.scalars(
            select(UserCoupon).where(
                UserCoupon.coupon_id == coupon.id, UserCoupon.status == "unused"
            )
        ):
            held.status = "expired"
    return len(coupons)


def cancel_tasks(session: Session, now: datetime, limit: int) -> int:
    due = select(Task).where(Task.status == "open", Task.deadline <= now).limit(limit)
    tasks = session.scalars(due).all()
    for task in tasks:
        task.status = "cancelled"
        task.updated_at = now
        concerned = [task.poster_id]
        for application in session.scalars(
            select(TaskApplication).where(
                TaskApplication.task_id == task.id, TaskApplication.status != "rejected"
            )
        ):
            application.status = "rejected"
            concerned.append(application.applicant_id)
        session.add(
            TaskHistory(
                task_id=task.id,
                user_id=task.poster_id,
                action="cancelled",
                remark="The deadline passed",
                created_at=now,
            )
        )
        _notify(session, now, "task_cancelled", concerned, task.id, title=task.title)
    return len(tasks)


def expire_points(session: Session, now: datetime, limit: int) -> int:
    due = (
        select(PointsTransaction)
        .where(
            PointsTransaction.type == "earn",
            PointsTransaction.expired.is_(False),
            PointsTransaction.expires_at <= now,
        )
        .order_by(PointsTransaction.expires_at, PointsTransaction.id)
        .limit(limit)
    )
    lots = session.scalars(due).all()
    for lot in lots:
        left = _points_left(session, lot)
        account = session.get_one(PointsAccount, lot.user_id)
        lot.expired = True
        if left:
            account.balance -= left
            session.add(
                PointsTransaction(
                    user_id=lot.user_id,
                    type="expire",
                    amount=left,
                    balance_after=account.balance,
                    source="points_expire",
                    related_id=lot.id,
                    created_at=now,
                )
            )
    return len(lots)


def _points_left(session: Session, lot: PointsTransaction) -> int:
    ledger = session.scalars(
        select(PointsTransaction).where(PointsTransaction.user_id == lot.user_id)
    ).all()
    spent = sum(entry.amount for entry in ledger if entry.type == "spend")
    for_ever = datetime.max.replace(tzinfo=UTC)
    lots = sorted(
        (entry for entry in ledger if entry.type == "earn"),
        key=lambda entry: (entry.expires_at or for_ever, entry.id),
    )
    for each in lots:
        left = each.amount - sum(
            entry.amount
            for entry in ledger
            if entry.type == "expire" and entry.related_id == each.id
        )
        taken = min(left, spent)
        spent -= taken
        if each is lot:
            return left - taken
    return 0


def end_activities(session: Session, now: datetime, limit: int) -> int:
    is_open = select(Activity).where(Activity.status == "open").order_by(Activity.id).limit(limit)
    activities = session.scalars(is_open).all()
    for activity in activities:
        reason = _why_ended(session, activity, now)
        if reason is None:
            continue
        session.add(_audit("activity", activity, "completed", reason, now))
        activity.status = "completed"
        activity.updated_at = now
        for task in session.scalars(
            select(Task).where(Task.activity_id == activity.id, Task.status.in_(("open", "taken")))
        ):
            session.add(_audit("task", task, "cancelled", "The activity has ended", now))
            task.status = "cancelled"
            task.updated_at = now
            concerned = [task.poster_id] + ([task.taker_id] if task.taker_id else [])
            _notify(session, now, "task_cancelled", concerned, task.id, title=task.title)
    return len(activities)


def _why_ended(session: Session, activity: Activity, now: datetime) -> str | None:
    if activity.end_date and now.astimezone(UTC).date() > activity.end_date:
        return "The last day has passed"
    slots = session.scalars(
        select(ServiceTimeSlot)
        .join(ActivityTimeSlot, ActivityTimeSlot.time_slot_id == ServiceTimeSlot.id)
        .where(ActivityTimeSlot.activity_id == activity.id, ServiceTimeSlot.is_deleted.is_(False))
    ).all()
    if slots and max(slot.ends_at for slot in slots) < now:
        coming = select(ServiceTimeSlot.id).where(
            ServiceTimeSlot.service_id == activity.service_id,
            ServiceTimeSlot.is_deleted.is_(False),
            ServiceTimeSlot.starts_at.between(now, now + timedelta(days=30)),
        )
        if not activity.auto_add_new_slots or session.scalar(coming.limit(1)) is None:
            return "The last time slot has passed"
    if not activity.has_time_slots and activity.deadline and activity.deadline < now:
        return "The deadline has passed"
    return None


def _audit(
    entity: AuditedEntity, row: Activity | Task, new_status: str, detail: str, now: datetime
) -> AuditLogEntry:
    return AuditLogEntry(
        entity=entity,
        entity_id=row.id,
        action=f"{entity}_{new_status}",
        old_status=row.status,
        new_status=new_status,
        detail=detail,
        created_at=now,
    )


def delete_chats(session: Session, now: datetime, limit: int) -> int:
    old = (
        select(CustomerServiceChat)
        .where(CustomerServiceChat.ended_at < now - timedelta(days=30))
        .limit(limit)
    )
    chats = session.scalars(old).all()
    for chat in chats:
        for message in session.scalars(
            select(CustomerServiceMessage).where(CustomerServiceMessage.chat_id == chat.id)
        ):
            session.delete(message)
        session.flush()
        session.delete(chat)
    return len(chats)


def update_statistics(session: Session, _now: datetime, limit: int) -> int:
    users = session.scalars(select(User).order_by(User.id).limit(limit)).all()
    for user in users:
        is_theirs = or_(Task.poster_id == user.id, Task.taker_id == user.id)
        tasks = select(func.count()).select_from(Task).where(is_theirs)
        user.task_count = session.scalar(tasks) or 0
        user.completed_task_count = session.scalar(tasks.where(Task.status == "completed")) or 0
        rating = session.scalar(
            select(func.round(func.avg(Review.rating), 2)).where(Review.reviewee_id == user.id)
        )
        user.avg_rating = rating or Decimal(0)
    return len(users)


def assign_waiting(session: Session, now: datetime, limit: int) -> int:
    waiting = (
        select(CustomerServiceQueueEntry)
        .where(CustomerServiceQueueEntry.status == "waiting")
        .order_by(CustomerServiceQueueEntry.queued_at, CustomerServiceQueueEntry.id)
        .limit(limit)
    )
    entries = session.scalars(waiting).all()
    for entry in entries:
        chat = _open_chat(session, entry.user_id) or _new_chat(session, entry.user_id, now)
        if chat is None:
            continue
        entry.status = "assigned"
        entry.assigned_agent_id = chat.agent_id
        entry.assigned_at = now
        entry.chat_id = chat.id
        _notify(session, now, "customer_service_assigned", [entry.user_id], chat.id)
        who = {"chat_id": chat.id, "user_id": chat.user_id, "agent_id": chat.agent_id}
        session.add(
            OutboxEvent(type="customer_service.chat_assigned", key=str(chat.id), payload=who)
        )
    return len(entries)


def _open_chat(session: Session, user_id: int) -> CustomerServiceChat | None:
    return session.scalar(
        select(CustomerServiceChat)
        .where(CustomerServiceChat.user_id == user_id, CustomerServiceChat.ended_at.is_(None))
        .order_by(CustomerServiceChat.id)
        .limit(1)
    )


def _new_chat(session: Session, user_id: int, now: datetime) -> CustomerServiceChat | None:
    # Kinder than a loop over the agents with a count for each: one query for all of them.
    is_open = select(CustomerServiceChat.agent_id, func.count().label("chats")).where(
        CustomerServiceChat.ended_at.is_(None)
    )
    busy = is_open.group_by(CustomerServiceChat.agent_id).subquery()
    room = CustomerServiceAgent.max_concurrent_chats - func.coalesce(busy.c.chats, 0)
    agent_id = session.scalar(
        select(CustomerServiceAgent.id)
        .outerjoin(busy, busy.c.agent_id == CustomerServiceAgent.id)
        .where(CustomerServiceAgent.is_online, room > 0)
        .order_by(room.desc(), CustomerServiceAgent.avg_rating.desc(), CustomerServiceAgent.id)
        .limit(1)
    )
    if agent_id is None:
        return None
    chat = CustomerServiceChat(
        user_id=user_id, agent_id=agent_id, created_at=now, last_message_at=now
    )
    session.add(chat)
    session.flush()
    return chat


def _notify(
    session: Session,
    now: datetime,
    notice_type: str,
    user_ids: Iterable[int],
    related_id: int,
    **values: str,
) -> None:
    for user_id in dict.fromkeys(user_ids):
        text = NOTIFICATIONS[notice_type][session.get_one(User, user_id).language]
        notice = session.scalar(
            select(Notification).where(
                Notification.user_id == user_id,
                Notification.type == notice_type,
                Notification.related_id == related_id,
            )
        )
        if notice is None:
            notice = Notification(user_id=user_id, type=notice_type, related_id=related_id)
            session.add(notice)
        notice.title = text.title.format_map(values)
        notice.content = text.content.format_map(values)
        notice.created_at = now
        notice.read_at = None
