"""Tasks: an open one whose deadline passes is cancelled, with all that hangs on it."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.orm import Session

from workers.batches import Batches
from workers.marketplace.locks import BEFORE_ALL_IDS, BEFORE_ALL_TIMES, lock_people, lock_rows
from workers.marketplace.notices import Notice, notify

# A row for each application, and so at most a batch of those too; but a task is never divided.
# OFFSET 0 has the planner read them task by task, and stop at the limit.
#
# FOR UPDATE, because it keeps out new applications: who inserts one needs the task's row as well.
LOCK_OVERDUE = text("""
    SELECT task.id, task.poster_id, task.title, CAST(task.deadline AS text) AS deadline
    FROM tasks AS task
    LEFT JOIN LATERAL (
        SELECT 1 FROM task_applications AS application
        WHERE application.task_id = task.id AND application.status <> 'rejected'
        OFFSET 0
    ) AS application ON true
    WHERE task.status = 'open' AND task.deadline <= :now
      AND (task.deadline, task.id) > (CAST(:after AS timestamptz), :after_id)
    ORDER BY task.deadline, task.id
    LIMIT :batch_size
    FOR UPDATE OF task SKIP LOCKED
""")

APPLICATIONS = """
    SELECT id, task_id, applicant_id FROM task_applications
    WHERE task_id = ANY(:task_ids) AND status <> 'rejected'
"""

CANCEL = text("""
    WITH cancelled AS (
        UPDATE tasks SET status = 'cancelled', updated_at = :now
        WHERE id = ANY(:task_ids)
        RETURNING id, poster_id
    ), rejected AS (
        UPDATE task_applications SET status = 'rejected'
        WHERE task_id = ANY(:task_ids) AND status <> 'rejected'
    )
    INSERT INTO task_history (task_id, user_id, action, remark, created_at)
    SELECT id, poster_id, 'cancelled', 'The deadline passed', :now
    FROM cancelled
    ORDER BY id
""")


def cancel_expired_tasks(session: Session, now: datetime, *, batch_size: int) -> Batches:
    """Cancel the open tasks whose deadline has come, reject who applied, and tell them all.

    A task is left for the next run if somebody has locked it, one of its applications, or the row
    of a person who is to be told.

    Returns:
        ``cancelled``, the tasks.
    """
    place: dict[str, Any] = {"after": BEFORE_ALL_TIMES, "after_id": BEFORE_ALL_IDS}
    while True:
        found = session.execute(LOCK_OVERDUE, {"now": now, "batch_size": batch_size, **place}).all()
        cancelled = _cancel(session, now, found) if found else 0
        if len(found) < batch_size:
            return {"cancelled": cancelled}
        yield {"cancelled": cancelled}
        # Those left alone are still due: go on behind them.
        place = {"after": found[-1].deadline, "after_id": found[-1].id}


def _cancel(session: Session, now: datetime, found: Sequence[Row[Any]]) -> int:
    tasks = {row.id: row for row in found}
    applications, locked = lock_rows(session, APPLICATIONS, {"task_ids": list(tasks)})
    concerned = [(task.id, task.poster_id) for task in tasks.values()]
    concerned += [(each.task_id, each.applicant_id) for each in applications]
    reachable = lock_people(session, {user_id for _, user_id in concerned})
    busy = {each.task_id for each in locked}
    busy |= {task_id for task_id, user_id in concerned if user_id not in reachable}

    session.execute(CANCEL, {"now": now, "task_ids": list(tasks.keys() - busy)})
    notices = [
        Notice(user_id, task_id, {"title": tasks[task_id].title})
        for task_id, user_id in concerned
        if task_id not in busy
    ]
    notify(session, now, "task_cancelled", notices)
    return len(tasks) - len(busy)
