"""Jobs that do one thing each, for tests of real processes: ``dramatiq workers tests.probe_jobs``.

What they write into are the tables of `tests.probes`. Never import this module in a test: it
declares its actors on the broker of its process.
"""

import os
import signal
import time
from typing import Any

import dramatiq
import structlog
from dramatiq.middleware import CurrentMessage
from sqlalchemy import text

from tests.rig.waiting import eventually
from workers.batches import Batches, Counts
from workers.job import Job, Run
from workers.periodic import daily, every

log = structlog.stdlib.get_logger(__name__)

GATE_SECONDS = 90
BATCH_ROWS = 2

eaten: list[bytes] = []


@dramatiq.actor(actor_class=Job, retry_delay_seconds=1)
def probe_effect(run: Run) -> Counts:
    return _effect(run)


@dramatiq.actor(actor_class=Job, max_retries=1, retry_delay_seconds=1)
def probe_last_statement_fails(run: Run) -> Counts:
    counts = _effect(run)
    run.session.execute(text("SELECT 1 / 0"))
    return counts


@dramatiq.actor(actor_class=Job, max_retries=1, retry_delay_seconds=1)
def probe_commit_fails(run: Run) -> Counts:
    counts = _effect(run)
    # The constraint is deferred: nothing is wrong until COMMIT.
    run.session.execute(text("INSERT INTO probe_orphans (parent_id) VALUES (-1)"))
    return counts


@dramatiq.actor(actor_class=Job, retry_delay_seconds=1)
def probe_gated(run: Run, gate: str) -> Counts:
    """Have an effect, stop at a gate, and have another once a test opens it."""
    _effect(run)
    _wait_at(run, gate)
    _effect(run)
    return {"effects": 2}


@dramatiq.actor(actor_class=Job, retry_delay_seconds=1)
def probe_gated_too(run: Run, gate: str) -> Counts:
    """Do the same beside `probe_gated`: runs of one job never overlap."""
    _effect(run)
    _wait_at(run, gate)
    _effect(run)
    return {"effects": 2}


@dramatiq.actor(actor_class=Job, retry_delay_seconds=1)
def probe_deaf_in_python(run: Run) -> Counts:
    """Work on in small steps, and not stop at the first word."""
    counts = _effect(run)
    log.info("working")
    if _is_open(run, "deaf"):
        return counts
    try:
        _sleep_in_small_steps()
    except BaseException:  # noqa: BLE001 - there are such jobs
        log.info("did not listen")
    _sleep_in_small_steps()
    return counts


@dramatiq.actor(actor_class=Job, retry_delay_seconds=1, max_retries=1)
def probe_deaf_in_sql(run: Run) -> Counts:
    """Wait for PostgreSQL."""
    counts = _effect(run)
    log.info("working")
    if not _is_open(run, "deaf"):
        run.session.execute(text("SELECT pg_sleep(:seconds)"), {"seconds": GATE_SECONDS})
    return counts


@dramatiq.actor(actor_class=Job, retry_delay_seconds=1, max_retries=1)
def probe_deaf_in_c(run: Run) -> Counts:
    """Sit in one call of C, which nothing but the end of its process ends."""
    counts = _effect(run)
    log.info("working")
    if not _is_open(run, "deaf"):
        time.sleep(GATE_SECONDS)
    return counts


@dramatiq.actor(actor_class=Job, retry_delay_seconds=1, max_retries=0, soft_time_limit_seconds=0.5)
def probe_beyond_its_soft_limit(run: Run) -> Counts:
    counts = _effect(run)
    timeout = run.session.scalar(text("SHOW statement_timeout"))
    log.info("working", statement_timeout=timeout)
    run.session.execute(text("SELECT pg_sleep(:seconds)"), {"seconds": GATE_SECONDS})
    return counts


@dramatiq.actor(
    actor_class=Job,
    retry_delay_seconds=1,
    max_retries=1,
    soft_time_limit_seconds=1,
    hard_time_limit_seconds=2,
)
def probe_beyond_its_hard_limit(run: Run) -> Counts:
    counts = _effect(run)
    log.info("working")
    time.sleep(GATE_SECONDS)
    return counts


