"""The claim: whatever is delivered, however often, wherever workers die, effects happen once."""

import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from queue import Empty, Queue
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from tests.rig.waiting import eventually
from workers import runs
from workers.database import Database, Lease
from workers.models import JobRun
from workers.periodic import every, utc_now
from workers.runs import Claim, ClaimLost, Delivery, Verdict

# Not just any time: what fails is noted with the time of the clock.
NOW = utc_now()
SLOT = every(seconds=30).slot_at(NOW)
RETRY_DELAY_SECONDS = 60

TABLE = "CREATE TABLE effects (run_key text NOT NULL)"


class Ledger:
    """Deliveries to workers, each with a connection of its own, and what became of them."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def claim(
        self,
        lease: Lease,
        delivery: Delivery,
        *,
        now: datetime = NOW,
        current_slot: datetime | None = None,
    ) -> Claim:
        """Claim, at a time at which the delivery's own slot is the current one unless told."""
        return runs.claim(lease, delivery, now=now, current_slot=current_slot or delivery.slot)

    def perform(self, lease: Lease, claim: Claim, delivery: Delivery) -> None:
        """Do what the transaction around a job does: effects and success in one commit."""
        with lease.transaction() as session:
            runs.hold(session, claim)
            session.execute(
                text("INSERT INTO effects VALUES (:run_key)"), {"run_key": delivery.run_key}
            )
            runs.record_success(session, claim, {"done": 1})

    def deliver(self, delivery: Delivery, **circumstances: Any) -> Claim:
        """Deliver a message to an idle worker, which runs the job if it may."""
        with self.database.lease() as lease:
            claim = self.claim(lease, delivery, **circumstances)
            if claim.verdict is Verdict.RUN:
                self.perform(lease, claim, delivery)
            return claim

    def deliver_in_vain(self, delivery: Delivery, error: str = "boom") -> str | None:
        """Deliver a message to a worker whose job fails; returns what the run is then."""
        with self.database.lease() as lease:
            claim = self.claim(lease, delivery)
        assert claim.verdict is Verdict.RUN, claim
        return runs.record_failure(self.database, claim, delivery.max_retries, error)

    def start_and_die(self, delivery: Delivery) -> Claim:
        """Deliver a message to a worker that is killed while it runs the job."""
        with self.database.lease() as lease:
            claim = self.claim(lease, delivery)
            kill(self.database, lease)
            return claim

    def is_acknowledged(self, delivery: Delivery, *, fate: float) -> bool:
        """Deliver a message to a worker that is lost if its fate is below 0.25."""
        with self.database.lease() as lease:
            claim = self.claim(lease, delivery)
            if claim.verdict is Verdict.RUN:
                if fate < 0.1:
                    kill(self.database, lease)
                    return False
                self.perform(lease, claim, delivery)
                return fate >= 0.25
            return claim.verdict is Verdict.DUPLICATE

    def effects(self, delivery: Delivery) -> int:
        return int(
            self.ask("SELECT count(*) FROM effects WHERE run_key = :key", key=delivery.run_key)
        )

    def ask(self, question: str, **parameters: Any) -> Any:
        with self.database.transaction() as session:
            return session.scalar(text(question), parameters)

    def do(self, statement: str, **parameters: Any) -> None:
        with self.database.transaction() as session:
            session.execute(text(statement), parameters)

    def run(self, delivery: Delivery) -> JobRun:
        run = runs.find_run(self.database, delivery.run_key)
        assert run is not None
        return run


def kill(database: Database, lease: Lease) -> None:
    """End the connection of a lease from outside, as a cut network or a killed worker does."""
    with lease.transaction() as session:
        pid = session.scalar(text("SELECT pg_backend_pid()"))
    with database.transaction() as session:
        session.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})

    def is_gone() -> bool:
        with database.transaction() as session:
            return not session.scalar(
                text("SELECT count(*) FROM pg_stat_activity WHERE pid = :pid"), {"pid": pid}
            )

    eventually(is_gone, message=f"The backend {pid} did not end")


