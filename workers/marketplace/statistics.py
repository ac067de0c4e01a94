"""People's statistics: how many tasks they have, how many are completed, how they are rated.

Triggers note whom a change of a task or a review concerns, in the transaction of the change (see
`workers.models.statistics`). A run takes the notes that it sees, and computes anew what those
people's rows should say. Whoever commits while it does so leaves notes for the next run, however
long ago that transaction began: there is no time, and no id, behind which nothing can appear.

Once a day, all people are looked at. That repairs what no trigger could see: statistics that were
written by somebody else, or triggers that were off while data was restored. The pass remembers
where it is, batch by batch, so that one which was cut short goes on from there.
"""

import math
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.orm import Session

from workers.batches import Batches
from workers.marketplace.batching import BEFORE_ALL_IDS, Ids, join_by_hash

TASKS_PER_USER = 10
"""How many tasks a batch may read for each person it looks at, on average. Who has many reviews has
many tasks. How many there are is known from when somebody was last looked at: to count them would
take as long as to read them."""

FIRST_GUESS = 50
"""How many times as much the first batch of a full pass may have to read as is known: perhaps
nobody was ever looked at. Later ones go by the one before."""

FULL_PASS = text("SELECT resume_after, finished_at FROM statistics_full_pass")

SAVE_FULL_PASS = text("""
    INSERT INTO statistics_full_pass (resume_after, finished_at)
    VALUES (:resume_after, :finished_at)
    ON CONFLICT (is_only) DO UPDATE
    SET resume_after = excluded.resume_after, finished_at = excluded.finished_at
""")

# As many of the next people as have tasks that can be read in one batch, but at least one.
NEXT_USERS = text("""
    WITH person AS (
        SELECT id, weight, sum(weight) OVER (ORDER BY id) AS weight_so_far
        FROM (
            SELECT id, 1 + CAST(task_count AS bigint) AS weight FROM users
            WHERE id > :after
            ORDER BY id
            LIMIT least(:batch_size, :weight)
        ) AS next
    )
    SELECT CAST(array_agg(id) AS text) AS user_ids, max(id) AS last_id,
           max(weight_so_far) AS weight
    FROM person
    WHERE weight_so_far - weight < :weight
""")

LAST_CHANGE = text("SELECT max(id) FROM statistics_changes")

# As many of the next notes, person by person, as concern tasks that can be read in one batch.
TAKE_CHANGES = text("""
    WITH change AS MATERIALIZED (
        SELECT id, user_id FROM statistics_changes
        WHERE id > :after AND id <= :last
        ORDER BY id
        LIMIT :batch_size
    ), noted AS MATERIALIZED (
        SELECT user_id, min(id) AS first_id FROM change GROUP BY user_id
    ), counted AS (
        SELECT id AS user_id, 1 + CAST(task_count AS bigint) AS weight FROM users
        WHERE id = ANY(ARRAY(SELECT user_id FROM noted))
    ), person AS (
        SELECT user_id, first_id, coalesce(weight, 1) AS weight
        FROM noted
        LEFT JOIN counted USING (user_id)
    ), placed AS MATERIALIZED (
        SELECT user_id, first_id,
               sum(weight) OVER (ORDER BY first_id) - weight < :weight AS is_fitting
        FROM person
    ), taken AS (
        DELETE FROM statistics_changes
        WHERE id = ANY(ARRAY(
            SELECT id FROM statistics_changes
            WHERE id = ANY(ARRAY(SELECT id FROM change JOIN placed USING (user_id)
                                 WHERE is_fitting))
            FOR UPDATE SKIP LOCKED
        ))
    )
    SELECT CAST(ARRAY(SELECT user_id FROM placed WHERE is_fitting) AS text) AS user_ids,
           coalesce((SELECT min(first_id) - 1 FROM placed WHERE NOT is_fitting),
                    (SELECT max(id) FROM change),
                    :last) AS after
""")

NOTE = text("""
    INSERT INTO statistics_changes (user_id)
    SELECT user_id FROM unnest(CAST(:user_ids AS bigint[])) AS person (user_id)
""")

