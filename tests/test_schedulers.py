"""Several schedulers, some killed, their clocks wrong and set: each slot once, none left out."""

import itertools
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from tests.probes import PATIENCE_SECONDS, Service
from tests.rig.clock import WrongClock
from tests.rig.processes import Process
from tests.rig.waiting import eventually
from workers.models import JobRun
from workers.periodic import daily, every, utc_now

pytest_plugins = ["tests.probe_fixtures"]

MODULE = "tests.standby_jobs"
OFTEN_SECONDS = 3
OFTEN = every(seconds=OFTEN_SECONDS)
NIGHTLY = daily("00:00")

StartScheduler = Callable[[float], tuple[Process, WrongClock]]


@pytest.fixture
def start_scheduler(service: Service, tmp_path: Path) -> StartScheduler:
    """Given a worker, start schedulers whose clocks are off by some seconds."""
    for gate in ("gated", "luck"):
        service.open_gate(gate)
    worker = service.processes.start(
        *("dramatiq", "workers", MODULE, "--processes", "1", "--threads", "4", "--queues", "low"),
        env=service.env,
    )
    worker.wait_for_output("ready for action", timeout_seconds=PATIENCE_SECONDS)
    numbers = itertools.count(1)

    def start(seconds: float) -> tuple[Process, WrongClock]:
        clock = WrongClock(tmp_path / f"clock-{next(numbers)}", seconds=seconds)
        scheduler = service.processes.start(
            *clock.command("periodiq", "workers", MODULE), env=service.env
        )
        scheduler.wait_for_output("often", timeout_seconds=PATIENCE_SECONDS)
        return scheduler, clock

    return start


def runs_by_slot(service: Service) -> dict[datetime, JobRun]:
    runs = service.runs("often")
    by_slot = {run.slot: run for run in runs if run.slot}
    assert len(by_slot) == len(runs)
    return by_slot


def wait_for_slots(service: Service, count: int) -> None:
    """Wait until so many slots, by the right time, have come since now, and the last was run."""
    last = OFTEN.slot_at(utc_now()) + count * timedelta(seconds=OFTEN_SECONDS)

    def has_run() -> bool:
        run = runs_by_slot(service).get(last)
        return run is not None and run.status == "succeeded" and utc_now() > last

    eventually(has_run, timeout_seconds=PATIENCE_SECONDS, message=f"No run of {last}")


def assert_each_once(service: Service, first: datetime, last: datetime) -> None:
    """See that nothing is left out from one slot to another, and nothing at all done twice."""
    by_slot = runs_by_slot(service)
    slot = first
    while slot <= last:
        assert slot in by_slot, f"{slot} was left out"
        assert (by_slot[slot].status, by_slot[slot].attempt) == ("succeeded", 1)
        slot += timedelta(seconds=OFTEN_SECONDS)
    effects = service.ask("SELECT count(*) FROM probe_effects WHERE job = 'often'")
    assert effects == sum(run.status == "succeeded" for run in by_slot.values())
    assert service.ask("SELECT count(*) - count(DISTINCT message_id) FROM probe_effects") == 0


def test_two_whose_clocks_are_apart_of_which_one_is_killed(
    service: Service, start_scheduler: StartScheduler
) -> None:
    # Given one that is early, and one that is late
    early, _ = start_scheduler(1.5)
    start_scheduler(-0.5)
    wait_for_slots(service, 1)
    first = OFTEN.slot_at(utc_now())
    wait_for_slots(service, 2)

    # When one is killed, then the other goes on
    early.kill()
    wait_for_slots(service, 2)

    assert_each_once(service, first, OFTEN.slot_at(utc_now()) - timedelta(seconds=OFTEN_SECONDS))
    # And what is due once a day was run once, though both offered it
    for job in ("gated", "unlucky"):
        assert [run.status for run in service.runs(job)] == ["succeeded"]


@pytest.mark.timeout(180)
def test_two_of_which_the_clock_of_one_is_set_back_and_forth(
    service: Service, start_scheduler: StartScheduler
) -> None:
    _, clock = start_scheduler(0)
    start_scheduler(0)
    wait_for_slots(service, 1)
    first = OFTEN.slot_at(utc_now())

    for seconds in (20, 0, -20, 40, -40, 0):
        clock.be_off_by(seconds)
        wait_for_slots(service, 1)

    assert_each_once(service, first, OFTEN.slot_at(utc_now()) - timedelta(seconds=OFTEN_SECONDS))


@pytest.mark.timeout(180)
def test_one_alone_goes_on_at_once_after_its_clock_was_set(
    service: Service, start_scheduler: StartScheduler
) -> None:
    _, clock = start_scheduler(0)
    wait_for_slots(service, 1)

    for hours in (5, -5):
        # When its clock is wrong by hours, it offers slots by that clock
        clock.be_off_by(hours * 3600)
        there = utc_now() + timedelta(hours=hours)
        eventually(
            lambda there=there: any(  # type: ignore[misc]
                abs(slot - there) < timedelta(minutes=5) for slot in runs_by_slot(service)
            ),
            timeout_seconds=PATIENCE_SECONDS,
            message=f"No slot of {there}",
        )

        # And when it is right again, those that fall due
        clock.be_off_by(0)
        wait_for_slots(service, 2)

    last = OFTEN.slot_at(utc_now()) - timedelta(seconds=OFTEN_SECONDS)
    assert_each_once(service, last, last)


def test_what_fell_due_at_night_while_none_was_there_is_run_once_by_the_next(
    service: Service, start_scheduler: StartScheduler
) -> None:
    # Given one that was killed half a minute before a nightly job was due
    midnight = NIGHTLY.slot_at(utc_now())
    scheduler, _ = start_scheduler((midnight - utc_now()).total_seconds() - 30)
    eventually(lambda: service.runs("unlucky"), timeout_seconds=PATIENCE_SECONDS)
    scheduler.kill()
    key = f"unlucky@{midnight:%Y-%m-%dT%H:%M:%SZ}"
    assert [run.run_key == key for run in service.runs("unlucky")] == [False]

    # When the next ones start hours later
    schedulers = [start_scheduler(0)[0] for _ in range(2)]

    # Then they have it run, once
    assert service.wait_for_run(key).status == "succeeded"
    for each in schedulers:
        each.wait_for_output("Scheduling Actor(unlucky)", timeout_seconds=PATIENCE_SECONDS)
    assert service.ask("SELECT count(*) FROM probe_effects WHERE message_id = :key", key=key) == 1