def message(
    name: str = "m-1",
    *,
    job: str = "probe",
    slot: datetime | None = SLOT,
    max_retries: int = 3,
) -> Delivery:
    return Delivery(
        job=job,
        slot=slot,
        message_id=name,
        queue="default",
        enqueued_at=NOW,
        max_retries=max_retries,
        retry_delay_seconds=RETRY_DELAY_SECONDS,
        broker="rabbitmq",
    )


@pytest.fixture
def ledger(database: Database) -> Ledger:
    ledger = Ledger(database)
    ledger.do(TABLE)
    return ledger


def at_once(*calls: Callable[[], Any]) -> list[Any]:
    """Make all calls at the same moment, each in a thread; return what they returned."""
    barrier = threading.Barrier(len(calls))

    def call(function: Callable[[], Any]) -> Any:
        barrier.wait(timeout=60)
        return function()

    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result() for future in [pool.submit(call, each) for each in calls]]


class TestOneRun:
    def test_is_named_by_its_slot_or_by_its_message(self) -> None:
        slot = datetime(2026, 11, 23, 19, 30, tzinfo=UTC)

        assert message("m-1", slot=slot).run_key == "probe@2026-11-23T19:30:00Z"
        assert message("m-1", slot=None).run_key == "m-1"

    def test_is_visible_as_soon_as_it_has_started(self, ledger: Ledger) -> None:
        with ledger.database.lease() as lease:
            ledger.claim(lease, message())

            run = ledger.run(message())
            assert (run.status, run.attempt) == ("running", 1)
            assert run.started_at is not None
            assert run.started_at >= NOW
            assert run.finished_at is None
            assert run.worker

    def test_has_its_success_and_its_effects_at_once(self, ledger: Ledger) -> None:
        assert ledger.deliver(message()).verdict is Verdict.RUN

        run = ledger.run(message())
        assert (run.status, run.attempt, run.result) == ("succeeded", 1, {"done": 1})
        assert run.finished_at is not None
        assert ledger.effects(message()) == 1

    def test_is_not_run_again_once_it_succeeded(self, ledger: Ledger) -> None:
        ledger.deliver(message("m-1"))

        assert ledger.deliver(message("m-1")).verdict is Verdict.DUPLICATE
        assert ledger.deliver(message("m-2")).verdict is Verdict.DUPLICATE
        assert ledger.effects(message()) == 1

    def test_puts_a_rival_off_and_later_tells_it_that_all_is_done(self, ledger: Ledger) -> None:
        # Given a run in progress
        with ledger.database.lease() as lease:
            claim = ledger.claim(lease, message("m-1"))

            # Then neither its own message, delivered again, nor another for its slot runs it, or is
            # acknowledged: this worker may yet die
            assert ledger.deliver(message("m-1")).verdict is Verdict.POSTPONED
            assert ledger.deliver(message("m-2")).verdict is Verdict.POSTPONED

            # And when it has succeeded, the rival finds nothing left to do
            ledger.perform(lease, claim, message("m-1"))
        assert ledger.deliver(message("m-2")).verdict is Verdict.DUPLICATE
        assert ledger.run(message()).attempt == 1
        assert ledger.effects(message()) == 1

    def test_puts_off_whoever_finds_its_row_locked(self, ledger: Ledger) -> None:
        ledger.deliver_in_vain(message())

        with ledger.database.transaction() as session:
            session.execute(text("SELECT FROM job_runs FOR UPDATE"))
            assert ledger.deliver(message()).verdict is Verdict.POSTPONED

        assert ledger.deliver(message()).verdict is Verdict.RUN


