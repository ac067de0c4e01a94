"""A run that failed is tried again on its job's own delay, then kept; nothing is dropped."""

from typing import Any, cast

import dramatiq
import pytest
from dramatiq.broker import MessageProxy
from sqlalchemy import text

from tests.probes import Workshop
from workers import runs
from workers.job import ON_DEMAND_PRIORITY, Job, Run
from workers.middleware.retries import Retries
from workers.middleware.transaction import Postponed
from workers.periodic import Ticker, every, utc_now
from workers.runs import POSTPONE_SECONDS

pytest_plugins = ["tests.probe_fixtures"]


def fail(_run: Run) -> None:
    raise LookupError("not found")


def succeed(run: Run) -> None:
    run.session.execute(text("INSERT INTO probe_effects (job, message_id) VALUES ('', '')"))


class Failing:
    """A job that fails a number of times, and then succeeds."""

    def __init__(self, times: int) -> None:
        self.times = times
        self.calls = 0

    def __call__(self, run: Run) -> None:
        self.calls += 1
        if self.calls <= self.times:
            raise LookupError(f"not found, time {self.calls}")
        succeed(run)


class TestARunThatFailed:
    def test_is_tried_again_until_it_succeeds(self, workshop: Workshop) -> None:
        job = workshop.job(Failing(times=2), actor_name="job")

        run = workshop.run_to_the_end(job)

        assert (run.status, run.attempt, run.error) == ("succeeded", 3, None)
        assert workshop.effects() == 1
        assert workshop.dead_letters() == []

    def test_tells_while_it_waits_what_went_wrong(self, workshop: Workshop) -> None:
        key = workshop.send(workshop.job(fail, retry_delay_seconds=60))

        run = workshop.wait_for_run(key, "retrying")

        assert (run.attempt, run.message_id) == (1, key)
        assert run.finished_at
        assert run.error
        assert run.error.startswith("LookupError: not found\n\nTraceback (most recent call last)")

    def test_is_a_dead_letter_when_its_attempts_are_used_up(self, workshop: Workshop) -> None:
        failing = Failing(times=99)

        run = workshop.run_to_the_end(workshop.job(failing, actor_name="job", max_retries=2))
        workshop.join()

        assert (run.status, run.attempt, failing.calls) == ("dead", 3, 3)
        assert run.error
        assert "time 3" in run.error
        assert workshop.dead_letters() == [run.message_id]

    def test_has_three_retries_a_minute_apart_unless_its_job_says_otherwise(
        self, workshop: Workshop
    ) -> None:
        declare = dramatiq.actor(actor_class=Job, broker=workshop.broker)
        job = cast("Job", declare(fail))
        key = workshop.send(job)

        assert 54 <= workshop.wait_until_sent_again(key).delay_seconds <= 66
        workshop.do("UPDATE job_runs SET attempt = 3")
        workshop.send_again(job, key)
        assert workshop.wait_for_run(key, "dead").attempt == 4

    def test_waits_for_the_delay_of_its_job_a_little_more_or_less(self, workshop: Workshop) -> None:
        # Given many jobs that fail together
        delays = set()
        for number in range(20):
            job = workshop.job(fail, actor_name=f"job-{number}", retry_delay_seconds=100)
            delays.add(workshop.wait_until_sent_again(workshop.send(job)).delay_seconds)

        # Then they do not come back together, yet when it was said
        assert all(90 <= delay <= 110 for delay in delays)
        assert len(delays) > 10

    def test_waits_as_long_each_time(self, workshop: Workshop) -> None:
        job = workshop.job(fail, max_retries=4, retry_delay_seconds=0.1)

        workshop.run_to_the_end(job)

        delays = [sent.delay_seconds for sent in workshop.sent_again]
        assert len(delays) == 4
        assert all(0.09 <= delay <= 0.11 for delay in delays)

    def test_stays_ahead_of_scheduled_ones_if_somebody_asked_for_it(
        self, workshop: Workshop
    ) -> None:
        key = workshop.send(workshop.job(fail, retry_delay_seconds=60))

        sent = workshop.wait_until_sent_again(key)

        assert sent.options["broker_priority"] == ON_DEMAND_PRIORITY


class TestTheOtherMessagesOfAFailedSlot:
    """Every scheduler sends one for each slot, and a scheduler that starts sends another."""

    SPEC = every(seconds=7 * 86_400)

    @pytest.fixture
    def job(self, workshop: Workshop) -> Job:
        return workshop.job(
            Failing(times=1), actor_name="job", periodic=self.SPEC, retry_delay_seconds=60
        )

    def test_do_not_run_it_before_the_delay_is_over(self, workshop: Workshop, job: Job) -> None:
        # Given a slot that failed and is to be tried again
        slot = self.SPEC.slot_at(utc_now())
        first = workshop.send(job, slot=slot)
        workshop.wait_until_sent_again(first)

        # When another message of the slot arrives
        other = workshop.send(job, slot=slot)

        # Then it is put off until the retry must have happened
        assert workshop.wait_until_sent_again(other).delay_seconds > 66
        run = workshop.run(f"job@{slot:%Y-%m-%dT%H:%M:%SZ}")
        assert (run.status, run.attempt, run.message_id) == ("retrying", 1, first)

        # And finds then that there is nothing left to do
        workshop.send_again(job, first, slot=slot)
        assert workshop.wait_for_run(run.run_key).attempt == 2
        workshop.send_again(job, other, slot=slot)
        workshop.join()
        assert workshop.effects() == 1

    def test_take_it_over_if_the_retry_was_lost(self, workshop: Workshop, job: Job) -> None:
        slot = self.SPEC.slot_at(utc_now())
        workshop.wait_until_sent_again(workshop.send(job, slot=slot))
        workshop.do("UPDATE job_runs SET finished_at = finished_at - interval '121 seconds'")

        other = workshop.send(job, slot=slot)

        run = workshop.wait_for_run(f"job@{slot:%Y-%m-%dT%H:%M:%SZ}")
        assert (run.status, run.attempt, run.message_id) == ("succeeded", 2, other)

    def test_are_not_dead_letters_beside_its_own(self, workshop: Workshop) -> None:
        # Given a slot that is dead, and its dead letter
        job = workshop.job(fail, periodic=self.SPEC, max_retries=0)
        slot = self.SPEC.slot_at(utc_now())
        first = workshop.send(job, slot=slot)
        workshop.wait_for_run(f"fail@{slot:%Y-%m-%dT%H:%M:%SZ}", "dead")
        workshop.join()

        # Then another message of the slot is not kept too, but its own is
        workshop.send(job, slot=slot)
        workshop.join()
        assert workshop.dead_letters() == [first]
        workshop.send_again(job, first, slot=slot)
        workshop.join()
        assert workshop.dead_letters() == [first, first]
        assert workshop.ask("SELECT attempt FROM job_runs") == 1


