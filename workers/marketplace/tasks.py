"""Tasks: an open one whose deadline passes is cancelled, with all that hangs on it."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.orm import Session

from workers.batches import Batches
from workers.marketplace.batching import (
    BATCHES_AHEAD,
    BEFORE_ALL_IDS,
    BEFORE_ALL_TIMES,
    Ids,
    join_by_hash,
)
from workers.marketplace.notices import insert_notices, notice_texts

# What is due, some batches ahead, and in the order of the ids: what lies together on disk is then
# changed together. A task weighs as much as it has applications, at least one, and so a batch
# holds at most as many of those too; but a task is never divided.
FIND_OVERDUE = text("""
    WITH overdue AS MATERIALIZED (
        SELECT id, deadline FROM tasks
        WHERE status = 'open' AND deadline <= :now
          AND (deadline, id) > (CAST(:after AS timestamptz), :after_id)
        ORDER BY deadline, id
        LIMIT :batch_size * :batches_ahead
    ), applied AS (
        SELECT task_id AS id, count(*) AS applications FROM task_applications
        WHERE task_id = ANY(ARRAY(SELECT id FROM overdue))
        GROUP BY task_id
    ), weighed AS (
        SELECT id, coalesce(applications, 1) AS weight FROM overdue LEFT JOIN applied USING (id)
    ), placed AS (
        SELECT id, div(sum(weight) OVER (ORDER BY id) - weight, :batch_size) AS batch
        FROM weighed
    ), batch AS (
        SELECT CAST(array_agg(id) AS text) AS ids FROM placed GROUP BY batch ORDER BY batch
    )
    SELECT ARRAY(SELECT ids FROM batch) AS batches,
           CAST(last.deadline AS text) AS after, last.id AS after_id
    FROM (SELECT deadline, id FROM overdue ORDER BY deadline DESC, id DESC LIMIT 1) AS last
""")

# In a statement of its own, since the next must see who applied until now. From now on nobody
# does: FOR UPDATE keeps out new applications, for which the task's row is needed as well.
LOCK_OVERDUE = text("""
    SELECT CAST(ARRAY(
        SELECT id FROM tasks
        WHERE id = ANY(CAST(:task_ids AS bigint[])) AND status = 'open' AND deadline <= :now
        ORDER BY id
        FOR UPDATE SKIP LOCKED
    ) AS text)
""")

TELL = insert_notices(
    "task_cancelled",
    """
        SELECT concerned.user_id, concerned.task_id AS related_id, task.title, person.language
        FROM concerned
        JOIN free ON free.id = concerned.task_id
        JOIN task ON task.id = concerned.task_id
        JOIN person ON person.id = concerned.user_id
    """,
    title="title",
)

# An application, or a person who is to be told, that cannot be locked has somebody busy with it,
# and so the task. The same goes for an application that is not as it was read: somebody has
# changed it since this statement began.
CANCEL = """
    WITH task AS MATERIALIZED (
        SELECT id, poster_id, title FROM tasks WHERE id = ANY(CAST(:task_ids AS bigint[]))
    ), application AS MATERIALIZED (
        SELECT id, task_id, applicant_id, ctid AS version FROM task_applications
        WHERE task_id = ANY(CAST(:task_ids AS bigint[])) AND status <> 'rejected'
    ), locked AS MATERIALIZED (
        SELECT id, ctid AS version FROM task_applications
        WHERE id = ANY(ARRAY(SELECT id FROM application))
        FOR UPDATE SKIP LOCKED
    ), concerned AS MATERIALIZED (
        SELECT id AS task_id, poster_id AS user_id FROM task
        UNION
        SELECT task_id, applicant_id FROM application
    ), person AS MATERIALIZED (
        SELECT id, language FROM users
        WHERE id = ANY(ARRAY(SELECT user_id FROM concerned))
        FOR KEY SHARE SKIP LOCKED
    ), busy AS (
        SELECT task_id
        FROM application LEFT JOIN locked USING (id, version)
        WHERE locked.id IS NULL
        UNION
        SELECT task_id
        FROM concerned LEFT JOIN person ON person.id = user_id
        WHERE person.id IS NULL
    ), free AS MATERIALIZED (
        SELECT id FROM task
        EXCEPT
        SELECT task_id FROM busy
    ), cancelled AS (
        UPDATE tasks SET status = 'cancelled', updated_at = :now
        WHERE id = ANY(ARRAY(SELECT id FROM free))
    ), rejected AS (
        UPDATE task_applications SET status = 'rejected'
        WHERE id = ANY(ARRAY(SELECT application.id FROM application
                             JOIN free ON free.id = application.task_id))
    ), remembered AS (
        INSERT INTO task_history (task_id, user_id, action, remark, created_at)
        SELECT id, poster_id, 'cancelled', 'The deadline passed', :now
        FROM task JOIN free USING (id)
        ORDER BY id
    ), told AS ({tell})
    SELECT count(*) FROM free
"""
CANCEL_AND_TELL = text(CANCEL.format(tell=TELL))


def cancel_expired_tasks(session: Session, now: datetime, *, batch_size: int) -> Batches:
    """Cancel the open tasks whose deadline has come, reject who applied, and tell them all.

    A task is left for the next run if somebody has locked it, one of its applications, or the row
    of a person who is to be told.

    Returns:
        ``cancelled``, the tasks.
    """
    place: dict[str, Any] = {"after": BEFORE_ALL_TIMES, "after_id": BEFORE_ALL_IDS}
    batch = {"now": now, "batch_size": batch_size, "batches_ahead": BATCHES_AHEAD}
    while found := _find(session, {**batch, **place}):
        # In a transaction of its own: the first of them are not locked for as long as it takes.
        yield {"cancelled": 0}
        for task_ids in found.batches:
            yield {"cancelled": _cancel(session, now, task_ids)}
        # Those left alone are still due: go on behind them.
        place = {"after": found.after, "after_id": found.after_id}
    return {"cancelled": 0}


def _find(session: Session, place: Mapping[str, Any]) -> Row[Any] | None:
    join_by_hash(session)
    return session.execute(FIND_OVERDUE, place).one_or_none()


def _cancel(session: Session, now: datetime, task_ids: Ids) -> int:
    join_by_hash(session)
    locked = session.execute(LOCK_OVERDUE, {"now": now, "task_ids": task_ids}).scalar_one()
    tasks = {"now": now, "task_ids": locked, **notice_texts("task_cancelled")}
    return int(session.execute(CANCEL_AND_TELL, tasks).scalar_one())
