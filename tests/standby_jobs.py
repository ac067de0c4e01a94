"""Jobs for tests of who runs the schedule: ``periodiq workers tests.standby_jobs``.

They write into the tables of `tests.probes`, and stop at its gates. Never import this module in a
test: it declares its actors on the broker of its process.
"""

import dramatiq
import structlog
from sqlalchemy import text

from tests.rig.waiting import eventually
from workers.batches import Counts
from workers.job import Job, Run
from workers.periodic import daily, every

log = structlog.stdlib.get_logger(__name__)

GATE_SECONDS = 90

EFFECT = text("INSERT INTO probe_effects (job, message_id) VALUES (:job, :key)")
IS_OPEN = text("SELECT EXISTS (SELECT FROM probe_open_gates WHERE name = :gate)")


@dramatiq.actor(actor_class=Job, queue_name="low", periodic=every(seconds=3), retry_delay_seconds=1)
def often(run: Run) -> Counts:
    return _effect(run, "often")


@dramatiq.actor(actor_class=Job, queue_name="low", periodic=daily("00:00"), retry_delay_seconds=1)
def gated(run: Run) -> Counts:
    """Stop at a gate."""
    log.info("at the gate")
    eventually(
        lambda: run.session.scalar(IS_OPEN, {"gate": "gated"}),
        timeout_seconds=GATE_SECONDS,
        message="Nobody opened the gate",
    )
    return _effect(run, "gated")


@dramatiq.actor(actor_class=Job, queue_name="low", periodic=daily("00:00"), retry_delay_seconds=12)
def unlucky(run: Run) -> Counts:
    """Fail until a gate is open."""
    if not run.session.scalar(IS_OPEN, {"gate": "luck"}):
        raise RuntimeError("out of luck")
    return _effect(run, "unlucky")


@dramatiq.actor(actor_class=Job, retry_delay_seconds=1)
def on_demand(run: Run, key: str) -> Counts:
    """Have an effect for what it is told."""
    return _effect(run, key)


@dramatiq.actor(actor_class=Job, max_retries=20, retry_delay_seconds=2)
def try_luck(run: Run, gate: str) -> Counts:
    """Fail until a gate is open."""
    if not run.session.scalar(IS_OPEN, {"gate": gate}):
        raise RuntimeError("out of luck")
    return _effect(run, "try_luck")


@dramatiq.actor(actor_class=Job, max_retries=50, retry_delay_seconds=1)
def take_long(run: Run) -> Counts:
    """Have an effect, and take a while."""
    counts = _effect(run, "take_long")
    run.session.execute(text("SELECT pg_sleep(0.2)"))
    return counts


def _effect(run: Run, job: str) -> Counts:
    run.session.execute(EFFECT, {"job": job, "key": run.key})
    return {"effects": 1}
