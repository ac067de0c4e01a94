"""Featured experts: what their cards say of how soon they answer, and how well they do."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.orm import Session

from workers.batches import Batches
from workers.marketplace.batching import BEFORE_ALL_IDS, look_up_by_index
from workers.marketplace.texts import RESPONSE_TIMES

FACTS_PER_EXPERT = 10
"""How many messages, tasks and reviews a batch may read for each expert, on average."""

# The next experts, and no more of them than have facts that can be read in one batch; but one
# expert's are never divided. OFFSET 0 has the planner read them expert by expert, and stop at the
# limit.
NEXT_EXPERTS = text("""
    SELECT DISTINCT user_id
    FROM (
        SELECT expert.user_id
        FROM (
            SELECT user_id FROM featured_task_experts
            WHERE user_id > :after
            ORDER BY user_id
            LIMIT :batch_size
        ) AS expert
        CROSS JOIN LATERAL (
            SELECT 1
            UNION ALL
            SELECT 1 FROM messages WHERE receiver_id = expert.user_id
            UNION ALL
            SELECT 1 FROM tasks WHERE poster_id = expert.user_id
            UNION ALL
            SELECT 1 FROM tasks WHERE taker_id = expert.user_id
            UNION ALL
            SELECT 1 FROM reviews WHERE reviewee_id = expert.user_id
            OFFSET 0
        ) AS fact
        ORDER BY expert.user_id
        LIMIT :facts
    ) AS fact
    ORDER BY user_id
""")

FIGURES = text("""
    WITH response AS (
        SELECT reading.user_id,
               avg(extract(epoch FROM reading.read_at) - extract(epoch FROM message.created_at))
                   AS seconds
        FROM messages AS message
        JOIN message_reads AS reading
            ON reading.message_id = message.id AND reading.user_id = message.receiver_id
        WHERE message.receiver_id = ANY(:user_ids)
          AND message.sender_id <> message.receiver_id
          AND reading.read_at > message.created_at
          AND isfinite(reading.read_at) AND isfinite(message.created_at)
        GROUP BY reading.user_id
    ), task AS (
        SELECT id, poster_id AS user_id, status = 'completed' AS is_completed, false AS is_taken
        FROM tasks
        WHERE poster_id = ANY(:user_ids)
        UNION ALL
        SELECT id, taker_id, status = 'completed', true
        FROM tasks
        WHERE taker_id = ANY(:user_ids)
    ), tally AS (
        SELECT user_id, count(*) AS tasks,
               count(*) FILTER (WHERE is_completed) AS completed,
               count(*) FILTER (WHERE is_taken) AS taken,
               count(*) FILTER (WHERE is_taken AND is_completed) AS taken_completed,
               count(*) FILTER (WHERE is_completed AND EXISTS (
                   SELECT FROM reviews WHERE reviews.task_id = task.id AND rating >= 3
               )) AS successes
        FROM task
        GROUP BY user_id
    ), rating AS (
        SELECT reviewee_id AS user_id, round(avg(rating), 2) AS mean
        FROM reviews
        WHERE reviewee_id = ANY(:user_ids)
        GROUP BY reviewee_id
    )
    SELECT user_id, response.seconds AS response_seconds,
           coalesce(rating.mean, 0) AS avg_rating,
           coalesce(completed, 0) AS completed_tasks,
           coalesce(tasks, 0) AS total_tasks,
           coalesce(round(100.0 * taken_completed / nullif(taken, 0), 2), 0) AS completion_rate,
           coalesce(round(100.0 * successes / nullif(completed, 0), 2), 0) AS success_rate
    FROM unnest(CAST(:user_ids AS bigint[])) AS expert (user_id)
    LEFT JOIN response USING (user_id)
    LEFT JOIN tally USING (user_id)
    LEFT JOIN rating USING (user_id)
""")

WRITE = text("""
    WITH figure AS (
        SELECT *
        FROM unnest(
            CAST(:user_id AS bigint[]), CAST(:response_seconds AS numeric[]),
            CAST(:response_time AS text[]), CAST(:response_time_en AS text[]),
            CAST(:avg_rating AS numeric[]), CAST(:completed_tasks AS integer[]),
            CAST(:total_tasks AS integer[]), CAST(:completion_rate AS numeric[]),
            CAST(:success_rate AS numeric[])
        ) AS figure (user_id, response_seconds, response_time, response_time_en, avg_rating,
                     completed_tasks, total_tasks, completion_rate, success_rate)
    ), differing AS (
        SELECT expert.user_id
        FROM featured_task_experts AS expert
        JOIN figure USING (user_id)
        WHERE (expert.response_seconds, expert.response_time, expert.response_time_en,
               expert.avg_rating, expert.completed_tasks, expert.total_tasks,
               expert.completion_rate, expert.success_rate)
           IS DISTINCT FROM
              (figure.response_seconds, figure.response_time, figure.response_time_en,
               figure.avg_rating, figure.completed_tasks, figure.total_tasks,
               figure.completion_rate, figure.success_rate)
        FOR NO KEY UPDATE OF expert SKIP LOCKED
    )
    UPDATE featured_task_experts AS expert
    SET response_seconds = figure.response_seconds,
        response_time = figure.response_time, response_time_en = figure.response_time_en,
        avg_rating = figure.avg_rating,
        completed_tasks = figure.completed_tasks, total_tasks = figure.total_tasks,
        completion_rate = figure.completion_rate, success_rate = figure.success_rate,
        updated_at = :now
    FROM figure
    WHERE expert.user_id = figure.user_id
      AND expert.user_id IN (SELECT user_id FROM differing)
    RETURNING expert.user_id
""")


def update_experts(session: Session, now: datetime, *, batch_size: int) -> Batches:
    """Bring the figures on featured experts' cards up to date.

    A card that somebody has locked is left for the next run.

    Returns:
        ``experts``, the rows that were changed.
    """
    batch = {"batch_size": batch_size, "facts": batch_size * FACTS_PER_EXPERT}
    after = BEFORE_ALL_IDS
    while user_ids := _next_experts(session, {"after": after, **batch}):
        figures = session.execute(FIGURES, {"user_ids": list(user_ids)}).all()
        yield {"experts": _write(session, now, figures)}
        after = user_ids[-1]
    return {"experts": 0}


def _next_experts(session: Session, place: Mapping[str, int]) -> Sequence[int]:
    look_up_by_index(session)
    return session.scalars(NEXT_EXPERTS, place).all()


def _write(session: Session, now: datetime, figures: Sequence[Row[Any]]) -> int:
    cards = [
        {
            **figure._mapping,
            "response_time": response_time(figure.response_seconds, "zh"),
            "response_time_en": response_time(figure.response_seconds, "en"),
        }
        for figure in figures
    ]
    columns = {name: [card[name] for card in cards] for name in cards[0]}
    return len(session.execute(WRITE, {"now": now, **columns}).all())


def response_time(seconds: Decimal | None, language: str) -> str | None:
    """Say a positive mean response time, rounded up: 60 minutes are 1 hour, 24 hours are 1 day."""
    if seconds is None:
        return None
    minutes, hours, days = (_rounded_up(seconds, unit) for unit in (60, 3600, 86_400))
    if minutes < 60:
        count, unit = minutes, "minutes"
    elif hours < 24:
        count, unit = hours, "hours"
    else:
        count, unit = days, "days"
    said = RESPONSE_TIMES[unit][language]
    return said.one if count == 1 else said.many.format(count=count)


def _rounded_up(seconds: Decimal, unit_seconds: int) -> int:
    whole, rest = divmod(seconds, unit_seconds)
    return int(whole) + (rest > 0)