class TestDeliveredTwiceAtTheSameTime:
    ROUNDS = 100

    @pytest.mark.parametrize("slot", [SLOT, None], ids=["scheduled", "on demand"])
    def test_one_message_has_its_effects_once(self, ledger: Ledger, slot: datetime | None) -> None:
        for number in range(self.ROUNDS):
            self.deliver_twice(
                ledger,
                message(f"m-{number}", job=f"probe-{number}", slot=slot),
                message(f"m-{number}", job=f"probe-{number}", slot=slot),
            )

    def test_two_messages_for_one_slot_have_its_effects_once(self, ledger: Ledger) -> None:
        for number in range(self.ROUNDS):
            # One job, as in life, whose slots follow each other: the lock of the job is in play.
            slot = SLOT + timedelta(seconds=30 * number)
            self.deliver_twice(
                ledger, message(f"a-{number}", slot=slot), message(f"b-{number}", slot=slot)
            )

    @staticmethod
    def deliver_twice(ledger: Ledger, *deliveries: Delivery) -> None:
        claims = at_once(*(lambda each=each: ledger.deliver(each) for each in deliveries))

        # One runs. The other may come too early or too late, but never takes the run away.
        verdicts = sorted(claim.verdict for claim in claims)
        assert verdicts in (
            [Verdict.DUPLICATE, Verdict.RUN],
            [Verdict.POSTPONED, Verdict.RUN],
        )
        assert ledger.effects(deliveries[0]) == 1
        assert ledger.run(deliveries[0]).status == "succeeded"


class TestAWorkerThatIsLost:
    def test_leaves_the_run_to_the_next_delivery(self, ledger: Ledger) -> None:
        ledger.start_and_die(message("m-1"))

        claim = ledger.deliver(message("m-1"))

        assert (claim.verdict, claim.attempt) == (Verdict.RUN, 2)
        assert ledger.effects(message()) == 1

    @pytest.mark.parametrize("rival_is", ["running", "done"])
    def test_can_no_longer_commit_though_it_lives_on(self, ledger: Ledger, rival_is: str) -> None:
        # Given a worker whose connection breaks in the middle of its run, without its knowing
        with ledger.database.lease() as lease, ledger.database.lease() as other_lease:
            claim = ledger.claim(lease, message())
            kill(ledger.database, lease)

            # And another that took the run over
            rival = ledger.claim(other_lease, message())
            assert (rival.verdict, rival.attempt) == (Verdict.RUN, 2)
            if rival_is == "done":
                ledger.perform(other_lease, rival, message())

            # When the first goes on, and is connected again behind its back
            with pytest.raises(DBAPIError):
                ledger.perform(lease, claim, message())
            with pytest.raises(ClaimLost):
                ledger.perform(lease, claim, message())

            # Then the run is the other's alone, to succeed and to fail
            assert runs.record_failure(ledger.database, claim, 3, "too late") is None
            if rival_is == "running":
                ledger.perform(other_lease, rival, message())

        run = ledger.run(message())
        assert (run.status, run.attempt, run.error) == ("succeeded", 2, None)
        assert ledger.effects(message()) == 1

    def test_is_rolled_back_with_all_that_it_had_not_committed(self, ledger: Ledger) -> None:
        with ledger.database.lease() as lease:
            claim = ledger.claim(lease, message())
            with pytest.raises(DBAPIError), lease.transaction() as session:
                runs.hold(session, claim)
                session.execute(text("INSERT INTO effects VALUES ('half done')"))
                session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

        assert ledger.ask("SELECT count(*) FROM effects") == 0
        assert ledger.deliver(message()).attempt == 2


