"""The data: made by the server itself, set-based, the same for the same seed.

Which rows are due is spread at random over each table. That favours nobody: rows that are due
together lie on pages of their own in a young table, and on ever fewer common ones in an old one.

All times are relative to the moment of making, and at least an hour away from it on either side,
so that it does not matter when, during a long benchmark, a variant takes its `now`.
"""

from collections.abc import Callable
from dataclasses import dataclass

Fill = Callable[["Size"], list[str]]
"""The statements that fill an empty database."""


@dataclass(frozen=True)
class Size:
    """How large a database is made, as a share of the full size."""

    share: float
    seed: int

    def rows(self, at_full_size: int) -> int:
        return max(1, round(at_full_size * self.share))

    def pick(self, count: int, expression: str = "i", salt: int = 0) -> str:
        """SQL for a number from 0 to `count` − 1 that looks random, but depends on the row only."""
        hashed = f"hashint8extended({expression}, {self.seed * 1000 + salt})"
        return f"mod({hashed} & {2**63 - 1}, {count})"


def series(count: int, name: str = "i") -> str:
    """SQL for a table of the numbers from 1 to `count`."""
    return f"generate_series(1::bigint, {count}) AS {name}"


def users(count: int) -> str:
    """Insert people; every third reads Chinese."""
    return f"""
        INSERT INTO users (name, language, created_at)
        SELECT 'User ' || i, CASE WHEN i % 3 = 0 THEN 'zh' ELSE 'en' END,
               now() - interval '1 year'
        FROM {series(count)}
    """


def coupons(size: Size) -> list[str]:
    """Half are due; of the rest half are valid yet, a quarter for ever, a quarter long expired.

    One in five is in somebody's hands, three fifths of these unused.
    """
    count, people = size.rows(1_000_000), size.rows(200_000)
    hours = size.pick(30 * 24, salt=1)
    return [
        users(people),
        f"""
        INSERT INTO coupons (code, status, valid_until)
        SELECT 'C' || lpad(i::text, 10, '0'),
               CASE WHEN kind = 7 THEN 'expired' ELSE 'active' END,
               CASE WHEN kind < 4 THEN now() - (2 + {hours}) * interval '1 hour'
                    WHEN kind < 6 THEN now() + (24 + {hours}) * interval '1 hour'
                    WHEN kind = 7 THEN now() - (2000 + {hours}) * interval '1 hour' END
        FROM (SELECT i, {size.pick(8, salt=2)} AS kind FROM {series(count)})
        """,
        f"""
        INSERT INTO user_coupons (user_id, coupon_id, status)
        SELECT 1 + {size.pick(people, salt=3)}, coupon.id,
               CASE WHEN coupon.status = 'expired' THEN 'expired'
                    WHEN {size.pick(5, salt=4)} < 3 THEN 'unused' ELSE 'used' END
        FROM (SELECT i, 1 + {size.pick(count, salt=5)} AS coupon_id
              FROM {series(count // 5)}) AS held
        JOIN coupons AS coupon ON coupon.id = held.coupon_id
        ORDER BY i
        """,
    ]


def tasks(size: Size) -> list[str]:
    """One in ten is due; one in two has an application, one in four some history and news."""
    count, people = size.rows(2_000_000), size.rows(200_000)
    hours = size.pick(30 * 24, salt=1)
    return [
        users(people),
        f"""
        INSERT INTO tasks (title, poster_id, taker_id, status, deadline, created_at, updated_at)
        SELECT 'Task ' || i, 1 + poster,
               CASE WHEN kind >= 14 THEN 1 + (poster + 1 + {size.pick(people - 1, salt=2)})
                                         % {people} END,
               CASE WHEN kind < 14 THEN 'open' WHEN kind = 14 THEN 'taken'
                    WHEN kind < 19 THEN 'completed' ELSE 'cancelled' END,
               CASE WHEN kind < 2 THEN now() - (2 + {hours}) * interval '1 hour'
                    WHEN kind < 12 THEN now() + (24 + {hours}) * interval '1 hour' END,
               now() - interval '60 days', now() - interval '50 days'
        FROM (SELECT i, {size.pick(20, salt=3)} AS kind, {size.pick(people, salt=4)} AS poster
              FROM {series(count)})
        """,
        # Applicants are not shown their own tasks: whoever would be, applies for nothing.
        f"""
        INSERT INTO task_applications (task_id, applicant_id, status)
        SELECT task_id, applicant_id,
               CASE WHEN {size.pick(10, "i", 5)} < 8 THEN 'pending' ELSE 'rejected' END
        FROM (SELECT i, 1 + {size.pick(count, salt=6)} AS task_id,
                     1 + {size.pick(people, salt=7)} AS applicant_id
              FROM {series(count // 2)}) AS application
        WHERE applicant_id <> (SELECT poster_id FROM tasks WHERE id = task_id)
        ON CONFLICT DO NOTHING
        """,
        """
        INSERT INTO task_history (task_id, user_id, action, created_at)
        SELECT id, poster_id, 'posted', created_at FROM tasks WHERE id % 4 = 0 ORDER BY id
        """,
        """
        INSERT INTO notifications (user_id, type, related_id, title, content, created_at, read_at)
        SELECT poster_id, CASE WHEN id % 400 = 0 THEN 'task_cancelled' ELSE 'task_applied' END,
               id, 'News', 'There is news of your task.', created_at, created_at
        FROM tasks WHERE id % 4 = 0 ORDER BY id
        """,
    ]