# One statement, and so one moment: what is written was true together. A row that is not as it was
# read has been changed since this statement began: as if somebody had it locked.
RECOMPUTE = text("""
    WITH task AS (
        SELECT poster_id AS user_id, CAST(count(*) AS integer) AS tasks,
               CAST(count(*) FILTER (WHERE status = 'completed') AS integer) AS completed
        FROM tasks WHERE poster_id = ANY(CAST(:user_ids AS bigint[])) GROUP BY poster_id
        UNION ALL
        SELECT taker_id, CAST(count(*) AS integer),
               CAST(count(*) FILTER (WHERE status = 'completed') AS integer)
        FROM tasks WHERE taker_id = ANY(CAST(:user_ids AS bigint[])) GROUP BY taker_id
    ), tally AS (
        SELECT user_id, sum(tasks) AS tasks, sum(completed) AS completed
        FROM task
        GROUP BY user_id
    ), rating AS (
        SELECT reviewee_id AS user_id, round(avg(rating), 2) AS mean
        FROM reviews
        WHERE reviewee_id = ANY(CAST(:user_ids AS bigint[]))
        GROUP BY reviewee_id
    ), person AS MATERIALIZED (
        SELECT id, coalesce(tally.tasks, 0) AS task_count,
               coalesce(tally.completed, 0) AS completed_task_count,
               coalesce(rating.mean, 0) AS avg_rating
        FROM unnest(CAST(:user_ids AS bigint[])) AS wanted (id)
        LEFT JOIN tally ON tally.user_id = id
        LEFT JOIN rating ON rating.user_id = id
    ), differing AS MATERIALIZED (
        SELECT person.*, users.ctid AS version
        FROM person
        JOIN users USING (id)
        WHERE users.id = ANY(CAST(:user_ids AS bigint[]))
          AND (users.task_count, users.completed_task_count, users.avg_rating)
           <> (person.task_count, person.completed_task_count, person.avg_rating)
    ), locked AS MATERIALIZED (
        SELECT id, ctid AS version FROM users
        WHERE ctid = ANY(ARRAY(SELECT version FROM differing))
        FOR NO KEY UPDATE SKIP LOCKED
    ), free AS MATERIALIZED (
        SELECT * FROM differing JOIN locked USING (id, version)
    ), written AS (
        UPDATE users
        SET task_count = free.task_count,
            completed_task_count = free.completed_task_count,
            avg_rating = free.avg_rating
        FROM free
        WHERE users.ctid = ANY(ARRAY(SELECT version FROM free)) AND users.ctid = free.version
    )
    SELECT (SELECT count(*) FROM free) AS written,
           (SELECT count(*) + coalesce(sum(task_count), 0) FROM person) AS weight,
           ARRAY(SELECT id FROM differing EXCEPT SELECT id FROM free) AS busy
""")


def update_statistics(session: Session, now: datetime, *, batch_size: int) -> Batches:
    """Bring the statistics of those up to date whom a change concerns; once a day, of all.

    A person whose row somebody has locked is noted again, for the next run.

    Returns:
        ``users``, the rows that were changed.
    """
    yield from _look_at_all(session, now, batch_size)
    yield from _look_at_changes(session, batch_size)
    return {"users": 0}


def _look_at_all(session: Session, now: datetime, batch_size: int) -> Batches:
    """On the first run of a UTC day."""
    state = session.execute(FULL_PASS).one_or_none()
    finished_at = state.finished_at if state else None
    if finished_at and finished_at.astimezone(UTC).date() >= now.astimezone(UTC).date():
        return None
    resume_after = state.resume_after if state else None
    after = BEFORE_ALL_IDS if resume_after is None else resume_after
    underestimate = FIRST_GUESS
    while (people := _next_users(session, after, underestimate, batch_size)).user_ids:
        done = _recompute(session, people.user_ids)
        after = people.last_id
        session.execute(SAVE_FULL_PASS, {"resume_after": after, "finished_at": finished_at})
        yield {"users": done.written}
        underestimate = max(1, done.weight / people.weight)
    session.execute(SAVE_FULL_PASS, {"resume_after": None, "finished_at": now})
    return None


def _next_users(session: Session, after: int, underestimate: float, batch_size: int) -> Row[Any]:
    weight = math.ceil(batch_size * TASKS_PER_USER / underestimate)
    place = {"after": after, "batch_size": batch_size, "weight": weight}
    return session.execute(NEXT_USERS, place).one()


def _look_at_changes(session: Session, batch_size: int) -> Batches:
    # What is noted from here on, also by this run itself, is for the next.
    last = session.scalar(LAST_CHANGE)
    batch = {"last": last, "batch_size": batch_size, "weight": batch_size * TASKS_PER_USER}
    after = BEFORE_ALL_IDS
    while last is not None and after < last:
        join_by_hash(session)
        taken = session.execute(TAKE_CHANGES, {"after": after, **batch}).one()
        yield {"users": _recompute(session, taken.user_ids).written}
        after = taken.after
    return None


def _recompute(session: Session, user_ids: Ids) -> Row[Any]:
    """Return how many of the people's rows were ``written``, and how much was read: ``weight``."""
    join_by_hash(session)
    done = session.execute(RECOMPUTE, {"user_ids": user_ids}).one()
    if done.busy:
        session.execute(NOTE, {"user_ids": done.busy})
    return done
