"""What is measured: each job, on how much, and how one sees that it did the same as the others."""

from dataclasses import dataclass

from bench import data, limits, loops
from bench.data import Fill, Size
from bench.limits import Limit
from bench.loops import Loop


@dataclass(frozen=True)
class Case:
    """One job on one kind of data."""

    name: str
    title: str
    """What it does; ``{}`` stand for `counts`."""
    counts: tuple[int, ...]
    """The numbers in the title, at full size."""
    job: str
    fill: Fill
    limit: Limit
    results: tuple[str, ...]
    """Queries of one row each, on what was written; `:now` is that of the run. Two variants did
    the same if all rows are the same."""
    changed: str
    """Which count of the run's result says how many rows of the driving table it changed."""
    loop: Loop | None = None
    loop_units: str = ""
    """A query for how many things the loop has to look at."""
    loop_sample: int = 2_000
    """How many of them it looks at; the rest is extrapolated."""
    after_first_run: Fill | None = None
    """The changes that the measured run is about, made after a run of the job."""
    changed_ids: str | None = None
    """A query for the ids of what was changed, for the limit's ``:changed``."""
    full_case: str | None = None
    """The case that would do the same without knowing what changed."""

    def describe(self, size: Size) -> str:
        return self.title.format(*(f"{size.rows(count):,}" for count in self.counts))


def table(name: str, columns: str, where: str = "true") -> str:
    """SQL for a fingerprint of rows, whatever their order and their ids."""
    return f"""
        SELECT count(*), coalesce(sum(hashtextextended(ROW({columns})::text, 0)::numeric), 0)
        FROM {name} WHERE {where}
    """


def number(query: str) -> str:
    """SQL for the number of rows of a table, or a part of it."""
    return f"SELECT count(*) FROM {query}"


NOTIFICATIONS = table(
    "notifications", "user_id, type, related_id, title, content, created_at = :now, read_at IS NULL"
)
TASKS = table("tasks", "id, poster_id, taker_id, status, updated_at = :now")

STATISTICS = Case(
    name="statistics",
    title="recompute {} users over {} tasks and {} reviews",
    counts=(200_000, 2_000_000, 1_000_000),
    job="update_all_users_statistics",
    fill=data.statistics,
    limit=limits.STATISTICS,
    results=(table("users", "id, task_count, completed_task_count, avg_rating"),),
    changed="users",
    loop=loops.update_statistics,
    loop_units=number("users"),
    loop_sample=1_000,
)

CASES: tuple[Case, ...] = (
    Case(
        name="coupons",
        title="expire {} of {} coupons",
        counts=(500_000, 1_000_000),
        job="check_expired_coupons",
        fill=data.coupons,
        limit=limits.COUPONS,
        results=(
            table("coupons", "id, status"),
            table("user_coupons", "id, user_id, coupon_id, status"),
        ),
        changed="coupons",
        loop=loops.expire_coupons,
        loop_units=number("coupons WHERE status = 'active' AND valid_until < now()"),
    ),
    Case(
        name="tasks",
        title="cancel {} of {} tasks",
        counts=(200_000, 2_000_000),
        job="cancel_expired_tasks",
        fill=data.tasks,
        limit=limits.TASKS,
        results=(
            TASKS,
            table("task_applications", "task_id, applicant_id, status"),
            table("task_history", "task_id, user_id, action, created_at = :now"),
            NOTIFICATIONS,
        ),
        changed="cancelled",
        loop=loops.cancel_tasks,
        loop_units=number("tasks WHERE status = 'open' AND deadline <= now()"),
    ),
    Case(
        name="points",
        title="expire {} lots among {} points rows of {} users",
        counts=(300_000, 2_000_000, 200_000),
        job="check_expired_points",
        fill=data.points,
        limit=limits.POINTS,
        results=(
            table("points_accounts", "user_id, balance"),
            table(
                "points_transactions",
                "user_id, type, amount, balance_after, source, related_id, expired, "
                "created_at = :now",
            ),
        ),
        changed="lots",
        loop=loops.expire_points,
        loop_units=number(
            "points_transactions WHERE type = 'earn' AND NOT expired AND expires_at <= now()"
        ),
    ),
    Case(
        name="activities",
        title="end {} of {} activities",
        counts=(5_000, 50_000),
        job="check_and_end_activities",
        fill=data.activities,
        limit=limits.ACTIVITIES,
        results=(
            table("activities", "id, status, updated_at = :now"),
            TASKS,
            table(
                "audit_log",
                "entity, entity_id, action, old_status, new_status, detail IS NULL, "
                "created_at = :now",
            ),
            NOTIFICATIONS,
        ),
        changed="activities",
        loop=loops.end_activities,
        loop_units=number("activities WHERE status = 'open'"),
    ),
    Case(
        name="chats",
        title="delete {} chats with {} messages",
        counts=(100_000, 1_000_000),
        job="cleanup_long_inactive_chats",
        fill=data.chats,
        limit=limits.CHATS,
        results=(
            table("customer_service_chats", "id"),
            table("customer_service_messages", "id"),
            table("customer_service_queue", "id, status, chat_id"),
        ),
        changed="chats",
        loop=loops.delete_chats,
        loop_units=number("customer_service_chats WHERE ended_at < now() - interval '30 days'"),
    ),
    STATISTICS,
    Case(
        name="statistics-changed",
        title="the same after {} of the tasks changed",
        counts=(data.CHANGED_TASKS,),
        job=STATISTICS.job,
        fill=data.statistics,
        after_first_run=data.change_tasks,
        changed_ids="SELECT array_agg(id) FROM tasks WHERE updated_at > now() - interval '1 day'",
        limit=limits.STATISTICS_OF_CHANGED,
        results=STATISTICS.results,
        changed=STATISTICS.changed,
        full_case=STATISTICS.name,
    ),
    Case(
        name="assignment",
        title="place {} waiting people with {} agents",
        counts=(10_000, 1_000),
        job="process_customer_service_queue",
        fill=data.waiting,
        limit=limits.ASSIGNMENT,
        results=(
            table("customer_service_chats", "id, user_id, agent_id, last_message_at = :now"),
            table(
                "customer_service_queue",
                "id, status, assigned_agent_id, assigned_at = :now, chat_id",
            ),
            NOTIFICATIONS,
            table("outbox_events", "type, key, payload"),
        ),
        changed="assigned",
        loop=loops.assign_waiting,
        loop_units=number("customer_service_queue WHERE status = 'waiting'"),
        loop_sample=500,
    ),
)

BY_NAME = {case.name: case for case in CASES}
