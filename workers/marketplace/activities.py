"""Activities: one that is over is completed, and what was not yet begun of it is cancelled."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.orm import Session

from workers.batches import Batches, Counts
from workers.marketplace.batching import (
    BATCHES_AHEAD,
    BEFORE_ALL_IDS,
    Ids,
    join_by_hash,
    look_up_by_index,
)
from workers.marketplace.notices import insert_notices, notice_texts

SLOTS_PER_ACTIVITY = 10
"""How many links to slots may be read for each activity that is looked at, on average."""

# Whether an activity is over depends on time, dates, links and slots, and so on no index alone:
# all open ones are looked at, some batches ahead, but no more of them than have slots that can be
# read at once. OFFSET 0 has the planner read them activity by activity, and stop at the limit.
NEXT_OPEN = text("""
    WITH slot AS (
        SELECT activity.id
        FROM (
            SELECT id FROM activities
            WHERE status = 'open' AND id > :after
            ORDER BY id
            LIMIT :activities
        ) AS activity
        CROSS JOIN LATERAL (
            SELECT 1
            UNION ALL
            SELECT 1 FROM activity_time_slots AS link WHERE link.activity_id = activity.id
            OFFSET 0
        ) AS slot
        ORDER BY activity.id
        LIMIT :activities * :slots_per_activity
    ), activity AS (
        SELECT DISTINCT id FROM slot
    )
    SELECT CAST(array_agg(id) AS text) AS ids, max(id) AS last_id FROM activity
""")

# A service without a number offers no slots. OFFSET 0 has the planner look for upcoming slots of
# the few services for which it matters, instead of reading those of all.
OVER = """
    SELECT activity.id, over.reason
    FROM activities AS activity
    LEFT JOIN (
        SELECT link.activity_id, max(slot.ends_at) AS last_ends_at
        FROM activity_time_slots AS link
        JOIN service_time_slots AS slot ON slot.id = link.time_slot_id
        WHERE link.activity_id = ANY(CAST(:activity_ids AS bigint[])) AND NOT slot.is_deleted
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
                    OFFSET 0
                )
            ) THEN 'its last time slot has ended'
            WHEN NOT activity.has_time_slots AND activity.deadline < :now
            THEN 'its deadline has passed'
        END AS reason
    ) AS over
    WHERE activity.id = ANY(CAST(:activity_ids AS bigint[])) AND activity.status = 'open'
      AND over.reason IS NOT NULL
"""

# In batches: an activity weighs as much as it has tasks to cancel, at least one, and so a batch
# holds at most as many of those too; but an activity is never divided.
FIND = """
    WITH over AS MATERIALIZED ({over}), stopping AS (
        SELECT activity_id AS id, count(*) AS tasks FROM tasks
        WHERE activity_id = ANY(ARRAY(SELECT id FROM over)) AND status IN ('open', 'taken')
        GROUP BY activity_id
    ), weighed AS (
        SELECT id, coalesce(tasks, 1) AS weight FROM over LEFT JOIN stopping USING (id)
    ), placed AS (
        SELECT id, div(sum(weight) OVER (ORDER BY id) - weight, :batch_size) AS batch
        FROM weighed
    )
    SELECT CAST(array_agg(id) AS text) FROM placed GROUP BY batch ORDER BY batch
"""
FIND_OVER = text(FIND.format(over=OVER))

# In a statement of its own, since the next must see which slots and tasks there are until now. From
# now on there are no new ones: FOR UPDATE keeps them out, since they need the activity's row too.
LOCK_ACTIVITIES = text("""
    SELECT CAST(ARRAY(SELECT id FROM activities
                      WHERE id = ANY(CAST(:activity_ids AS bigint[])) AND status = 'open'
                      FOR UPDATE SKIP LOCKED) AS text)
""")
JUDGE = """
    SELECT CAST(coalesce(array_agg(id), '{{}}') AS text) AS activity_ids,
           CAST(coalesce(array_agg(reason), '{{}}') AS text) AS reasons
    FROM ({over}) AS over
