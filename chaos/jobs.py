"""Jobs whose effects can be counted: ``dramatiq workers chaos.jobs``.

What they write has no unique key that would hide a second effect: the audit counts.
"""

import random

import dramatiq
from sqlalchemy import text

from chaos.account import BATCHES_SECONDS, ITEMS, TICK_SECONDS
from workers.batches import Batches, Counts
from workers.job import Job, Run
from workers.periodic import every

TABLES = """
    CREATE TABLE chaos_effects (
        id bigint GENERATED ALWAYS AS IDENTITY,
        job text NOT NULL,
        key text NOT NULL
    );
    CREATE INDEX ON chaos_effects (job, key)
"""

EFFECT = text("INSERT INTO chaos_effects (job, key) VALUES (:job, :key)")
NEXT_ITEMS = text("""
    INSERT INTO chaos_effects (job, key)
    SELECT 'chaos_batches', :key || ' ' || item
    FROM generate_series(1, :items) AS item
    WHERE NOT EXISTS (
        SELECT FROM chaos_effects WHERE job = 'chaos_batches' AND key = :key || ' ' || item
    )
    ORDER BY item LIMIT 5
    RETURNING id
""")
LINGER = text("SELECT pg_sleep(:seconds)")
FAILURE_SHARE = 0.1


class Unlucky(Exception):  # noqa: N818 - it is nobody's error
    """What a job raises now and then, as jobs do."""


def _linger(run: Run) -> None:
    # Long enough to be killed before, within and after the statement that has the effect.
    run.session.execute(LINGER, {"seconds": random.uniform(0, 0.3)})


def _perhaps_fail() -> None:
    if random.random() < FAILURE_SHARE:
        raise Unlucky


@dramatiq.actor(
    actor_class=Job, max_retries=50, retry_delay_seconds=1, periodic=every(seconds=TICK_SECONDS)
)
def chaos_tick(run: Run) -> Counts:
    """Have one effect for each slot."""
    _linger(run)
    run.session.execute(EFFECT, {"job": "chaos_tick", "key": run.key})
    _perhaps_fail()
    _linger(run)
    return {"effects": 1}


@dramatiq.actor(actor_class=Job, queue_name="low", max_retries=50, retry_delay_seconds=1)
def chaos_order(run: Run, key: str) -> Counts:
    """Have one effect for each order of the chaos."""
    run.session.execute(EFFECT, {"job": "chaos_order", "key": key})
    _perhaps_fail()
    return {"effects": 1}


@dramatiq.actor(
    actor_class=Job, max_retries=50, retry_delay_seconds=1, periodic=every(seconds=BATCHES_SECONDS)
)
def chaos_batches(run: Run) -> Batches:
    """Have one effect for each item of each slot, in batches; an attempt goes on where one died."""
    while items := run.session.scalars(NEXT_ITEMS, {"key": run.key, "items": ITEMS}).all():
        _linger(run)
        _perhaps_fail()
        yield {"items": len(items)}
    return {"items": 0}
