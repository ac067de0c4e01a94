"""The limit: what each job does, in the best SQL we could write, all of it in one transaction.

No row is skipped because somebody else has locked it, no run is recorded, no lock is ever given
back before the end: a job cannot be as fast, and should not be much slower. Where several ways of
writing it were tried, the fastest stands here.

Each takes `:now`, and gives its parameters to all of its statements.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, text

from workers.marketplace.texts import NOTIFICATIONS


@dataclass(frozen=True)
class Limit:
    """Statements, in the order in which they are executed."""

    statements: tuple[str, ...]
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def execute(self, connection: Connection, **parameters: Any) -> None:
        for statement in self.statements:
            connection.execute(text(statement), {**self.parameters, **parameters})


def texts(notice_type: str) -> dict[str, str]:
    """Return the texts of a notification as parameters: `title_en`, `content_zh` and so on."""
    return {
        f"{part}_{language}": getattr(text, part)
        for language, text in NOTIFICATIONS[notice_type].items()
        for part in ("title", "content")
    }


def upsert_notices(notice_type: str, source: str, *, task_title: str | None = None) -> str:
    """SQL that notifies the `user_id`s of a query about their `related_id`s."""

    def said(part: str) -> str:
        by_language = f"CASE language WHEN 'zh' THEN :{part}_zh ELSE :{part}_en END"
        return f"replace({by_language}, '{{title}}', {task_title})" if task_title else by_language

    return f"""
        INSERT INTO notifications (user_id, type, related_id, title, content, created_at)
        SELECT notice.user_id, '{notice_type}', notice.related_id,
               {said("title")}, {said("content")}, :now
        FROM ({source}) AS notice JOIN users ON users.id = notice.user_id
        ON CONFLICT (user_id, type, related_id) DO UPDATE
        SET title = excluded.title, content = excluded.content,
            created_at = excluded.created_at, read_at = NULL
    """


COUPONS = Limit(
    (
        """
        UPDATE coupons SET status = 'expired' WHERE status = 'active' AND valid_until < :now
        """,
        """
        UPDATE user_coupons AS held SET status = 'expired'
        FROM coupons AS coupon
        WHERE coupon.id = held.coupon_id AND held.status = 'unused' AND coupon.valid_until < :now
        """,
    )
)

TASKS = Limit(
    (
        """
        CREATE TEMP TABLE due ON COMMIT DROP AS
        SELECT id, poster_id, title FROM tasks WHERE status = 'open' AND deadline <= :now
        """,
        """
        CREATE TEMP TABLE notice ON COMMIT DROP AS
        SELECT poster_id AS user_id, id AS related_id, title AS task_title FROM due
        UNION
        SELECT application.applicant_id, due.id, due.title
        FROM task_applications AS application JOIN due ON due.id = application.task_id
        WHERE application.status <> 'rejected'
        """,
        "ANALYZE due",
        """
        UPDATE tasks SET status = 'cancelled', updated_at = :now
        WHERE status = 'open' AND deadline <= :now
        """,
        """
        UPDATE task_applications AS application SET status = 'rejected'
        FROM due WHERE due.id = application.task_id AND application.status <> 'rejected'
        """,
        """
        INSERT INTO task_history (task_id, user_id, action, remark, created_at)
        SELECT id, poster_id, 'cancelled', 'The deadline passed', :now FROM due
        """,
        # In the order of the unique index: what is written together lies together.
        upsert_notices(
            "task_cancelled",
            "SELECT * FROM notice ORDER BY user_id, related_id",
            task_title="task_title",
        ),
    ),
    texts("task_cancelled"),
)

POINTS = Limit(
    (
        """
        CREATE TEMP TABLE expiring ON COMMIT DROP AS
        WITH lot AS (
            SELECT lot.id, lot.user_id, lot.expires_at, lot.expired,
                   lot.amount - coalesce(before.points, 0) AS points
            FROM points_transactions AS lot
            LEFT JOIN (
                SELECT related_id, sum(amount) AS points
                FROM points_transactions WHERE type = 'expire' GROUP BY related_id
            ) AS before ON before.related_id = lot.id
            WHERE lot.type = 'earn' AND lot.expires_at <= :now
        ), ordered AS (
            SELECT *, sum(points) OVER (PARTITION BY user_id ORDER BY expires_at, id) AS so_far
            FROM lot
        )
        SELECT id, user_id, expires_at,
               greatest(least(lot.points, so_far - coalesce(spent.points, 0)), 0)::bigint
                   AS points_left
        FROM ordered AS lot
        LEFT JOIN (
            SELECT user_id, sum(amount) AS points
            FROM points_transactions WHERE type = 'spend' GROUP BY user_id
        ) AS spent USING (user_id)
        WHERE NOT expired
        """,
        "ANALYZE expiring",
        """
        UPDATE points_transactions SET expired = true
        WHERE type = 'earn' AND NOT expired AND expires_at <= :now
        """,
        """
        INSERT INTO points_transactions
            (user_id, type, amount, balance_after, source, related_id, created_at)
        SELECT user_id, 'expire', points_left,
               balance - sum(points_left) OVER (PARTITION BY user_id
                                                ORDER BY expiring.expires_at, expiring.id),
               'points_expire', expiring.id, :now
        FROM expiring JOIN points_accounts USING (user_id)
        WHERE points_left > 0
        """,
        """
        UPDATE points_accounts AS account SET balance = balance - taken.points
        FROM (SELECT user_id, sum(points_left) AS points
              FROM expiring WHERE points_left > 0 GROUP BY user_id) AS taken
        WHERE taken.user_id = account.user_id
        """,
    )
)

ACTIVITIES = Limit(
    (
        """
        CREATE TEMP TABLE ended ON COMMIT DROP AS
        SELECT activity.id,
               CASE WHEN end_date < (CAST(:now AS timestamptz) AT TIME ZONE 'UTC')::date
                    THEN 'The last day has passed'
                    WHEN has_time_slots THEN 'The last time slot has passed'
                    ELSE 'The deadline has passed' END AS reason
        FROM activities AS activity
        LEFT JOIN (
            SELECT link.activity_id, max(slot.ends_at) AS last_ends_at
            FROM activity_time_slots AS link
            JOIN service_time_slots AS slot ON slot.id = link.time_slot_id AND NOT slot.is_deleted
            GROUP BY link.activity_id
        ) AS slots ON slots.activity_id = activity.id
        WHERE activity.status = 'open'
          AND (end_date < (CAST(:now AS timestamptz) AT TIME ZONE 'UTC')::date
               OR (NOT has_time_slots AND deadline < :now)
               OR (slots.last_ends_at < :now
                   AND NOT (auto_add_new_slots AND EXISTS (
                       SELECT FROM service_time_slots AS slot
                       WHERE slot.service_id = activity.service_id AND NOT slot.is_deleted
                         AND slot.starts_at BETWEEN :now
                             AND CAST(:now AS timestamptz) + interval '30 days'))))
        """,
        """
        CREATE TEMP TABLE stopped ON COMMIT DROP AS
        SELECT task.id, poster_id, taker_id, task.title, task.status
        FROM tasks AS task JOIN ended ON ended.id = task.activity_id
        WHERE task.status IN ('open', 'taken')
        """,
        "ANALYZE ended, stopped",
        """
        UPDATE activities AS activity SET status = 'completed', updated_at = :now
        FROM ended WHERE ended.id = activity.id
        """,
        """
        UPDATE tasks AS task SET status = 'cancelled', updated_at = :now
        FROM stopped WHERE stopped.id = task.id
        """,
        """
        INSERT INTO audit_log (entity, entity_id, action, old_status, new_status, detail,
                               created_at)
        SELECT 'activity', id, 'activity_completed', 'open', 'completed', reason, :now FROM ended
        UNION ALL
        SELECT 'task', id, 'task_cancelled', status, 'cancelled', 'The activity has ended', :now
        FROM stopped
        """,
        upsert_notices(
            "task_cancelled",
            """
            SELECT poster_id AS user_id, id AS related_id, title AS task_title FROM stopped
            UNION ALL
            SELECT taker_id, id, title FROM stopped WHERE taker_id IS NOT NULL
            """,
            task_title="task_title",
        ),
    ),
    texts("task_cancelled"),
)

CHATS = Limit(
    (
        # What the foreign key would do, chat by chat.
        """
        UPDATE customer_service_queue AS entry SET chat_id = NULL
        FROM customer_service_chats AS chat
        WHERE chat.id = entry.chat_id
          AND chat.ended_at < CAST(:now AS timestamptz) - interval '30 days'
        """,
        """
        DELETE FROM customer_service_messages AS message
        USING customer_service_chats AS chat
        WHERE chat.id = message.chat_id
          AND chat.ended_at < CAST(:now AS timestamptz) - interval '30 days'
        """,
        """
        DELETE FROM customer_service_chats
        WHERE ended_at < CAST(:now AS timestamptz) - interval '30 days'
        """,
    )
)

STATISTICS = Limit(
    (
        # Apart from the UPDATE, since only what reads alone is spread over the processor's cores.
        """
        CREATE TEMP TABLE new ON COMMIT DROP AS
        SELECT person.id, coalesce(tasks, 0) AS tasks, coalesce(completed, 0) AS completed,
               coalesce(rating, 0) AS rating
        FROM users AS person
        LEFT JOIN (
            SELECT user_id, count(*) AS tasks, count(*) FILTER (WHERE is_completed) AS completed
            FROM (
                SELECT poster_id AS user_id, status = 'completed' AS is_completed FROM tasks
                UNION ALL
                SELECT taker_id, status = 'completed' FROM tasks WHERE taker_id IS NOT NULL
            ) AS part GROUP BY user_id
        ) AS counted ON counted.user_id = person.id
        LEFT JOIN (
            SELECT reviewee_id, round(avg(rating), 2) AS rating
            FROM reviews GROUP BY reviewee_id
        ) AS rated ON rated.reviewee_id = person.id
        WHERE (person.task_count, person.completed_task_count, person.avg_rating)
              IS DISTINCT FROM (coalesce(tasks, 0), coalesce(completed, 0), coalesce(rating, 0))
        """,
        """
        UPDATE users
        SET task_count = tasks, completed_task_count = completed, avg_rating = rating
        FROM new WHERE new.id = users.id
        """,
    )
)

# It is told whom the changes concern; the job has to find out.
STATISTICS_OF_CHANGED = Limit(
    (
        """
        UPDATE users
        SET task_count = new.tasks, completed_task_count = new.completed, avg_rating = new.rating
        FROM (
            SELECT person.user_id, coalesce(posted.tasks, 0) + coalesce(taken.tasks, 0) AS tasks,
                   coalesce(posted.completed, 0) + coalesce(taken.completed, 0) AS completed,
                   coalesce(rating, 0) AS rating
            FROM (
                SELECT poster_id AS user_id FROM tasks WHERE id = ANY(:changed)
                UNION
                SELECT taker_id FROM tasks WHERE id = ANY(:changed) AND taker_id IS NOT NULL
            ) AS person
            CROSS JOIN LATERAL (
                SELECT count(*) AS tasks, count(*) FILTER (WHERE status = 'completed') AS completed
                FROM tasks WHERE poster_id = person.user_id
            ) AS posted
            CROSS JOIN LATERAL (
                SELECT count(*) AS tasks, count(*) FILTER (WHERE status = 'completed') AS completed
                FROM tasks WHERE taker_id = person.user_id
            ) AS taken
            CROSS JOIN LATERAL (
                SELECT round(avg(rating), 2) AS rating
                FROM reviews WHERE reviewee_id = person.user_id
            ) AS rated
        ) AS new
        WHERE new.user_id = users.id
          AND (users.task_count, users.completed_task_count, users.avg_rating)
              IS DISTINCT FROM (new.tasks, new.completed, new.rating)
        """,
    )
)

# Seats in the order in which they are taken: that of the agent with the most room left is next.
ASSIGNMENT = Limit(
    (
        f"""
        WITH entry AS (
            SELECT id, user_id, row_number() OVER (ORDER BY queued_at, id) AS place
            FROM customer_service_queue WHERE status = 'waiting'
        ), open_chat AS (
            SELECT DISTINCT ON (user_id) user_id, agent_id, id AS chat_id
            FROM customer_service_chats WHERE ended_at IS NULL ORDER BY user_id, id
        ), person AS (
            SELECT user_id, row_number() OVER (ORDER BY min(place)) AS turn
            FROM entry WHERE user_id NOT IN (SELECT user_id FROM open_chat) GROUP BY user_id
        ), agent AS (
            SELECT agent.id, agent.avg_rating,
                   agent.max_concurrent_chats - coalesce(busy.chats, 0) AS room
            FROM customer_service_agents AS agent
            LEFT JOIN (SELECT agent_id, count(*) AS chats FROM customer_service_chats
                       WHERE ended_at IS NULL GROUP BY agent_id) AS busy
                ON busy.agent_id = agent.id
            WHERE agent.is_online
        ), seat AS (
            SELECT agent.id AS agent_id,
                   row_number() OVER (ORDER BY level DESC, avg_rating DESC, agent.id) AS turn
            FROM agent, generate_series(1, room) AS level
        ), new_chat AS (
            INSERT INTO customer_service_chats (user_id, agent_id, created_at, last_message_at)
            SELECT user_id, agent_id, :now, :now FROM person JOIN seat USING (turn) ORDER BY turn
            RETURNING user_id, agent_id, id AS chat_id
        ), chat AS (
            SELECT * FROM open_chat UNION ALL SELECT * FROM new_chat
        ), placed AS (
            UPDATE customer_service_queue AS entry
            SET status = 'assigned', assigned_agent_id = chat.agent_id, assigned_at = :now,
                chat_id = chat.chat_id
            FROM chat WHERE entry.user_id = chat.user_id AND entry.status = 'waiting'
            RETURNING entry.id, entry.user_id, chat.agent_id, chat.chat_id
        ), told AS (
            {
            upsert_notices(
                "customer_service_assigned",
                "SELECT DISTINCT user_id, chat_id AS related_id FROM placed",
            )
        }
        )
        INSERT INTO outbox_events (type, key, payload)
        SELECT 'customer_service.chat_assigned', chat_id::text,
               jsonb_build_object('chat_id', chat_id, 'user_id', user_id, 'agent_id', agent_id)
        FROM (SELECT * FROM placed ORDER BY id) AS placed
        """,
    ),
    texts("customer_service_assigned"),
)