def points(size: Size) -> list[str]:
    """Ten rows for each person, of which one or two are due lots, in part spent already.

    Row 1 expired earlier, by row 3; 4 is due, 5 is due for every second person. First come all
    first rows, then all second ones: a ledger that grew with time, each person's here and there.
    """
    people = size.rows(200_000)
    return [
        users(people),
        f"""
        INSERT INTO points_transactions
            (user_id, type, amount, source, related_id, expires_at, expired, created_at)
        SELECT i, type, amount + CASE WHEN type = 'expire' OR k = 1 THEN 0 ELSE bonus END,
               source, CASE WHEN k = 3 THEN turn END,
               now() + days * interval '1 day'
                     + CASE WHEN k = 5 AND i % 2 = 0 THEN interval '-20 days' ELSE '0' END,
               k = 1, now() - (100 - k) * interval '1 day'
        FROM (SELECT i, {size.pick(10, salt=1)} AS bonus,
                     row_number() OVER (ORDER BY {size.pick(2**31, salt=2)}) AS turn
              FROM {series(people)}) AS person,
             (VALUES (1, 'earn', 100, 'task', -60), (2, 'spend', 30, 'shop', NULL),
                     (3, 'expire', 70, 'points_expire', NULL), (4, 'earn', 90, 'task', -5),
                     (5, 'earn', 60, 'task', 10), (6, 'spend', 20, 'shop', NULL),
                     (7, 'earn', 80, 'task', NULL), (8, 'earn', 40, 'task', 20),
                     (9, 'spend', 50, 'shop', NULL), (10, 'earn', 30, 'task', 30))
             AS line (k, type, amount, source, days)
        ORDER BY k, turn
        """,
        """
        INSERT INTO points_accounts (user_id, balance)
        SELECT user_id, sum(CASE WHEN type = 'earn' THEN amount ELSE -amount END)
        FROM points_transactions GROUP BY user_id ORDER BY user_id
        """,
    ]


TASKS_OF_AN_ACTIVITY = 4


def activities(size: Size) -> list[str]:
    """One in ten has ended: by its last day, its last slot or its deadline, a third each.

    Four tasks each, half of them open or taken; four time slots for each that has any.
    """
    count, people = size.rows(50_000), size.rows(50_000)
    return [
        users(people),
        f"""
        INSERT INTO activities (title, service_id, has_time_slots, deadline, end_date,
                                auto_add_new_slots, updated_at)
        SELECT 'Activity ' || i, i, kind = 1,
               CASE kind WHEN 2 THEN now() + CASE WHEN has_ended THEN interval '-2 days'
                                                  ELSE '20 days' END END,
               CASE kind WHEN 0 THEN (now() AT TIME ZONE 'UTC')::date
                                     + CASE WHEN has_ended THEN -2 ELSE 20 END END,
               kind = 1 AND i % 2 = 0, now() - interval '40 days'
        FROM (SELECT i, {size.pick(3, salt=1)} AS kind, {size.pick(10, salt=2)} = 0 AS has_ended
              FROM {series(count)})
        """,
        f"""
        INSERT INTO service_time_slots (service_id, starts_at, ends_at)
        SELECT i, start, start + interval '1 hour'
        FROM (SELECT i, k, now() + (CASE WHEN {size.pick(10, salt=2)} = 0 THEN -k ELSE k END)
                                   * interval '2 days' AS start
              FROM {series(count)}, {series(4, "k")}
              WHERE {size.pick(3, salt=1)} = 1)
        ORDER BY i, k
        """,
        """
        INSERT INTO activity_time_slots (activity_id, time_slot_id)
        SELECT service_id, id FROM service_time_slots ORDER BY id
        """,
        f"""
        INSERT INTO tasks (title, poster_id, taker_id, activity_id, status, created_at, updated_at)
        SELECT 'Task ' || i, 1 + poster,
               CASE WHEN kind > 0 THEN 1 + (poster + 1 + {size.pick(people - 1, salt=3)})
                                       % {people} END,
               1 + (i - 1) / {TASKS_OF_AN_ACTIVITY},
               (ARRAY['open', 'taken', 'completed', 'in_progress'])[1 + kind],
               now() - interval '60 days', now() - interval '50 days'
        FROM (SELECT i, {size.pick(4, salt=4)} AS kind, {size.pick(people, salt=5)} AS poster
              FROM {series(count * TASKS_OF_AN_ACTIVITY)})
        """,
    ]


MESSAGES_OF_A_CHAT = 10


