"""Trap 4: periodiq's middleware skips any message that is older than 30 seconds, for good.

Every retry is: it would be acknowledged, never run, and never be a dead letter. So the option
``periodic`` is declared by middleware of ours, and the claim alone decides about old slots.
"""

from datetime import timedelta

import dramatiq
from dramatiq.brokers.stub import StubBroker
from periodiq import PeriodiqMiddleware, cron

from tests.probes import Workshop
from workers.job import Run
from workers.middleware.slots import Slots
from workers.periodic import every, utc_now

pytest_plugins = ["tests.probe_fixtures"]

HOUR_SECONDS = 3600


def test_the_trap_is_there() -> None:
    broker = StubBroker()
    broker.add_middleware(PeriodiqMiddleware())
    calls: list[str] = []
    declare = dramatiq.actor(broker=broker, periodic=cron("* * * * *"))
    job = declare(lambda: calls.append("called"))

    job.send_with_options(scheduled_at=str(utc_now() - timedelta(seconds=31)))
    worker = dramatiq.Worker(broker, worker_threads=1, worker_timeout=10)
    worker.start()
    broker.join("default")
    worker.stop()

    assert calls == []
    assert broker.dead_letters == []


def test_a_retry_runs_however_old_its_slot_is(workshop: Workshop) -> None:
    # Given a run that failed some hours ago, and is to be tried again
    calls = []

    def job(run: Run) -> None:
        calls.append(run)

    spec = every(seconds=HOUR_SECONDS)
    actor = workshop.job(job, periodic=spec)
    slot = spec.slot_at(utc_now() - timedelta(seconds=5 * HOUR_SECONDS))
    workshop.do(
        """
        INSERT INTO job_runs (run_key, job, slot, message_id, queue, status, attempt, finished_at)
        VALUES (:key, 'job', :slot, 'm-1', 'default', 'retrying', 1, :slot)
        """,
        key=(key := f"job@{slot:%Y-%m-%dT%H:%M:%SZ}"),
        slot=slot,
    )

    # When its message arrives
    workshop.send_again(actor, "m-1", slot=slot)

    # Then it runs
    run = workshop.wait_for_run(key)
    assert (run.status, run.attempt, len(calls)) == ("succeeded", 2, 1)


def test_the_middleware_of_periodiq_is_not_in_use(workshop: Workshop) -> None:
    kinds = [type(middleware) for middleware in workshop.broker.middleware]

    assert Slots in kinds
    assert PeriodiqMiddleware not in kinds
