"""Random marketplaces: small, and nasty, of few people and few instants, so that all collides."""

from collections.abc import Callable
from datetime import UTC, timedelta
from decimal import Decimal
from typing import Any, TypeVar

from hypothesis import strategies as st

from tests.marketplace.jobs import NOW, RETENTION, TIMEOUT, WARNING
from tests.marketplace.marketplace import FIRST_ID, Marketplace

T = TypeVar("T")
Draw = Callable[[st.SearchStrategy[Any]], Any]
Columns = dict[str, st.SearchStrategy[Any]]

MOMENT = timedelta(microseconds=1)
MAX_ROWS = 6


def around(*distances: timedelta) -> st.SearchStrategy[Any]:
    """The instants at these distances from now, just before them, and just after."""
    exactly = [NOW + distance for distance in (timedelta(0), *distances)]
    return st.sampled_from(
        [moment + step for moment in exactly for step in (-MOMENT, 0 * MOMENT, MOMENT)]
    )


def maybe(strategy: st.SearchStrategy[T]) -> st.SearchStrategy[T | None]:
    return st.none() | strategy


DAYS = around(timedelta(days=-1), timedelta(days=1))
FLAGS = st.booleans()


def rows(
    draw: Draw, columns: Columns, *, most: int = MAX_ROWS, least: int = 0
) -> list[dict[str, Any]]:
    """Draw rows with ids."""
    drawn: list[dict[str, Any]] = draw(
        st.lists(st.fixed_dictionaries(columns), min_size=least, max_size=most)
    )
    return [{"id": FIRST_ID + number, **row} for number, row in enumerate(drawn)]


def ids(table: list[dict[str, Any]]) -> st.SearchStrategy[int]:
    return st.sampled_from([row["id"] for row in table])


def people(draw: Draw, least: int = 1) -> list[dict[str, Any]]:
    columns: Columns = {
        "name": st.just("Ada B."),
        "language": st.sampled_from(["en", "zh"]),
        "task_count": st.integers(0, 2),
        "completed_task_count": st.integers(0, 2),
        "avg_rating": st.sampled_from([Decimal(0), Decimal("3.25"), Decimal(5)]),
    }
    return rows(draw, columns, least=least, most=4)


def notifications(
    draw: Draw, user_ids: st.SearchStrategy[int], kinds: list[str], related: st.SearchStrategy[int]
) -> list[dict[str, Any]]:
    """Some of those that a job is about to send: read, and of yesterday."""
    keys = draw(
        st.lists(st.tuples(user_ids, st.sampled_from(kinds), related), unique=True, max_size=4)
    )
    return [
        {
            "id": FIRST_ID + number,
            "user_id": user_id,
            "type": kind,
            "related_id": related_id,
            "title": "Old",
            "content": "Old",
            "created_at": NOW - timedelta(days=1),
            "read_at": NOW,
        }
        for number, (user_id, kind, related_id) in enumerate(keys)
    ]


@st.composite
def customer_service(draw: Draw) -> Marketplace:
    users = people(draw)
    user_ids = ids(users)
    agents = rows(
        draw,
        {
            "name": st.just("Agent Ana"),
            "is_online": st.sampled_from([True, True, False]),
            "max_concurrent_chats": st.integers(0, 3),
            "avg_rating": st.sampled_from([Decimal(4), Decimal("4.5")]),
        },
        least=1,
        most=3,
    )
    silences = around(-WARNING, -TIMEOUT, -RETENTION)
    chats = rows(
        draw,
        {
            "user_id": user_ids,
            "agent_id": ids(agents),
            "last_message_at": silences,
            "warned_at": maybe(silences),
            "ended_at": st.none() | around(-RETENTION, -2 * RETENTION),
        },
    )
    chat_ids = ids(chats) if chats else st.nothing()
    messages = rows(
        draw,
        {
            "chat_id": chat_ids,
            "sender_type": st.sampled_from(["user", "agent", "system"]),
            "content": st.just("Hello"),
            "created_at": around(-TIMEOUT),
        },
        most=2 * MAX_ROWS if chats else 0,
    )
    queue = rows(
        draw,
        {
            "user_id": user_ids,
            "status": st.sampled_from(["waiting", "waiting", "waiting", "assigned", "cancelled"]),
            "queued_at": DAYS,
            "chat_id": maybe(chat_ids),
        },
    )
    for entry in queue:
        if entry["status"] == "waiting":
            entry["chat_id"] = None
    kinds = [
        "customer_service_assigned",
        "customer_service_chat_ended",
        "customer_service_timeout_warning",
    ]
    return {
        "users": users,
        "customer_service_agents": agents,
        "customer_service_chats": chats,
        "customer_service_messages": messages,
        "customer_service_queue": queue,
        "notifications": notifications(draw, user_ids, kinds, chat_ids) if chats else [],
    }