class TestARetryThatCannotBePublished:
    @pytest.fixture
    def key(self, workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> str:
        """Given a run whose failure is recorded, and a broker that takes nothing any more."""

        def fail_and_break_the_broker(_run: Run) -> None:
            monkeypatch.setattr(workshop.broker, "enqueue", refuse)
            raise LookupError("not found")

        def refuse(*_: Any, **__: Any) -> None:
            raise dramatiq.errors.ConnectionClosed(OSError("refused"))

        job = workshop.job(fail_and_break_the_broker, actor_name="job")
        key = workshop.send(job)
        workshop.wait_for_run(key, "dead")
        workshop.join()
        monkeypatch.undo()
        return key

    def test_is_a_dead_letter_and_the_run_says_so(self, workshop: Workshop, key: str) -> None:
        run = workshop.run(key)

        assert (run.status, run.attempt) == ("dead", 1)
        assert run.error
        assert run.error.startswith("Its retry could not be published.\n\nLookupError: not found")
        assert workshop.dead_letters() == [key]


class TestAMessageThatComesBack:
    def test_is_run_again_if_its_failure_could_not_be_recorded(
        self, workshop: Workshop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Given a run that fails while the database cannot be reached
        record_failure = runs.record_failure

        def refuse_once(*_: Any, **__: Any) -> None:
            monkeypatch.setattr(runs, "record_failure", record_failure)
            raise OSError("no connection")

        monkeypatch.setattr(runs, "record_failure", refuse_once)

        run = workshop.run_to_the_end(workshop.job(Failing(times=1), actor_name="job"))

        assert (run.status, run.attempt) == ("succeeded", 2)
        assert workshop.effects() == 1

    def test_looks_again_soon_if_its_job_is_running(self, workshop: Workshop) -> None:
        # Given somebody who holds the lock of the job
        job = workshop.job(succeed)
        with workshop.database.lease() as lease:
            assert lease.try_lock("job:succeed")
            key = workshop.send(job)
            sent = workshop.wait_until_sent_again(key)

        # Then the message comes back, and its run has not begun
        assert 0.5 * POSTPONE_SECONDS <= sent.delay_seconds <= 1.5 * POSTPONE_SECONDS
        assert workshop.ask("SELECT count(*) FROM job_runs") == 0

        # And when the lock is free, it runs
        assert workshop.wait_for_run(key).attempt == 1

    def test_is_returned_if_it_cannot_be_published(
        self, workshop: Workshop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Given a message as RabbitMQ delivers them, which takes no others just now
        class Delivered(MessageProxy):
            is_given_back = False

            def give_back(self) -> None:
                self.is_given_back = True

        def refuse(*_: Any, **__: Any) -> None:
            raise dramatiq.errors.ConnectionClosed(OSError("refused"))

        message = Delivered(workshop.job(succeed).message())
        monkeypatch.setattr(workshop.broker, "enqueue", refuse)

        # When it is to look again later
        retries = Retries(workshop.database)
        later = Postponed("another run of this job is in progress", delay=2000)
        retries.after_process_message(workshop.broker, message, exception=later)

        # Then it is no dead letter, since it has not run
        assert message.is_given_back
        assert not message.failed


class TestAMessageThatNoRowCanBeKeptFor:
    @pytest.mark.parametrize("message_id", ["nul \x00", "lone surrogate \ud800"])
    def test_is_dead_lettered_at_once_for_its_id(self, workshop: Workshop, message_id: str) -> None:
        job = workshop.job(succeed)

        workshop.send_again(job, message_id)
        workshop.join()

        assert workshop.dead_letters() == [message_id]
        assert workshop.effects() == 0

    @pytest.mark.parametrize("scheduled_at", ["soon", None, 3])
    def test_is_dead_lettered_at_once_for_its_slot(
        self, workshop: Workshop, scheduled_at: object
    ) -> None:
        job = workshop.job(succeed, periodic=every(seconds=30))
        assert isinstance(job.options["periodic"], Ticker)

        key = workshop.send(job, scheduled_at=scheduled_at)
        workshop.join()

        assert workshop.dead_letters() == [key]
        assert workshop.ask("SELECT count(*) FROM job_runs") == 0