def chats(size: Size) -> list[str]:
    """Two in three ended long enough ago; ten messages each, and the queue row it began with."""
    count, people = size.rows(150_000), size.rows(50_000)
    return [
        users(people),
        agents(size.rows(1_000)),
        f"""
        INSERT INTO customer_service_chats
            (user_id, agent_id, created_at, last_message_at, ended_at, ended_reason, ended_by,
             ended_type)
        SELECT 1 + {size.pick(people, salt=1)}, 1 + {size.pick(size.rows(1_000), salt=2)},
               began_at, began_at, began_at, 'timeout', 'system', 'user_inactive'
        FROM (SELECT i, now() - interval '1 day' * CASE WHEN {size.pick(3, salt=3)} = 0
                                                        THEN 5 ELSE 40 END
                        - {size.pick(24, salt=4)} * interval '1 hour' AS began_at
              FROM {series(count)})
        """,
        f"""
        INSERT INTO customer_service_messages
            (chat_id, sender_type, sender_id, content, created_at)
        SELECT chat.id, CASE WHEN i % 2 = 0 THEN 'agent' ELSE 'user' END,
               CASE WHEN i % 2 = 0 THEN agent_id ELSE user_id END,
               'Message ' || i || ' of a conversation about a task', ended_at
        FROM (SELECT i, 1 + {size.pick(count, salt=5)} AS chat_id
              FROM {series(count * MESSAGES_OF_A_CHAT)}) AS message
        JOIN customer_service_chats AS chat ON chat.id = message.chat_id
        ORDER BY i
        """,
        """
        INSERT INTO customer_service_queue
            (user_id, status, queued_at, assigned_agent_id, assigned_at, chat_id)
        SELECT user_id, 'assigned', created_at, agent_id, created_at, id
        FROM customer_service_chats ORDER BY id
        """,
    ]


def statistics(size: Size) -> list[str]:
    """Two million tasks and a million reviews, of which no statistics exist yet."""
    count, people = size.rows(2_000_000), size.rows(200_000)
    return [
        users(people),
        f"""
        INSERT INTO tasks (title, poster_id, taker_id, status, created_at, updated_at, completed_at)
        SELECT 'Task ' || i, 1 + poster,
               CASE WHEN kind > 0 THEN 1 + (poster + 1 + {size.pick(people - 1, salt=2)})
                                       % {people} END,
               (ARRAY['open', 'taken', 'in_progress', 'completed'])[1 + least(kind, 3)],
               now() - interval '60 days', now() - interval '50 days',
               CASE WHEN kind >= 3 THEN now() - interval '50 days' END
        FROM (SELECT i, {size.pick(8, salt=3)} AS kind, {size.pick(people, salt=4)} AS poster
              FROM {series(count)})
        """,
        f"""
        INSERT INTO reviews (task_id, reviewer_id, reviewee_id, rating)
        SELECT id, poster_id, taker_id, 0.5 + {size.pick(10, "id", 5)} * 0.5
        FROM tasks WHERE taker_id IS NOT NULL ORDER BY id LIMIT {count // 2}
        """,
    ]


CHANGED_TASKS = 1_000


def change_tasks(size: Size) -> list[str]:
    """Complete, as the web backend would, tasks that were in progress."""
    changed = size.rows(CHANGED_TASKS)
    return [
        f"""
        UPDATE tasks SET status = 'completed', updated_at = now(), completed_at = now()
        WHERE id IN (SELECT id FROM tasks WHERE status = 'in_progress'
                     ORDER BY {size.pick(2**31, "id", 6)} LIMIT {changed})
        """
    ]


def agents(count: int, *, room: str = "5") -> str:
    """Insert agents who are online."""
    return f"""
        INSERT INTO customer_service_agents (name, is_online, max_concurrent_chats, avg_rating)
        SELECT 'Agent ' || i, true, {room}, 1 + (i % 9) * 0.5
        FROM {series(count)}
    """


def waiting(size: Size) -> list[str]:
    """Agents for 10 to 18 chats, of which two are taken. Some wait twice; some have a chat."""
    count, people = size.rows(10_000), size.rows(200_000)
    staff = size.rows(1_000)
    return [
        users(people),
        agents(staff, room=f"10 + {size.pick(9, salt=1)}"),
        # Chats of the past, so that counting the open ones has something to avoid.
        f"""
        INSERT INTO customer_service_chats
            (user_id, agent_id, created_at, last_message_at, ended_at)
        SELECT 1 + {size.pick(people, salt=2)}, 1 + {size.pick(staff, salt=3)}, began_at, began_at,
               CASE WHEN {size.pick(100, salt=4)} >= 2 THEN began_at END
        FROM (SELECT i, now() - i * interval '1 second' AS began_at FROM {series(count * 10)})
        """,
        f"""
        INSERT INTO customer_service_queue (user_id, queued_at)
        SELECT 1 + {size.pick(people, salt=5)}, now() - (1 + {size.pick(3600, salt=6)})
                                                      * interval '1 second'
        FROM {series(count)}
        """,
    ]