@st.composite
def tasks(draw: Draw) -> Marketplace:
    """Tasks, what people think of each other, and activities with slots."""
    users = people(draw)
    user_ids = ids(users)
    activities = rows(
        draw,
        {
            "title": st.just("Yoga"),
            "service_id": st.sampled_from([None, 1, 2]),
            "status": st.sampled_from(["open", "open", "open", "closed", "completed"]),
            "has_time_slots": FLAGS,
            "deadline": maybe(DAYS),
            "end_date": st.sampled_from(
                [None, None, None, *(NOW.date() + timedelta(days=days) for days in (-1, 0, 1))]
            ),
            "auto_add_new_slots": FLAGS,
        },
        most=4,
    )
    starts = around(timedelta(hours=-1), timedelta(days=30))
    slots = rows(
        draw,
        {
            "service_id": st.integers(1, 2),
            "starts_at": starts,
            "ends_at": st.sampled_from([timedelta(0), timedelta(hours=1)]),
            "is_deleted": st.sampled_from([False, False, True]),
        },
    )
    for slot in slots:
        slot["ends_at"] += slot["starts_at"]
    links = (
        draw(st.lists(st.tuples(ids(activities), ids(slots)), unique=True, max_size=6))
        if activities and slots
        else []
    )
    statuses = ["open", "open", "open", "taken", "in_progress", "completed", "completed"]
    tasks = rows(
        draw,
        {
            "title": st.sampled_from(["Paint", "{0} 100% %s", "画"]),
            "poster_id": user_ids,
            "taker_id": maybe(user_ids),
            "activity_id": maybe(ids(activities)) if activities else st.none(),
            "status": st.sampled_from(statuses),
            "deadline": maybe(DAYS),
        },
    )
    for task in tasks:
        if task["taker_id"] == task["poster_id"]:
            task["taker_id"] = None
    return {
        "users": users,
        "activities": activities,
        "service_time_slots": slots,
        "activity_time_slots": [
            {"activity_id": activity_id, "time_slot_id": slot_id} for activity_id, slot_id in links
        ],
        "tasks": tasks,
        **(_about_tasks(draw, tasks, user_ids) if tasks else {}),
    }


def _about_tasks(
    draw: Draw, tasks: list[dict[str, Any]], user_ids: st.SearchStrategy[int]
) -> Marketplace:
    applications = draw(st.lists(st.tuples(ids(tasks), user_ids), unique=True, max_size=8))
    ratings = [Decimal(rating) for rating in ("0.5", "2.9", "3", "4.5", "5")]
    reviews = rows(
        draw,
        {
            "task_id": ids(tasks),
            "reviewer_id": user_ids,
            "reviewee_id": user_ids,
            "rating": st.sampled_from(ratings),
        },
        most=8,
    )
    return {
        "task_applications": [
            {
                "id": FIRST_ID + number,
                "task_id": task_id,
                "applicant_id": user_id,
                "status": draw(st.sampled_from(["pending", "approved", "rejected"])),
            }
            for number, (task_id, user_id) in enumerate(applications)
        ],
        "reviews": reviews,
        "notifications": notifications(draw, user_ids, ["task_cancelled", "other"], ids(tasks)),
    }


