"""From the schedule to the run: each slot is sent until the broker has it, and is run by name."""

from datetime import datetime, timedelta
from typing import Any

import dramatiq
import pytest
from dramatiq.errors import ConnectionClosed
from sqlalchemy import text

from tests.probes import PATIENCE_SECONDS, Workshop
from tests.rig.waiting import eventually
from workers import periodic
from workers.broker import InProcessBroker, build_broker, rebind
from workers.database import Database
from workers.embedded import Scheduler
from workers.job import ON_DEMAND_PRIORITY, Run
from workers.periodic import Entry, Ticker, daily, every, utc_now
from workers.settings import Settings

pytest_plugins = ["tests.probe_fixtures"]

WEEKLY = every(seconds=7 * 86_400)


def work(run: Run) -> None:
    run.session.execute(text("INSERT INTO probe_effects (job, message_id) VALUES ('', '')"))


def refuse(*_: Any, **__: Any) -> None:
    raise ConnectionClosed(OSError("refused"))


def ticker_of(actor: dramatiq.Actor[Any, Any]) -> Ticker:
    ticker = actor.options["periodic"]
    assert isinstance(ticker, Ticker)
    return ticker


def waiting(workshop: Workshop) -> list[dramatiq.Message[Any]]:
    """Look at the messages on the queue, as long as no worker has been started."""
    return [dramatiq.Message.decode(each) for each in list(workshop.broker.queues["default"].queue)]


class TestTheSchedule:
    def test_is_given_to_the_actors_that_it_names(self, database: Database) -> None:
        # Given a schedule that knows better than the actor itself
        schedule = [Entry("scheduled", daily("02:00")), Entry("both", daily("03:00"))]
        broker = build_broker(Settings(), database, schedule, in_process=True)
        declare = dramatiq.actor

        scheduled = declare(broker=broker, actor_name="scheduled")(work)
        both = declare(broker=broker, actor_name="both", periodic=WEEKLY)(work)
        own = declare(broker=broker, actor_name="own", periodic=WEEKLY)(work)
        on_demand = declare(broker=broker, actor_name="on_demand")(work)

        assert ticker_of(scheduled).spec == daily("02:00")
        assert ticker_of(both).spec == daily("03:00")
        assert ticker_of(own).spec == WEEKLY
        assert "periodic" not in on_demand.options

    def test_begins_anew_with_the_broker_that_an_actor_moves_to(
        self, workshop: Workshop, database: Database
    ) -> None:
        # Given a slot that one broker was handed
        job = workshop.job(work, periodic=WEEKLY)
        now = utc_now()
        job.send_with_options(scheduled_at=now.isoformat())
        assert not ticker_of(job).validate(now)

        # Then the next one is offered it too
        rebind([job], build_broker(Settings(), database, (), in_process=True))
        assert ticker_of(job).validate(now)