class TestAnAttemptThatIsGivenBack:
    def test_does_not_count(self, ledger: Ledger) -> None:
        # Given a run of one attempt only, which is given back as often as you like
        delivery = message(max_retries=0)
        for _ in range(3):
            with ledger.database.lease() as lease:
                claim = ledger.claim(lease, delivery)
                assert (claim.verdict, claim.attempt) == (Verdict.RUN, 1)
                runs.give_back(ledger.database, claim)
            assert (ledger.run(delivery).status, ledger.run(delivery).attempt) == ("retrying", 0)

        # Then it is done with that attempt
        assert ledger.deliver(delivery).attempt == 1
        assert ledger.effects(delivery) == 1

    def test_is_ended_first_if_it_may_still_be_at_work(self, ledger: Ledger) -> None:
        with ledger.database.lease() as lease:
            claim = ledger.claim(lease, message())
            with pytest.raises(DBAPIError), lease.transaction() as session:
                runs.hold(session, claim)
                # Without this it would wait for the row that is held here.
                runs.give_back(ledger.database, claim, backend_pid=lease.backend_pid)
                session.execute(text("INSERT INTO effects VALUES ('too late')"))

        assert ledger.run(message()).attempt == 0
        assert ledger.ask("SELECT count(*) FROM effects") == 0

    def test_is_not_mistaken_for_the_next_one_of_the_same_number(self, ledger: Ledger) -> None:
        # Given a worker that lives on, though its run was given back in its name
        with ledger.database.lease() as lease, ledger.database.lease() as other_lease:
            claim = ledger.claim(lease, message(), now=utc_now())
            kill(ledger.database, lease)
            runs.give_back(ledger.database, claim)

            # And another that took the run over, with the attempt of the same number
            rival = ledger.claim(other_lease, message(), now=utc_now())
            assert rival.attempt == claim.attempt == 1

            # Then the first can neither fail it, nor give it back again, nor do it
            assert runs.record_failure(ledger.database, claim, 3, "too late") is None
            runs.give_back(ledger.database, claim)
            with pytest.raises(DBAPIError):
                ledger.perform(lease, claim, message())
            with pytest.raises(ClaimLost):
                ledger.perform(lease, claim, message())
            ledger.perform(other_lease, rival, message())

        run = ledger.run(message())
        assert (run.status, run.attempt, run.error) == ("succeeded", 1, None)
        assert ledger.effects(message()) == 1


class TestOverlap:
    @pytest.fixture
    def running(self, ledger: Ledger) -> Iterator[None]:
        """Given a run of the job in progress."""
        with ledger.database.lease() as lease:
            ledger.claim(lease, message("earlier", slot=SLOT - timedelta(seconds=30)))
            yield

    @pytest.mark.usefixtures("running")
    def test_skips_a_slot_that_comes_up_meanwhile(self, ledger: Ledger) -> None:
        assert ledger.deliver(message()).verdict is Verdict.SKIPPED

        run = ledger.run(message())
        assert (run.status, run.attempt) == ("skipped", 0)
        assert run.error == "another run of this job is in progress"
        assert ledger.deliver(message("m-2")).verdict is Verdict.DUPLICATE

    @pytest.mark.usefixtures("running")
    def test_puts_a_run_on_demand_off(self, ledger: Ledger) -> None:
        on_demand = message("asked-for", slot=None)

        assert ledger.deliver(on_demand).verdict is Verdict.POSTPONED
        assert runs.find_run(ledger.database, "asked-for") is None

    def test_puts_a_retry_off_and_uses_no_attempt(self, ledger: Ledger) -> None:
        ledger.deliver_in_vain(message())
        with ledger.database.lease() as lease:
            ledger.claim(lease, message("later", slot=SLOT + timedelta(seconds=30)))

            assert ledger.deliver(message()).verdict is Verdict.POSTPONED
            assert ledger.run(message()).attempt == 1

        assert ledger.deliver(message()).attempt == 2

    @pytest.mark.usefixtures("running")
    def test_is_no_matter_between_different_jobs(self, ledger: Ledger) -> None:
        assert ledger.deliver(message(job="another")).verdict is Verdict.RUN

    def test_never_happens_however_many_are_asked_for_at_once(self, ledger: Ledger) -> None:
        active, most = set[str](), 0
        lock = threading.Lock()

        def run(name: str) -> None:
            nonlocal most
            while True:
                with ledger.database.lease() as lease:
                    delivery = message(name, slot=None)
                    claim = ledger.claim(lease, delivery)
                    if claim.verdict is Verdict.RUN:
                        with lock:
                            active.add(name)
                            most = max(most, len(active))
                        ledger.perform(lease, claim, delivery)
                        with lock:
                            active.remove(name)
                        return

        at_once(*(lambda name=f"m-{number}": run(name) for number in range(6)))

        assert most == 1
        assert ledger.ask("SELECT count(*) FROM effects") == 6