@st.composite
def rewards(draw: Draw) -> Marketplace:
    """Coupons, who holds them, and invitation codes."""
    users = people(draw)
    user_ids = ids(users)
    coupons = rows(
        draw,
        {
            "status": st.sampled_from(["active", "expired", "disabled"]),
            "valid_until": maybe(DAYS),
        },
    )
    for coupon in coupons:
        coupon["code"] = f"SAVE{coupon['id']}"
    codes = rows(draw, {"is_active": FLAGS, "valid_until": maybe(DAYS)})
    for code in codes:
        code["code"] = f"COME{code['id']}"
    held = {
        "user_id": user_ids,
        "coupon_id": ids(coupons) if coupons else st.nothing(),
        "status": st.sampled_from(["unused", "unused", "used", "expired"]),
    }
    return {
        "users": users,
        "coupons": coupons,
        "invitation_codes": codes,
        "user_coupons": rows(draw, held, most=8 if coupons else 0),
    }


@st.composite
def points(draw: Draw) -> Marketplace:
    """Ledgers of few people and many lots. Some add up, and some do not."""
    users = people(draw)[:2]
    user_ids = ids(users)
    ledger = rows(
        draw,
        {
            "user_id": user_ids,
            "type": st.sampled_from(["earn", "earn", "earn", "spend", "expire"]),
            "amount": st.integers(1, 6),
            "related_id": maybe(st.integers(FIRST_ID, FIRST_ID + 11)),
            "expires_at": maybe(DAYS),
            "expired": st.sampled_from([False, False, False, True]),
        },
        most=12,
    )
    balances: dict[int, int] = {}
    for entry in ledger:
        if entry["type"] == "earn":
            entry["related_id"] = None
        else:
            entry["expires_at"] = None
            entry["expired"] = False
        change = entry["amount"] if entry["type"] == "earn" else -entry["amount"]
        balances[entry["user_id"]] = balances.get(entry["user_id"], 0) + change
    accounts = [
        # What adds up, or a little more or less, or no account at all.
        {"user_id": user_id, "balance": max(balance + draw(st.sampled_from([0, 0, 0, -1, 2])), 0)}
        for user_id, balance in balances.items()
        if draw(st.sampled_from([True, True, True, True, False]))
    ]
    return {"users": users, "points_accounts": accounts, "points_transactions": ledger}


@st.composite
def experts(draw: Draw) -> Marketplace:
    """Everything that experts' cards are made of."""
    world = draw(tasks())
    user_ids = ids(world["users"])
    messages = rows(
        draw,
        {
            "sender_id": maybe(user_ids),
            "receiver_id": user_ids,
            "content": st.just("Hello"),
            "created_at": DAYS,
        },
        most=8,
    )
    elapsed = [
        timedelta(0),
        -timedelta(seconds=1),
        MOMENT,
        timedelta(minutes=1),
        timedelta(minutes=1) + MOMENT,
        timedelta(minutes=59),
        timedelta(minutes=59) + MOMENT,
        timedelta(hours=1),
        timedelta(hours=23) + MOMENT,
        timedelta(days=1),
        timedelta(days=1) + MOMENT,
        timedelta(days=9),
    ]
    reads = (
        draw(
            st.lists(
                st.tuples(st.sampled_from(messages), user_ids), unique_by=_read_key, max_size=12
            )
        )
        if messages
        else []
    )
    cards = draw(st.lists(user_ids, unique=True))
    return {
        **world,
        "messages": messages,
        "message_reads": [
            {
                "message_id": message["id"],
                "user_id": user_id,
                "read_at": message["created_at"] + draw(st.sampled_from(elapsed)),
            }
            for message, user_id in reads
        ],
        "featured_task_experts": [
            {
                "user_id": user_id,
                "response_seconds": draw(st.sampled_from([None, Decimal(60)])),
                "completed_tasks": draw(st.integers(0, 1)),
                "updated_at": NOW.astimezone(UTC) - timedelta(days=1),
            }
            for user_id in cards
        ],
    }


def _read_key(read: tuple[dict[str, Any], int]) -> tuple[int, int]:
    message, user_id = read
    return message["id"], user_id
