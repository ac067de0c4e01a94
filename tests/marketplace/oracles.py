"""What each job does, worked out row by row: slow, obvious, and written from the rules alone.

An oracle changes a marketplace as its job should, and returns the job's counts. Rows that it adds
have no ids. A chat that it adds is known by the text ``chat of <user>`` until the database has
given it an id.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction
from typing import Any

from tests.marketplace.jobs import RETENTION, TIMEOUT, WARNING
from tests.marketplace.marketplace import Marketplace
from workers.marketplace.texts import CHAT_MESSAGES, NOTIFICATIONS

Row = dict[str, Any]
Counts = dict[str, int]
Oracle = Callable[[Marketplace, datetime], Counts]


# --- What several jobs do -------------------------------------------------------------------------


def language(world: Marketplace, user_id: int) -> str:
    return str(next(user["language"] for user in world["users"] if user["id"] == user_id))


def notify(
    world: Marketplace, now: datetime, user_id: int, kind: str, related_id: Any, **values: Any
) -> None:
    """Add a notification, or renew the one that there is."""
    said = NOTIFICATIONS[kind][language(world, user_id)]
    news = {
        "title": said.title.format(**values),
        "content": said.content.format(**values),
        "created_at": now,
        "read_at": None,
    }
    for notification in world["notifications"]:
        key = (notification["user_id"], notification["type"], notification["related_id"])
        if key == (user_id, kind, related_id):
            notification.update(news)
            return
    key_values = {"id": None, "user_id": user_id, "type": kind, "related_id": related_id}
    world["notifications"].append(key_values | news)


def say(world: Marketplace, now: datetime, chat: Row, occasion: str, **values: Any) -> None:
    said = CHAT_MESSAGES[occasion][language(world, chat["user_id"])]
    world["customer_service_messages"].append(
        {
            "id": None,
            "chat_id": chat["id"],
            "sender_type": "system",
            "sender_id": None,
            "content": said.format(**values),
            "created_at": now,
        }
    )


def record_event(world: Marketplace, kind: str, chat: Row, **details: Any) -> None:
    who = {"chat_id": chat["id"], "user_id": chat["user_id"], "agent_id": chat["agent_id"]}
    world["outbox_events"].append(
        {
            "id": None,
            "type": kind,
            "key": str(chat["id"]),
            "payload": who | details,
            "published_at": None,
        }
    )


def open_chats(world: Marketplace) -> list[Row]:
    return [chat for chat in world["customer_service_chats"] if chat["ended_at"] is None]


def rounded(value: Fraction) -> Decimal:
    """Two places, halves up."""
    exact = Decimal(value.numerator) / Decimal(value.denominator)
    return exact.quantize(Decimal("0.01"), ROUND_HALF_UP)


def mean(values: Iterable[Fraction]) -> Fraction | None:
    listed = list(values)
    return sum(listed, Fraction(0)) / len(listed) if listed else None


# --- Customer service -----------------------------------------------------------------------------


def process_customer_service_queue(world: Marketplace, now: datetime) -> Counts:
    waiting = [entry for entry in world["customer_service_queue"] if entry["status"] == "waiting"]
    assigned = 0
    for entry in sorted(waiting, key=lambda entry: (entry["queued_at"], entry["id"])):
        own = [chat for chat in open_chats(world) if chat["user_id"] == entry["user_id"]]
        chat = min(own, key=lambda chat: chat["id"]) if own else _new_chat(world, now, entry)
        if chat is None:
            continue
        entry["status"] = "assigned"
        entry["assigned_agent_id"] = chat["agent_id"]
        entry["assigned_at"] = now
        entry["chat_id"] = chat["id"]
        notify(world, now, entry["user_id"], "customer_service_assigned", chat["id"])
        record_event(world, "customer_service.chat_assigned", chat)
        assigned += 1
    return {"assigned": assigned, "waiting": len(waiting) - assigned}


def _new_chat(world: Marketplace, now: datetime, entry: Row) -> Row | None:
    def room(agent: Row) -> int:
        own = [chat for chat in open_chats(world) if chat["agent_id"] == agent["id"]]
        return int(agent["max_concurrent_chats"]) - len(own)

    agents = [
        agent
        for agent in world["customer_service_agents"]
        if agent["is_online"] and room(agent) > 0
    ]
    if not agents:
        return None
    agent = min(agents, key=lambda agent: (-room(agent), -agent["avg_rating"], agent["id"]))
    chat = {
        "id": f"chat of {entry['user_id']}",
        "user_id": entry["user_id"],
        "agent_id": agent["id"],
        "created_at": now,
        "last_message_at": now,
        "warned_at": None,
        "ended_at": None,
        "ended_reason": None,
        "ended_by": None,
        "ended_type": None,
    }
    world["customer_service_chats"].append(chat)
    return chat


def auto_end_timeout_chats(world: Marketplace, now: datetime) -> Counts:
    ended = 0
    for chat in open_chats(world):
        if now - chat["last_message_at"] < TIMEOUT:
            continue
        said = [
            message
            for message in world["customer_service_messages"]
            if message["chat_id"] == chat["id"] and message["sender_type"] != "system"
        ]
        last = max(said, key=lambda message: (message["created_at"], message["id"]), default=None)
        is_agents_turn = last is not None and last["sender_type"] == "user"
        chat["ended_at"] = now
        chat["ended_reason"] = "timeout"
        chat["ended_by"] = "system"
        chat["ended_type"] = "agent_inactive" if is_agents_turn else "user_inactive"
        say(world, now, chat, "timeout")
        notify(world, now, chat["user_id"], "customer_service_chat_ended", chat["id"])
        kind = "customer_service.chat_ended"
        record_event(world, kind, chat, ended_type=chat["ended_type"])
        ended += 1
    return {"ended": ended}


def send_timeout_warnings(world: Marketplace, now: datetime) -> Counts:
    warned = 0
    for chat in open_chats(world):
        silence = now - chat["last_message_at"]
        was_warned = chat["warned_at"] is not None and chat["warned_at"] >= chat["last_message_at"]
        if not WARNING <= silence < TIMEOUT or was_warned:
            continue
        seconds = math.ceil((TIMEOUT - silence) / timedelta(seconds=1))
        chat["warned_at"] = now
        say(world, now, chat, "timeout_warning", seconds=seconds)
        kind = "customer_service_timeout_warning"
        notify(world, now, chat["user_id"], kind, chat["id"], seconds=seconds)
        record_event(world, "customer_service.timeout_warning", chat, seconds_left=seconds)
        warned += 1
    return {"warned": warned}


def cleanup_long_inactive_chats(world: Marketplace, now: datetime) -> Counts:
    old = {
        chat["id"]
        for chat in world["customer_service_chats"]
        if chat["ended_at"] is not None and now - chat["ended_at"] > RETENTION
    }
    messages = world["customer_service_messages"]
    kept = [message for message in messages if message["chat_id"] not in old]
    world["customer_service_messages"] = kept
    for entry in world["customer_service_queue"]:
        if entry["chat_id"] in old:
            entry["chat_id"] = None
    world["customer_service_chats"] = [
        chat for chat in world["customer_service_chats"] if chat["id"] not in old
    ]
    return {"chats": len(old), "messages": len(messages) - len(kept)}


# --- Tasks and activities -------------------------------------------------------------------------


def cancel_expired_tasks(world: Marketplace, now: datetime) -> Counts:
    cancelled = 0
    for task in world["tasks"]:
        if task["status"] != "open" or task["deadline"] is None or task["deadline"] > now:
            continue
        task["status"] = "cancelled"
        task["updated_at"] = now
        told = {task["poster_id"]}
        for application in world["task_applications"]:
            if application["task_id"] == task["id"] and application["status"] != "rejected":
                application["status"] = "rejected"
                told.add(application["applicant_id"])
        world["task_history"].append(
            {
                "id": None,
                "task_id": task["id"],
                "user_id": task["poster_id"],
                "action": "cancelled",
                "remark": "The deadline passed",
                "created_at": now,
            }
        )
        for user_id in told:
            notify(world, now, user_id, "task_cancelled", task["id"], title=task["title"])
        cancelled += 1
    return {"cancelled": cancelled}


def check_and_end_activities(world: Marketplace, now: datetime) -> Counts:
    activities = tasks = 0
    for activity in world["activities"]:
        reason = _why_over(world, now, activity) if activity["status"] == "open" else None
        if reason is None:
            continue
        _audit(world, now, "activity", activity, reason)
        activity["status"] = "completed"
        activity["updated_at"] = now
        activities += 1
        for task in world["tasks"]:
            if task["activity_id"] != activity["id"] or task["status"] not in ("open", "taken"):
                continue
            _audit(world, now, "task", task, f"activity {activity['id']} was completed: {reason}")
            task["status"] = "cancelled"
            task["updated_at"] = now
            tasks += 1
            for user_id in {task["poster_id"], task["taker_id"]} - {None}:
                notify(world, now, user_id, "task_cancelled", task["id"], title=task["title"])
    return {"activities": activities, "tasks": tasks}


def _why_over(world: Marketplace, now: datetime, activity: Row) -> str | None:
    if activity["end_date"] is not None and now.date() > activity["end_date"]:
        return "its last day is over"
    linked = {
        link["time_slot_id"]
        for link in world["activity_time_slots"]
        if link["activity_id"] == activity["id"]
    }
    slots = [slot for slot in world["service_time_slots"] if not slot["is_deleted"]]
    own = [slot for slot in slots if slot["id"] in linked]
    if own and max(slot["ends_at"] for slot in own) < now:
        upcoming = [
            slot
            for slot in slots
            if slot["service_id"] == activity["service_id"]
            and now <= slot["starts_at"] <= now + timedelta(days=30)
        ]
        if not (activity["auto_add_new_slots"] and upcoming):
            return "its last time slot has ended"
    deadline = activity["deadline"]
    if not activity["has_time_slots"] and deadline is not None and deadline < now:
        return "its deadline has passed"
    return None


def _audit(world: Marketplace, now: datetime, entity: str, row: Row, detail: str) -> None:
    """Before the row is changed."""
    is_task = entity == "task"
    world["audit_log"].append(
        {
            "id": None,
            "entity": entity,
            "entity_id": row["id"],
            "action": "task_cancelled" if is_task else "activity_completed",
            "old_status": row["status"],
            "new_status": "cancelled" if is_task else "completed",
            "detail": detail,
            "created_at": now,
        }
    )


# --- Coupons, codes, points -----------------------------------------------------------------------


def check_expired_coupons(world: Marketplace, now: datetime) -> Counts:
    coupons = user_coupons = 0
    overdue = set()
    for coupon in world["coupons"]:
        if coupon["valid_until"] is None or coupon["valid_until"] >= now:
            continue
        overdue.add(coupon["id"])
        if coupon["status"] == "active":
            coupon["status"] = "expired"
            coupons += 1
    for held in world["user_coupons"]:
        if held["status"] == "unused" and held["coupon_id"] in overdue:
            held["status"] = "expired"
            user_coupons += 1
    return {"coupons": coupons, "user_coupons": user_coupons}


def check_expired_invitation_codes(world: Marketplace, now: datetime) -> Counts:
    codes = 0
    for code in world["invitation_codes"]:
        if code["is_active"] and code["valid_until"] is not None and code["valid_until"] < now:
            code["is_active"] = False
            codes += 1
    return {"codes": codes}


def check_expired_points(world: Marketplace, now: datetime) -> Counts:
    counts = {"lots": 0, "points": 0, "users": 0, "mismatched": 0}
    balances = {account["user_id"]: account for account in world["points_accounts"]}
    ledgers = defaultdict(list)
    for entry in world["points_transactions"]:
        ledgers[entry["user_id"]].append(entry)
    for user_id, ledger in ledgers.items():
        left = _points_left(ledger)
        due = [
            lot
            for lot in _lots_in_order(ledger)
            if lot["expires_at"] is not None and lot["expires_at"] <= now and not lot["expired"]
        ]
        if not due:
            continue
        account = balances.get(user_id)
        if account is None or account["balance"] < sum(left[lot["id"]] for lot in due):
            counts["mismatched"] += 1
            continue
        for lot in due:
            _expire(world, now, account, lot, left[lot["id"]])
        counts["lots"] += len(due)
        counts["points"] += sum(left[lot["id"]] for lot in due)
        counts["users"] += any(left[lot["id"]] for lot in due)
    return counts


def _lots_in_order(ledger: list[Row]) -> list[Row]:
    lots = [entry for entry in ledger if entry["type"] == "earn"]
    never = datetime.max.replace(tzinfo=UTC)
    return sorted(lots, key=lambda lot: (lot["expires_at"] or never, lot["id"]))


def _points_left(ledger: list[Row]) -> dict[int, int]:
    """Spend point by point from the first lot that still has one, except what expired of it."""
    left = {}
    for lot in _lots_in_order(ledger):
        gone = [
            entry["amount"]
            for entry in ledger
            if entry["type"] == "expire" and entry["related_id"] == lot["id"]
        ]
        left[lot["id"]] = max(lot["amount"] - sum(gone), 0)
    for entry in ledger:
        if entry["type"] == "spend":
            for _ in range(entry["amount"]):
                first = next((lot_id for lot_id, points in left.items() if points), None)
                if first is not None:
                    left[first] -= 1
    return left


def _expire(world: Marketplace, now: datetime, account: Row, lot: Row, points: int) -> None:
    lot["expired"] = True
    if points:
        account["balance"] -= points
        world["points_transactions"].append(
            {
                "id": None,
                "user_id": lot["user_id"],
                "type": "expire",
                "amount": points,
                "balance_after": account["balance"],
                "source": "points_expire",
                "related_id": lot["id"],
                "expires_at": None,
                "expired": False,
                "created_at": now,
            }
        )


# --- Statistics -----------------------------------------------------------------------------------


def update_all_users_statistics(world: Marketplace, _now: datetime) -> Counts:
    users = 0
    for user in world["users"]:
        tasks = _tasks_of(world, user["id"])
        figures = {
            "task_count": len(tasks),
            "completed_task_count": sum(task["status"] == "completed" for task in tasks),
            "avg_rating": _rating_of(world, user["id"]),
        }
        if any(user[name] != value for name, value in figures.items()):
            user.update(figures)
            users += 1
    return {"users": users}


def update_featured_task_experts_response_time(world: Marketplace, now: datetime) -> Counts:
    experts = 0
    for expert in world["featured_task_experts"]:
        figures = _figures(world, expert["user_id"])
        if any(expert[name] != value for name, value in figures.items()):
            expert.update(figures)
            expert["updated_at"] = now
            experts += 1
    return {"experts": experts}


def _tasks_of(world: Marketplace, user_id: int) -> list[Row]:
    return [task for task in world["tasks"] if user_id in (task["poster_id"], task["taker_id"])]


def _rating_of(world: Marketplace, user_id: int) -> Decimal:
    received = [
        Fraction(review["rating"])
        for review in world["reviews"]
        if review["reviewee_id"] == user_id
    ]
    return rounded(mean(received) or Fraction(0))


def _figures(world: Marketplace, user_id: int) -> Row:
    tasks = _tasks_of(world, user_id)
    completed = [task for task in tasks if task["status"] == "completed"]
    taken = [task for task in tasks if task["taker_id"] == user_id]
    taken_completed = [task for task in taken if task["status"] == "completed"]
    praised = {review["task_id"] for review in world["reviews"] if review["rating"] >= 3}
    successes = [task for task in completed if task["id"] in praised]
    seconds = mean(_response_seconds(world, user_id))
    return {
        # As precisely as the database has it.
        "response_seconds": None if seconds is None else Approximately(seconds),
        "response_time": said_in_chinese(seconds),
        "response_time_en": said_in_english(seconds),
        "avg_rating": _rating_of(world, user_id),
        "completed_tasks": len(completed),
        "total_tasks": len(tasks),
        "completion_rate": _percentage(taken_completed, taken),
        "success_rate": _percentage(successes, completed),
    }


def _percentage(part: list[Row], whole: list[Row]) -> Decimal:
    return rounded(Fraction(100 * len(part), len(whole))) if whole else Decimal(0)


def _response_seconds(world: Marketplace, user_id: int) -> Iterable[Fraction]:
    for read in world["message_reads"]:
        if read["user_id"] != user_id:
            continue
        (message,) = (row for row in world["messages"] if row["id"] == read["message_id"])
        is_from_another = message["sender_id"] not in (None, user_id)
        elapsed = read["read_at"] - message["created_at"]
        if message["receiver_id"] == user_id and is_from_another and elapsed > timedelta(0):
            yield Fraction(elapsed // timedelta(microseconds=1), 1_000_000)


class Approximately(Fraction):
    """A mean that equals what the database makes of it, which ends after some sixteen digits."""

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Decimal):
            return super().__eq__(other)
        return abs(Fraction(other) - self) <= abs(self) / 10**15

    __hash__ = Fraction.__hash__


def said_in_english(seconds: Fraction | None) -> str | None:
    if seconds is None:
        return None
    count, unit = _largest_unit(seconds)
    return f"Within {count} {unit}" + ("" if count == 1 else "s")


def said_in_chinese(seconds: Fraction | None) -> str | None:
    if seconds is None:
        return None
    count, unit = _largest_unit(seconds)
    return f"{count}{ {'minute': '分钟', 'hour': '小时', 'day': '天'}[unit] }内"


def _largest_unit(seconds: Fraction) -> tuple[int, str]:
    minutes = math.ceil(seconds / 60)
    if minutes < 60:
        return minutes, "minute"
    hours = math.ceil(seconds / 3600)
    if hours < 24:
        return hours, "hour"
    return math.ceil(seconds / 86_400), "day"


ORACLES: dict[str, Oracle] = {
    oracle.__name__: oracle
    for oracle in (
        process_customer_service_queue,
        auto_end_timeout_chats,
        send_timeout_warnings,
        cancel_expired_tasks,
        check_expired_coupons,
        check_expired_invitation_codes,
        check_expired_points,
        check_and_end_activities,
        update_all_users_statistics,
        cleanup_long_inactive_chats,
        update_featured_task_experts_response_time,
    )
}