class TestASlotThatHasPassed:
    LATER = SLOT + timedelta(seconds=30)

    def test_is_skipped_if_it_was_never_started(self, ledger: Ledger) -> None:
        claim = ledger.deliver(message(), current_slot=self.LATER)

        assert claim.verdict is Verdict.SKIPPED
        run = ledger.run(message())
        assert (run.status, run.attempt, run.error) == ("skipped", 0, "a newer slot is due")

    def test_is_finished_if_it_was_started(self, ledger: Ledger) -> None:
        ledger.deliver_in_vain(message("failed"))
        ledger.start_and_die(message("killed", job="another"))

        for delivery in (message("failed"), message("killed", job="another")):
            claim = ledger.deliver(delivery, current_slot=self.LATER)
            assert (claim.verdict, claim.attempt) == (Verdict.RUN, 2)

    def test_may_lie_a_moment_ahead_too(self, ledger: Ledger) -> None:
        # periodiq rounds the time at which it woke.
        early = message(slot=self.LATER)

        assert ledger.deliver(early, current_slot=SLOT).verdict is Verdict.RUN


class TestAttempts:
    def test_are_counted_though_the_worker_is_killed_each_time(self, ledger: Ledger) -> None:
        # Given a job of one retry that has killed its worker twice
        deadly = message(max_retries=1)
        assert ledger.start_and_die(deadly).attempt == 1
        assert ledger.start_and_die(deadly).attempt == 2

        # Then it is not started a third time
        assert ledger.deliver(deadly).verdict is Verdict.DEAD
        run = ledger.run(deadly)
        assert (run.status, run.attempt) == ("dead", 2)
        assert run.error == "its worker was lost in each of 2 attempts"
        assert run.finished_at == NOW

    def test_are_used_up_by_failures_and_kills_alike(self, ledger: Ledger) -> None:
        delivery = message(max_retries=2)
        assert ledger.deliver_in_vain(delivery) == "retrying"
        ledger.start_and_die(delivery)
        assert ledger.deliver_in_vain(delivery, "the last straw") == "dead"

        assert ledger.deliver(delivery).verdict is Verdict.DEAD
        run = ledger.run(delivery)
        assert (run.status, run.attempt, run.error) == ("dead", 3, "the last straw")

    def test_of_a_job_without_retries_are_one(self, ledger: Ledger) -> None:
        assert ledger.deliver_in_vain(message(max_retries=0)) == "dead"

    def test_that_are_left_are_used_if_only_the_retry_could_not_be_published(
        self, ledger: Ledger
    ) -> None:
        # Given a run that is dead because its retry could not be published
        with ledger.database.lease() as lease:
            claim = ledger.claim(lease, message())
        runs.record_failure(ledger.database, claim, 3, "boom")
        runs.record_dead(ledger.database, claim, "Its retry could not be published.")
        run = ledger.run(message())
        assert (run.status, run.error) == ("dead", "Its retry could not be published.\n\nboom")

        # When its dead letter is sent again, it runs
        assert ledger.deliver(message()).attempt == 2

    def test_begin_anew_where_the_budget_does(self, ledger: Ledger) -> None:
        # Given a run that used up its attempts, and is marked for another round of them
        delivery = message(max_retries=1)
        assert [ledger.deliver_in_vain(delivery) for _ in range(2)] == ["retrying", "dead"]
        ledger.do("UPDATE job_runs SET budget_from = attempt")

        # Then it has as many again, while the count goes on
        assert [ledger.deliver_in_vain(delivery) for _ in range(2)] == ["retrying", "dead"]
        assert ledger.run(delivery).attempt == 4
        assert ledger.deliver(delivery).verdict is Verdict.DEAD

    def test_of_a_dead_run_are_not_judged_by_an_earlier_one(self, ledger: Ledger) -> None:
        with ledger.database.lease() as lease:
            first = ledger.claim(lease, message())
        runs.record_failure(ledger.database, first, 3, "boom")
        ledger.deliver_in_vain(message())

        runs.record_dead(ledger.database, first, "Its retry could not be published.")

        assert ledger.run(message()).status == "retrying"