class TestASend:
    def test_for_a_slot_counts_once_the_broker_has_it(
        self, workshop: Workshop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Given a broker that takes nothing
        job = workshop.job(work, periodic=WEEKLY)
        now = utc_now()
        monkeypatch.setattr(workshop.broker, "enqueue", refuse)

        # Then the scheduler does not hear of it, and the slot is still to be sent
        job.send_with_options(scheduled_at=now.isoformat())
        assert ticker_of(job).validate(now)

        # And when the broker takes it, it is not
        monkeypatch.undo()
        job.send_with_options(scheduled_at=now.isoformat())
        assert not ticker_of(job).validate(now)
        assert ticker_of(job).validate(now + timedelta(weeks=1))

    def test_on_demand_tells_whoever_demands_that_the_broker_refused(
        self, workshop: Workshop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        job = workshop.job(work, periodic=WEEKLY)
        monkeypatch.setattr(workshop.broker, "enqueue", refuse)

        with pytest.raises(ConnectionClosed):
            job.send()

    def test_on_demand_takes_nothing_from_the_schedule(self, workshop: Workshop) -> None:
        job = workshop.job(work, periodic=WEEKLY)

        job.send()

        assert ticker_of(job).validate(utc_now())

    def test_on_demand_outranks_one_for_a_slot(self, workshop: Workshop) -> None:
        job = workshop.job(work, periodic=WEEKLY)

        job.send_with_options(scheduled_at=utc_now().isoformat())
        job.send()

        priorities = [message.options.get("broker_priority") for message in waiting(workshop)]
        assert priorities == [None, ON_DEMAND_PRIORITY]


class TestARun:
    def test_for_a_slot_has_its_name_whenever_the_scheduler_woke(self, workshop: Workshop) -> None:
        job = workshop.job(work, periodic=WEEKLY)
        slot = WEEKLY.slot_at(utc_now())
        key = f"work@{slot:%Y-%m-%dT%H:%M:%SZ}"

        # When two schedulers wake at different times of one slot
        for late_seconds in (0, 7):
            workshop.send(job, slot=slot + timedelta(seconds=late_seconds))

        # Then there is one run of it
        assert workshop.wait_for_run(key).slot == slot
        workshop.join()
        assert len(workshop.runs("work")) == 1
        assert workshop.effects() == 1

    def test_on_demand_is_none_of_a_slot(self, workshop: Workshop) -> None:
        job = workshop.job(work, periodic=WEEKLY)

        run = workshop.run_to_the_end(job)

        assert run.slot is None
        assert run.run_key == run.message_id

    def test_is_skipped_for_a_slot_that_has_passed(self, workshop: Workshop) -> None:
        job = workshop.job(work, periodic=WEEKLY)
        slot = WEEKLY.slot_at(utc_now()) - timedelta(weeks=1)

        workshop.send(job, slot=slot)

        run = workshop.wait_for_run(f"work@{slot:%Y-%m-%dT%H:%M:%SZ}")
        assert (run.status, run.attempt, run.error) == ("skipped", 0, "a newer slot is due")
        assert workshop.effects() == 0


class TestTheSchedulerThread:
    def test_sends_the_current_slot_at_once_and_then_each_as_it_comes(
        self, workshop: Workshop
    ) -> None:
        workshop.job(work, periodic=WEEKLY, actor_name="weekly")
        workshop.job(work, periodic=every(seconds=1), actor_name="often")
        started = utc_now()

        slots = self.run_until(workshop, lambda slots: len(slots["often"]) >= 2)

        assert [WEEKLY.slot_at(slot) for slot in slots["weekly"]] == [WEEKLY.slot_at(started)]
        assert len(set(slots["often"])) == len(slots["often"])

    def test_offers_a_slot_again_that_the_broker_refused(
        self, workshop: Workshop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        workshop.job(work, periodic=WEEKLY, actor_name="weekly")
        monkeypatch.setattr(periodic, "OFFER_AGAIN_SECONDS", 0.05)
        refusals = 0

        def refuse_twice(self: InProcessBroker, *arguments: Any, **options: Any) -> Any:
            nonlocal refusals
            refusals += 1
            if refusals <= 2:
                refuse()
            return enqueue(self, *arguments, **options)

        enqueue = InProcessBroker.enqueue
        monkeypatch.setattr(InProcessBroker, "enqueue", refuse_twice)

        slots = self.run_until(workshop, lambda slots: bool(slots["weekly"]))

        assert len(slots["weekly"]) == 1

    def run_until(self, workshop: Workshop, is_enough: Any) -> dict[str, list[datetime]]:
        def sent() -> dict[str, list[datetime]]:
            slots: dict[str, list[datetime]] = {name: [] for name in workshop.broker.actors}
            for message in waiting(workshop):
                scheduled_at = datetime.fromisoformat(message.options["scheduled_at"])
                slots[message.actor_name].append(scheduled_at)
            return slots

        scheduler = Scheduler(workshop.broker)
        scheduler.start()
        try:
            eventually(lambda: is_enough(sent()), timeout_seconds=PATIENCE_SECONDS)
        finally:
            scheduler.stop()
        return sent()
