"""Activities: one that is over is completed, and what was not yet begun of it is cancelled."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

from workers.batches import Batches, Counts
from workers.marketplace.locks import BEFORE_ALL_IDS, lock_people, lock_rows
from workers.marketplace.notices import Notice, notify

SLOTS_PER_ACTIVITY = 10
"""How many links to slots a batch may read for each activity it looks at, on average."""

# Whether an activity is over depends on time, dates, links and slots, and so on no index alone:
# all open ones are looked at, a batch at a time, but no more of them than have slots that can be
# read in one batch. OFFSET 0 has the planner read them activity by activity, and stop at the limit.
NEXT_OPEN = text("""
    SELECT DISTINCT id
    FROM (
        SELECT activity.id
        FROM (
            SELECT id FROM activities
            WHERE status = 'open' AND id > :after
            ORDER BY id
            LIMIT :batch_size
        ) AS activity
        CROSS JOIN LATERAL (
            SELECT 1
            UNION ALL
            SELECT 1 FROM activity_time_slots AS link WHERE link.activity_id = activity.id
            OFFSET 0
        ) AS slot
        ORDER BY activity.id
        LIMIT :slots
    ) AS slot
    ORDER BY id
""")

# A service without a number offers no slots.
OVER = """
    SELECT activity.id, over.reason
    FROM activities AS activity
    LEFT JOIN (
        SELECT link.activity_id, max(slot.ends_at) AS last_ends_at
        FROM activity_time_slots AS link
        JOIN service_time_slots AS slot ON slot.id = link.time_slot_id
        WHERE link.activity_id = ANY(:activity_ids) AND NOT slot.is_deleted
        GROUP BY link.activity_id
    ) AS slots ON slots.activity_id = activity.id
    CROSS JOIN LATERAL (
        SELECT CASE
            WHEN activity.end_date < :today THEN 'its last day is over'
            WHEN slots.last_ends_at < :now AND NOT (
                activity.auto_add_new_slots AND EXISTS (
                    SELECT FROM service_time_slots AS slot
                    WHERE slot.service_id = activity.service_id AND NOT slot.is_deleted
                      AND slot.starts_at BETWEEN :now AND :now + interval '30 days'
                )
            ) THEN 'its last time slot has ended'
            WHEN NOT activity.has_time_slots AND activity.deadline < :now
            THEN 'its deadline has passed'
        END AS reason
    ) AS over
    WHERE activity.id = ANY(:activity_ids) AND activity.status = 'open'
      AND over.reason IS NOT NULL
"""
FIND_OVER = text(f"{OVER} ORDER BY activity.id")
LOCK_OVER = text(f"{OVER} FOR UPDATE OF activity SKIP LOCKED")

# As many of the activities, from the first on, as have tasks that can be cancelled in one batch;
# but an activity is never divided.
FITTING = text("""
    SELECT id
    FROM (
        SELECT activity.id, activity.place
        FROM unnest(CAST(:activity_ids AS bigint[])) WITH ORDINALITY AS activity (id, place)
        CROSS JOIN LATERAL (
            SELECT 1
            UNION ALL
            SELECT 1 FROM tasks
            WHERE tasks.activity_id = activity.id AND tasks.status IN ('open', 'taken')
            OFFSET 0
        ) AS task
        ORDER BY activity.place
        LIMIT :batch_size
    ) AS task
    GROUP BY id, place
    ORDER BY place
""")

TASKS = """
    SELECT id, activity_id, title, poster_id, taker_id FROM tasks
    WHERE activity_id = ANY(:activity_ids) AND status IN ('open', 'taken')
"""

COMPLETE = text("""
    WITH activity AS (
        SELECT id, reason
        FROM unnest(CAST(:activity_ids AS bigint[]), CAST(:reasons AS text[]))
             AS over (id, reason)
    ), task AS (
        SELECT id, status, activity_id
        FROM tasks
        WHERE activity_id = ANY(:activity_ids) AND status IN ('open', 'taken')
    ), completed AS (
        UPDATE activities SET status = 'completed', updated_at = :now
        WHERE id = ANY(:activity_ids)
    ), cancelled AS (
        UPDATE tasks SET status = 'cancelled', updated_at = :now
        WHERE id IN (SELECT id FROM task)
    )
    INSERT INTO audit_log
        (entity, entity_id, action, old_status, new_status, detail, created_at)
    SELECT 'activity', id, 'activity_completed', 'open', 'completed', reason, :now
    FROM activity
    UNION ALL
    SELECT 'task', task.id, 'task_cancelled', task.status, 'cancelled',
           format('activity %s was completed: %s', activity.id, activity.reason), :now
    FROM task
    JOIN activity ON activity.id = task.activity_id
""")


def end_activities(session: Session, now: datetime, *, batch_size: int) -> Batches:
    """Complete the open activities that are over, and cancel their tasks that are not under way.

    An activity is left for the next run if somebody has locked it, one of these tasks, or the row
    of a person who is to be told.

    Returns:
        ``activities`` that were completed; ``tasks`` that were cancelled.
    """
    moment = {"now": now, "today": now.astimezone(UTC).date()}
    batch = {"batch_size": batch_size, "slots": batch_size * SLOTS_PER_ACTIVITY}
    after = BEFORE_ALL_IDS
    while looked_at := session.scalars(NEXT_OPEN, {"after": after, **batch}).all():
        over = session.scalars(FIND_OVER, {"activity_ids": list(looked_at), **moment}).all()
        while over:
            fitting = session.scalars(FITTING, {"activity_ids": list(over), **batch}).all()
            yield _complete(session, fitting, moment)
            over = over[len(fitting) :]
        yield {"activities": 0, "tasks": 0}
        after = looked_at[-1]
    return {"activities": 0, "tasks": 0}


def _complete(session: Session, activity_ids: Sequence[int], moment: Mapping[str, Any]) -> Counts:
    over = session.execute(LOCK_OVER, {"activity_ids": list(activity_ids), **moment}).all()
    reasons = {activity.id: activity.reason for activity in over}
    tasks, locked = lock_rows(session, TASKS, {"activity_ids": list(reasons)})
    concerned = [(task, task.poster_id) for task in tasks]
    concerned += [(task, task.taker_id) for task in tasks if task.taker_id is not None]
    reachable = lock_people(session, {user_id for _, user_id in concerned})
    busy = {task.activity_id for task in locked}
    busy |= {task.activity_id for task, user_id in concerned if user_id not in reachable}

    free = list(reasons.keys() - busy)
    free_reasons = [reasons[activity_id] for activity_id in free]
    session.execute(COMPLETE, {"activity_ids": free, "reasons": free_reasons, **moment})
    notices = [
        Notice(user_id, task.id, {"title": task.title})
        for task, user_id in concerned
        if task.activity_id not in busy
    ]
    notify(session, moment["now"], "task_cancelled", notices)
    cancelled = [task for task in tasks if task.activity_id not in busy]
    return {"activities": len(free), "tasks": len(cancelled)}