class TestTheOtherMessagesOfAFailedSlot:
    def test_are_put_off_until_its_retry_must_have_happened(self, ledger: Ledger) -> None:
        ledger.deliver_in_vain(message("first"))

        failed_at = ledger.run(message()).finished_at
        assert failed_at

        other = ledger.deliver(message("other"), now=failed_at)

        assert other.verdict is Verdict.POSTPONED
        assert other.delay_seconds == 2 * RETRY_DELAY_SECONDS
        assert ledger.deliver(message("first")).attempt == 2

    def test_take_it_over_if_nobody_retries_it(self, ledger: Ledger) -> None:
        ledger.deliver_in_vain(message("first"))
        much_later = utc_now() + timedelta(seconds=2 * RETRY_DELAY_SECONDS)

        claim = ledger.deliver(message("other"), now=much_later)

        assert (claim.verdict, claim.attempt) == (Verdict.RUN, 2)

    def test_are_acknowledged_if_it_is_dead_and_its_dead_letter_another(
        self, ledger: Ledger
    ) -> None:
        ledger.deliver_in_vain(message("first", max_retries=0))

        assert ledger.deliver(message("other", max_retries=0)).verdict is Verdict.DUPLICATE
        assert ledger.deliver(message("first", max_retries=0)).verdict is Verdict.DEAD

    def test_are_its_dead_letter_if_they_find_it_dead(self, ledger: Ledger) -> None:
        # Given a run whose worker was killed in its last attempt
        ledger.start_and_die(message("first", max_retries=0))

        # Then the message that finds out stands for it, and no other
        assert ledger.deliver(message("other", max_retries=0)).verdict is Verdict.DEAD
        assert ledger.deliver(message("first", max_retries=0)).verdict is Verdict.DUPLICATE
        assert ledger.deliver(message("other", max_retries=0)).verdict is Verdict.DEAD


@pytest.mark.parametrize("error", ["NUL \x00 and", "a lone \ud800 surrogate", "\x00" * 30_000])
def test_any_text_can_be_the_reason_of_a_failure(ledger: Ledger, error: str) -> None:
    assert ledger.deliver_in_vain(message(), error) == "retrying"

    stored = ledger.run(message()).error
    assert stored
    assert len(stored) <= runs.MAX_ERROR_CHARACTERS
    assert "\\x00" in stored or "\\ud800" in stored


def test_many_copies_of_many_slots_succeed_once_each_and_none_is_lost(ledger: Ledger) -> None:
    # Given a queue that delivers at least once, with three messages for each of many slots
    slots, copies, workers = 40, 3, 6
    chance = random.Random(20_261_123)
    deliveries = [
        message(f"m-{copy}-{number}", job=f"probe-{number}", max_retries=1_000)
        for number in range(slots)
        for copy in range(copies)
    ]
    chance.shuffle(deliveries)
    queue = Queue[Delivery]()
    for delivery in deliveries:
        queue.put(delivery)

    # And workers of which one in four is lost, before or after it commits
    def work() -> None:
        while True:
            try:
                delivery = queue.get_nowait()
            except Empty:
                return
            if not ledger.is_acknowledged(delivery, fate=chance.random()):
                queue.put(delivery)

    # When they work until the queue is empty
    at_once(*[work] * workers)

    # Then each slot has its effects once
    counts = "SELECT count(*), count(DISTINCT run_key) FROM effects"
    with ledger.database.transaction() as session:
        assert tuple(session.execute(text(counts)).one()) == (slots, slots)
    assert ledger.ask("SELECT count(*) FROM job_runs WHERE status = 'succeeded'") == slots


