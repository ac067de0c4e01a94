"""People's statistics: how many tasks they have, how many are completed, how they are rated.

Triggers note whom a change of a task or a review concerns, in the transaction of the change (see
`workers.models.statistics`). A run takes the notes that it sees, and computes anew what those
people's rows should say. Whoever commits while it does so leaves notes for the next run, however
long ago that transaction began: there is no time, and no id, behind which nothing can appear.

Once a day, all people are looked at. That repairs what no trigger could see: statistics that were
written by somebody else, or triggers that were off while data was restored. The pass remembers
where it is, batch by batch, so that one which was cut short goes on from there.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.orm import Session

from workers.batches import Batches
from workers.marketplace.batching import BEFORE_ALL_IDS, Ids, as_text, join_by_hash

TASKS_PER_USER = 10
"""How many tasks a batch may read for each person it looks at, on average. Who has many reviews has
many tasks."""

FULL_PASS = text("SELECT resume_after, finished_at FROM statistics_full_pass")

SAVE_FULL_PASS = text("""
    INSERT INTO statistics_full_pass (resume_after, finished_at)
    VALUES (:resume_after, :finished_at)
    ON CONFLICT (is_only) DO UPDATE
    SET resume_after = excluded.resume_after, finished_at = excluded.finished_at
""")

NEXT_USERS = text("""
    SELECT CAST(array_agg(id) AS text)
    FROM (SELECT id FROM users WHERE id > :after ORDER BY id LIMIT :batch_size) AS person
""")

LAST_CHANGE = text("SELECT max(id) FROM statistics_changes")

NEXT_CHANGES = text("""
    WITH change AS MATERIALIZED (
        SELECT id, user_id FROM statistics_changes
        WHERE id > :after AND id <= :last
        ORDER BY id
        LIMIT :batch_size
    ), person AS (
        SELECT id AS user_id, task_count FROM users
        WHERE id = ANY(ARRAY(SELECT user_id FROM change))
    )
    SELECT user_id, array_agg(id) AS ids, max(task_count) AS task_count, max(id) AS last_id
    FROM change
    LEFT JOIN person USING (user_id)
    GROUP BY user_id
    ORDER BY user_id
""")

DELETE_CHANGES = text("""
    DELETE FROM statistics_changes
    WHERE id = ANY (ARRAY(
        SELECT id FROM statistics_changes
        WHERE id = ANY(CAST(:ids AS bigint[]))
        FOR UPDATE SKIP LOCKED
    ))
""")

NOTE = text("""
    INSERT INTO statistics_changes (user_id)
    SELECT user_id FROM unnest(CAST(:user_ids AS bigint[])) AS person (user_id)
""")

# People divided into batches by how many tasks there are to read about each; but one person's are
# never divided.
DIVIDE = text("""
    WITH task AS (
        SELECT poster_id AS id, CAST(count(*) AS integer) AS tasks FROM tasks
        WHERE poster_id = ANY(CAST(:user_ids AS bigint[])) GROUP BY poster_id
        UNION ALL
        SELECT taker_id, CAST(count(*) AS integer) FROM tasks
        WHERE taker_id = ANY(CAST(:user_ids AS bigint[])) GROUP BY taker_id
        UNION ALL
        SELECT unnest(CAST(:user_ids AS bigint[])), 1
    ), person AS MATERIALIZED (
        SELECT id, CAST(sum(tasks) AS integer) AS weight FROM task GROUP BY id
    ), placed AS (
        SELECT id, (sum(weight) OVER (ORDER BY id) - weight) / :tasks AS batch FROM person
    )
    SELECT CAST(array_agg(id ORDER BY id) AS text) AS user_ids, max(id) AS last_id
    FROM placed
    GROUP BY batch
    ORDER BY batch
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
    ), person AS (
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
    batch = {"batch_size": batch_size}
    while user_ids := session.scalar(NEXT_USERS, {"after": after, **batch}):
        for fitting in _divide(session, user_ids, batch_size):
            changed = _recompute(session, fitting.user_ids)
            after = fitting.last_id
            session.execute(SAVE_FULL_PASS, {"resume_after": after, "finished_at": finished_at})
            yield {"users": changed}
    session.execute(SAVE_FULL_PASS, {"resume_after": None, "finished_at": now})
    return None


def _look_at_changes(session: Session, batch_size: int) -> Batches:
    # What is noted from here on, also by this run itself, is for the next.
    place = {"after": BEFORE_ALL_IDS, "last": session.scalar(LAST_CHANGE), "batch_size": batch_size}
    while people := _next_changes(session, place):
        for some in _fitting(people, batch_size * TASKS_PER_USER):
            taken = [id_ for person in some for id_ in person.ids]
            session.execute(DELETE_CHANGES, {"ids": as_text(taken)})
            yield {"users": _recompute(session, as_text(person.user_id for person in some))}
        place["after"] = max(person.last_id for person in people)
    return None


def _next_changes(session: Session, place: Mapping[str, Any]) -> Sequence[Row[Any]]:
    join_by_hash(session)
    return session.execute(NEXT_CHANGES, place).all()


def _fitting(people: Iterable[Row[Any]], tasks: int) -> Iterator[Sequence[Row[Any]]]:
    """Divide people into batches by the tasks that each had when last looked at.

    To count what there is to read about them would take as long as to read it.
    """
    batch, weight = list[Row[Any]](), 0
    for person in people:
        if weight >= tasks:
            yield batch
            batch, weight = [], 0
        batch.append(person)
        weight += 1 + (person.task_count or 0)
    if batch:
        yield batch


def _divide(session: Session, user_ids: Ids, batch_size: int) -> Sequence[Row[Any]]:
    """Divide people into batches by how many tasks there are to read about them."""
    tasks = {"user_ids": user_ids, "tasks": batch_size * TASKS_PER_USER}
    return session.execute(DIVIDE, tasks).all()


def _recompute(session: Session, user_ids: Ids) -> int:
    """Return how many of the people's rows were changed."""
    join_by_hash(session)
    done = session.execute(RECOMPUTE, {"user_ids": user_ids}).one()
    if done.busy:
        session.execute(NOTE, {"user_ids": done.busy})
    return int(done.written)