@dramatiq.actor(actor_class=Job, retry_delay_seconds=1)
def probe_eats_memory(run: Run, megabytes: int) -> Counts:
    eaten.append(b"." * (megabytes * 1024 * 1024))
    return _effect(run)


@dramatiq.actor(actor_class=Job, retry_delay_seconds=1)
def probe_batches(run: Run, gated_row: int) -> Batches:
    """Do the rows of `probe_rows` in batches; stop at a gate before the batch with `gated_row`."""
    while True:
        row_ids = list(
            run.session.scalars(
                text("SELECT id FROM probe_rows WHERE times = 0 ORDER BY id LIMIT :limit"),
                {"limit": BATCH_ROWS},
            )
        )
        if not row_ids:
            return None
        run.session.execute(
            text("UPDATE probe_rows SET times = times + 1 WHERE id = ANY(:ids)"), {"ids": row_ids}
        )
        if gated_row in row_ids:
            _wait_at(run, "batches")
        yield {"rows": len(row_ids)}


@dramatiq.actor(actor_class=Job, retry_delay_seconds=1)
def probe_long_commit(run: Run) -> Counts:
    """Leave PostgreSQL at a gate in the middle of COMMIT."""
    counts = _effect(run)
    run.session.execute(text("INSERT INTO probe_long_commits VALUES ('commit')"))
    log.info("about to commit")
    return counts


@dramatiq.actor(actor_class=Job, retry_delay_seconds=1)
def probe_killed_before_its_acknowledgement(run: Run) -> Counts:
    return _effect(run)


class KillBeforeAcknowledgement(dramatiq.Middleware):
    """Kills the worker when a run's effects are committed, and its message not yet acknowledged."""

    def before_ack(self, broker: dramatiq.Broker, message: Any) -> None:  # noqa: ARG002 - its form
        if message.actor_name == probe_killed_before_its_acknowledgement.actor_name:
            log.info("killed before the acknowledgement")
            if not message.redelivered:
                os.kill(os.getpid(), signal.SIGKILL)


dramatiq.get_broker().add_middleware(KillBeforeAcknowledgement())


@dramatiq.actor(actor_class=Job, retry_delay_seconds=1)
def probe_waits_for_a_lock(run: Run) -> Counts:
    """Wait, without end, for a table that somebody else has locked."""
    counts = _effect(run)
    run.session.execute(text("SET LOCAL lock_timeout = 0"))
    log.info("working")
    run.session.execute(text("LOCK TABLE probe_rows"))
    return counts


@dramatiq.actor(actor_class=Job, max_retries=1, retry_delay_seconds=1)
def probe_kills_its_worker(run: Run) -> Counts:
    _effect(run)
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


@dramatiq.actor(actor_class=Job, queue_name="low", periodic=every(seconds=1), retry_delay_seconds=1)
def probe_every_second(run: Run) -> Counts:
    return _effect(run)


@dramatiq.actor(
    actor_class=Job, queue_name="low", periodic=daily("02:00"), max_retries=1, retry_delay_seconds=2
)
def probe_nightly(run: Run, *, fails: bool = False) -> Counts:
    counts = _effect(run)
    if fails:
        raise RuntimeError("it was a bad night")
    return counts


def _effect(run: Run) -> Counts:
    message = CurrentMessage.get_current_message()
    assert message is not None
    run.session.execute(
        text("INSERT INTO probe_effects (job, message_id) VALUES (:job, :message_id)"),
        {"job": message.actor_name, "message_id": message.message_id},
    )
    return {"effects": 1}


def _wait_at(run: Run, gate: str) -> None:
    log.info("at the gate", gate=gate)
    # Each statement sees what was committed before it. PostgreSQL never waits here, so that the
    # connection of a killed worker ends at once.
    eventually(
        lambda: _is_open(run, gate),
        timeout_seconds=GATE_SECONDS,
        message=f"Nobody opened the gate {gate!r}",
    )


def _sleep_in_small_steps() -> None:
    for _ in range(GATE_SECONDS * 100):
        time.sleep(0.01)


def _is_open(run: Run, gate: str) -> bool:
    return bool(
        run.session.scalar(
            text("SELECT count(*) FROM probe_open_gates WHERE name = :name"), {"name": gate}
        )
    )