@dataclass
class Work:
    """A delivery in the hands of a worker that runs its job."""

    delivery: Delivery
    claim: Claim
    lease: Lease
    end: ExitStack
    is_cut: bool = False
    """Whether its connection to the database broke, which it does not know yet."""
    has_its_message: bool = True
    """Whether the broker would deliver the message again, should this worker be lost."""


class AnyOrder(RuleBasedStateMachine):
    """One slot, several messages for it, and all that may happen to them and to their workers.

    It takes place in one thread: a claim never waits, so steps can be put into any order, and
    hypothesis looks for one that loses the run, or doubles it.
    """

    MAX_RETRIES = 1
    ledger: ClassVar[Ledger]
    numbers = count()
    index = st.integers(0, 3)

    def __init__(self) -> None:
        super().__init__()
        self.job = f"probe-{next(self.numbers)}"
        self.current_slot = SLOT
        self.now = NOW
        self.queue: list[Delivery] = []
        self.at_work: list[Work] = []
        self.dead_letters: list[Delivery] = []

    # What schedulers, the broker and people do.

    @initialize(messages=st.integers(1, 2))
    def schedule(self, messages: int) -> None:
        self.queue = [
            message(f"m-{number}", job=self.job, max_retries=self.MAX_RETRIES)
            for number in range(messages)
        ]

    @rule(index=index)
    @precondition(lambda self: self.at_work)
    def deliver_again(self, index: int) -> None:
        """The broker's connection to a worker breaks, and the worker goes on."""
        work = self.at_work[index % len(self.at_work)]
        if work.has_its_message:
            work.has_its_message = False
            self.queue.append(work.delivery)

    @rule(index=index)
    @precondition(lambda self: self.dead_letters)
    def requeue(self, index: int) -> None:
        delivery = self.dead_letters.pop(index % len(self.dead_letters))
        self.ledger.do(
            "UPDATE job_runs SET budget_from = attempt WHERE run_key = :key AND status = 'dead'",
            key=delivery.run_key,
        )
        self.queue.append(delivery)

    @rule()
    @precondition(lambda self: not (self.queue or self.at_work or self.dead_letters))
    def rest(self) -> None:
        """Nothing is left to do; hypothesis wants a rule for that too."""

    # What workers do, and what happens to them.

    @rule(index=index, seconds_later=st.sampled_from([0, 30, 300]))
    @precondition(lambda self: self.queue and len(self.at_work) < 3)
    def deliver(self, index: int, seconds_later: int) -> None:
        self.current_slot += timedelta(seconds=seconds_later)
        self.now += timedelta(seconds=seconds_later)
        delivery = self.queue.pop(index % len(self.queue))
        with ExitStack() as stack:
            lease = stack.enter_context(self.ledger.database.lease())
            claim = self.ledger.claim(lease, delivery, now=self.now, current_slot=self.current_slot)
            if claim.verdict is Verdict.RUN:
                self.at_work.append(Work(delivery, claim, lease, stack.pop_all()))
            elif claim.verdict is Verdict.POSTPONED:
                self.queue.append(delivery)
            elif claim.verdict is Verdict.DEAD:
                self.dead_letters.append(delivery)

    @rule(index=index, is_answered=st.booleans())
    @precondition(lambda self: self.at_work)
    def succeed(self, index: int, *, is_answered: bool) -> None:
        """The commit takes place, and its answer may get lost with the connection."""
        work = self.take(index)
        with work.end:
            if work.is_cut:
                with pytest.raises(DBAPIError):
                    self.ledger.perform(work.lease, work.claim, work.delivery)
            else:
                self.ledger.perform(work.lease, work.claim, work.delivery)
                if is_answered:
                    return
        self.settle_failure(work, is_published=True)

    @rule(index=index, is_published=st.booleans(), dies=st.booleans())
    @precondition(lambda self: self.at_work)
    def fail(self, index: int, *, is_published: bool, dies: bool) -> None:
        """The failure is recorded; then the worker may die, or the broker refuse its retry."""
        work = self.take(index)
        work.end.close()
        if dies:
            runs.record_failure(self.ledger.database, work.claim, self.MAX_RETRIES, "boom")
            self.give_back(work)
        else:
            self.settle_failure(work, is_published=is_published)

    @rule(index=index)
    @precondition(lambda self: self.at_work)
    def die(self, index: int) -> None:
        self.cut(index)
        work = self.take(index)
        work.end.close()
        self.give_back(work)

    @rule(index=index)
    @precondition(lambda self: self.at_work)
    def cut(self, index: int) -> None:
        """The connection to the database breaks; the worker finds out when it uses it."""
        work = self.at_work[index % len(self.at_work)]
        if not work.is_cut:
            kill(self.ledger.database, work.lease)
            work.is_cut = True

    def take(self, index: int) -> Work:
        return self.at_work.pop(index % len(self.at_work))

    def give_back(self, work: Work) -> None:
        if work.has_its_message:
            self.queue.append(work.delivery)

    def settle_failure(self, work: Work, *, is_published: bool) -> None:
        database = self.ledger.database
        status = runs.record_failure(database, work.claim, self.MAX_RETRIES, "boom")
        if status == "retrying" and not is_published:
            runs.record_dead(database, work.claim, "Its retry could not be published.")
            status = "dead"
        (self.dead_letters if status == "dead" else self.queue).append(work.delivery)

    # What must be true after each step, and in the end.

    @invariant()
    def effects_happen_once_and_with_the_success(self) -> None:
        run = self.find_run()
        is_done = run is not None and run.status == "succeeded"
        assert self.effects() == is_done

    @invariant()
    def one_worker_at_most_can_commit(self) -> None:
        assert sum(not work.is_cut for work in self.at_work) <= 1

    @invariant()
    def no_run_has_more_attempts_than_its_budget(self) -> None:
        run = self.find_run()
        assert run is None or run.attempt - run.budget_from <= 1 + self.MAX_RETRIES

    def teardown(self) -> None:
        """Let everybody finish, and see that the run is not lost."""
        try:
            deliveries = 0
            while self.at_work or self.queue:
                if self.at_work:
                    self.succeed(0, is_answered=True)
                else:
                    self.deliver(0, seconds_later=30)
                deliveries += 1
                assert deliveries < 100, "These messages are put off for ever"
            self.effects_happen_once_and_with_the_success()
            run = self.find_run()
            assert run is not None
            assert (
                run.status == "succeeded"
                or (run.status == "dead" and self.dead_letters)
                or (run.status == "skipped" and run.attempt == 0)
            ), run.status
        finally:
            for work in self.at_work:
                work.end.close()

    def find_run(self) -> JobRun | None:
        return runs.find_run(self.ledger.database, message(job=self.job).run_key)

    def effects(self) -> int:
        return self.ledger.effects(message(job=self.job))


def test_no_order_of_events_loses_a_run_or_doubles_it(ledger: Ledger) -> None:
    class OnThisLedger(AnyOrder):
        pass

    OnThisLedger.ledger = ledger
    run_state_machine_as_test(
        OnThisLedger,
        settings=settings(
            max_examples=100,
            stateful_step_count=20,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