"""
JUDGE_LOCKED = text(JUDGE.format(over=OVER))

TELL = insert_notices(
    "task_cancelled",
    """
        SELECT concerned.user_id, concerned.task_id AS related_id, concerned.title, person.language
        FROM concerned
        JOIN free ON free.id = concerned.activity_id
        JOIN person ON person.id = concerned.user_id
    """,
    title="title",
)

# A task, or a person who is to be told, that cannot be locked has somebody busy with it, and so the
# activity. The same goes for a task that is not as it was read: somebody has changed it since this
# statement began.
COMPLETE = """
    WITH activity AS MATERIALIZED (
        SELECT id, reason
        FROM unnest(CAST(:activity_ids AS bigint[]), CAST(:reasons AS text[]))
             AS activity (id, reason)
    ), task AS MATERIALIZED (
        SELECT id, activity_id, title, poster_id, taker_id, status, ctid AS version FROM tasks
        WHERE activity_id = ANY(CAST(:activity_ids AS bigint[])) AND status IN ('open', 'taken')
    ), locked AS MATERIALIZED (
        SELECT id, ctid AS version FROM tasks
        WHERE id = ANY(ARRAY(SELECT id FROM task))
        FOR UPDATE SKIP LOCKED
    ), concerned AS MATERIALIZED (
        SELECT id AS task_id, activity_id, title, poster_id AS user_id FROM task
        UNION ALL
        SELECT id, activity_id, title, taker_id FROM task WHERE taker_id IS NOT NULL
    ), person AS MATERIALIZED (
        SELECT id, language FROM users
        WHERE id = ANY(ARRAY(SELECT user_id FROM concerned))
        FOR KEY SHARE SKIP LOCKED
    ), busy AS (
        SELECT activity_id
        FROM task LEFT JOIN locked USING (id, version)
        WHERE locked.id IS NULL
        UNION
        SELECT activity_id
        FROM concerned LEFT JOIN person ON person.id = user_id
        WHERE person.id IS NULL
    ), free AS MATERIALIZED (
        SELECT id FROM activity
        EXCEPT
        SELECT activity_id FROM busy
    ), stopped AS MATERIALIZED (
        SELECT task.id, task.activity_id, task.status
        FROM task JOIN free ON free.id = task.activity_id
    ), completed AS (
        UPDATE activities SET status = 'completed', updated_at = :now
        WHERE id = ANY(ARRAY(SELECT id FROM free))
    ), cancelled AS (
        UPDATE tasks SET status = 'cancelled', updated_at = :now
        WHERE id = ANY(ARRAY(SELECT id FROM stopped))
    ), audited AS (
        INSERT INTO audit_log
            (entity, entity_id, action, old_status, new_status, detail, created_at)
        SELECT 'activity', id, 'activity_completed', 'open', 'completed', reason, :now
        FROM activity JOIN free USING (id)
        UNION ALL
        SELECT 'task', stopped.id, 'task_cancelled', stopped.status, 'cancelled',
               format('activity %s was completed: %s', activity.id, activity.reason), :now
        FROM stopped JOIN activity ON activity.id = stopped.activity_id
    ), told AS ({tell})
    SELECT (SELECT count(*) FROM free) AS activities, (SELECT count(*) FROM stopped) AS tasks
"""
COMPLETE_AND_TELL = text(COMPLETE.format(tell=TELL))


def end_activities(session: Session, now: datetime, *, batch_size: int) -> Batches:
    """Complete the open activities that are over, and cancel their tasks that are not under way.

    An activity is left for the next run if somebody has locked it, one of these tasks, or the row
    of a person who is to be told.

    Returns:
        ``activities`` that were completed; ``tasks`` that were cancelled.
    """
    moment = {"now": now, "today": now.astimezone(UTC).date()}
    ahead = {
        "activities": batch_size * BATCHES_AHEAD,
        "slots_per_activity": SLOTS_PER_ACTIVITY,
    }
    after = BEFORE_ALL_IDS
    while (open_ := _next_open(session, {"after": after, **ahead})).ids:
        looked_at = {"activity_ids": open_.ids, "batch_size": batch_size, **moment}
        batches = session.scalars(FIND_OVER, looked_at).all()
        # In a transaction of its own: the first of them are not locked for as long as it takes.
        yield {"activities": 0, "tasks": 0}
        for activity_ids in batches:
            yield _complete(session, activity_ids, moment)
        after = open_.last_id
    return {"activities": 0, "tasks": 0}


def _next_open(session: Session, place: Mapping[str, Any]) -> Row[Any]:
    look_up_by_index(session)
    return session.execute(NEXT_OPEN, place).one()


def _complete(session: Session, activity_ids: Ids, moment: Mapping[str, Any]) -> Counts:
    locked = {"activity_ids": session.scalar(LOCK_ACTIVITIES, {"activity_ids": activity_ids})}
    over = session.execute(JUDGE_LOCKED, {**locked, **moment}).one()
    join_by_hash(session)
    texts = notice_texts("task_cancelled")
    activities = {"activity_ids": over.activity_ids, "reasons": over.reasons}
    done = session.execute(COMPLETE_AND_TELL, {**activities, **moment, **texts}).one()
    return {"activities": done.activities, "tasks": done.tasks}
