"""A run is one transaction: what a job did is committed with its success, or not at all."""

import threading
from collections.abc import Callable
from typing import Any

import dramatiq
import pytest
from dramatiq.middleware import TimeLimitExceeded
from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from tests.probes import PATIENCE_SECONDS, Workshop
from tests.rig.waiting import eventually
from workers import runs
from workers.batches import Batches, Counts
from workers.broker import build_broker, check_actors, rebind
from workers.job import Job, Run
from workers.settings import ConfigurationError, Settings

pytest_plugins = ["tests.probe_fixtures"]

# But for the one that a worker's relay holds as long as it lives.
ADVISORY_LOCKS = """
    SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'
    AND (classid::bigint << 32 | objid::bigint) <> hashtextextended('relay', 0)"""


def have_effect(run: Run) -> None:
    run.session.execute(text("INSERT INTO probe_effects (job, message_id) VALUES ('job', '')"))


class TestARunThatSucceeds:
    def test_leaves_its_effects_and_its_counts(self, workshop: Workshop) -> None:
        def job(run: Run) -> Counts:
            have_effect(run)
            return {"done": 1}

        run = workshop.run_to_the_end(workshop.job(job))

        assert (run.status, run.attempt, run.result) == ("succeeded", 1, {"done": 1})
        assert (run.slot, run.error) == (None, None)
        assert workshop.effects() == 1

    def test_shows_nothing_of_its_effects_before_it_is_done(self, workshop: Workshop) -> None:
        # Given a job in the middle of its work
        is_half_done, may_go_on = threading.Event(), threading.Event()

        def job(run: Run) -> None:
            have_effect(run)
            is_half_done.set()
            assert may_go_on.wait(PATIENCE_SECONDS)

        key = workshop.send(workshop.job(job))
        assert is_half_done.wait(PATIENCE_SECONDS)

        # Then others see that it runs, and no more
        assert workshop.run(key).status == "running"
        assert workshop.effects() == 0

        # And when it is done, they see all of it
        may_go_on.set()
        assert workshop.wait_for_run(key).status == "succeeded"
        assert workshop.effects() == 1

    def test_gives_its_locks_back(self, workshop: Workshop) -> None:
        workshop.run_to_the_end(workshop.job(have_effect, actor_name="job"))
        workshop.join()

        assert workshop.ask(ADVISORY_LOCKS) == 0

    def test_is_given_its_time_once(self, workshop: Workshop) -> None:
        times = []

        def job(run: Run) -> Batches:
            for _ in range(2):
                times.append(run.now)
                yield {}
            return None

        run = workshop.run_to_the_end(workshop.job(job))

        assert times == [run.started_at] * 2


def fail_in_python(run: Run) -> None:
    have_effect(run)
    raise LookupError("not found")


def fail_in_sql(run: Run) -> None:
    have_effect(run)
    run.session.execute(text("SELECT 1 / 0"))


def fail_at_commit(run: Run) -> None:
    have_effect(run)
    run.session.execute(text("INSERT INTO probe_orphans VALUES (-1)"))


def be_interrupted(run: Run) -> None:
    # As a time limit does: it is not even an Exception.
    have_effect(run)
    raise TimeLimitExceeded("too long")


def swallow_the_loss_of_its_connection(run: Run) -> None:
    have_effect(run)
    with pytest.raises(OperationalError):
        run.session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))


class TestARunThatFails:
    @pytest.mark.parametrize(
        ("job", "error"),
        [
            (fail_in_python, "LookupError: not found"),
            (fail_in_sql, "division by zero"),
            (fail_at_commit, "violates foreign key constraint"),
            (be_interrupted, "TimeLimitExceeded: too long"),
            (swallow_the_loss_of_its_connection, "PendingRollbackError"),
        ],
    )
    def test_leaves_only_the_reason(
        self, workshop: Workshop, job: Callable[[Run], Any], error: str
    ) -> None:
        run = workshop.run_to_the_end(workshop.job(job, max_retries=0))

        assert (run.status, run.attempt, run.result) == ("dead", 1, None)
        assert run.error
        assert error in run.error
        assert "Traceback" in run.error
        assert run.finished_at
        assert workshop.effects() == 0
        workshop.join()
        assert workshop.ask(ADVISORY_LOCKS) == 0

    def test_keeps_its_reason_though_the_rollback_fails_too(
        self, workshop: Workshop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def job(run: Run) -> None:
            have_effect(run)
            # From here on; the transactions before and after are not of this job.
            monkeypatch.setattr(run.session, "rollback", refuse)
            raise LookupError("not found")

        def refuse() -> None:
            raise OSError("the rollback failed")

        run = workshop.run_to_the_end(workshop.job(job, max_retries=0))

        assert run.error
        assert run.error.startswith("LookupError: not found")
        assert workshop.effects() == 0


def test_a_commit_whose_answer_is_lost_is_not_done_again(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a job whose commit takes place, while the answer gets lost
    commits = []

    def job(run: Run) -> None:
        have_effect(run)
        commit = run.session.commit

        def commit_and_lose_the_answer() -> None:
            monkeypatch.undo()
            commit()
            commits.append(run)
            raise OperationalError("COMMIT", {}, Exception("server closed the connection"))

        monkeypatch.setattr(run.session, "commit", commit_and_lose_the_answer)

    # When its message comes back, since nobody can tell what happened
    run = workshop.run_to_the_end(workshop.job(job))
    workshop.join()

    # Then the ledger can
    assert len(commits) == 1
    assert (run.status, run.attempt) == ("succeeded", 1)
    assert workshop.run(run.run_key).error is None
    assert workshop.effects() == 1
    assert workshop.dead_letters() == []


class TestAJobOfBatches:
    def test_commits_each_as_it_is_yielded_and_adds_its_counts_up(self, workshop: Workshop) -> None:
        progress = []

        def job(run: Run) -> Batches:
            for _ in range(3):
                have_effect(run)
                yield {"done": 1}
                with workshop.database.transaction() as session:
                    (running,) = runs.unfinished_in_process(session)
                progress.append((running.status, running.result, workshop.effects()))
            have_effect(run)
            return {"done": 1, "batches": 3}

        run = workshop.run_to_the_end(workshop.job(job))

        assert progress == [("running", {"done": number}, number) for number in (1, 2, 3)]
        assert (run.status, run.attempt) == ("succeeded", 1)
        assert run.result == {"done": 4, "batches": 3}

    def test_that_fails_keeps_the_batches_before_and_goes_on_counting_there(
        self, workshop: Workshop
    ) -> None:
        # Given a job whose third batch fails, once
        attempts = []

        def job(run: Run) -> Batches:
            attempts.append(run)
            for number in range(1, 4 if len(attempts) == 1 else 2):
                have_effect(run)
                if number == 3:
                    raise LookupError("not found")
                yield {"done": 1}
            return None

        run = workshop.run_to_the_end(workshop.job(job))

        # Then the result counts what was committed, in whichever attempt
        assert (run.status, run.attempt, run.result) == ("succeeded", 2, {"done": 3})
        assert workshop.effects() == 3

    def test_is_closed_where_it_stands_if_a_commit_fails(self, workshop: Workshop) -> None:
        closed_after = []

        def job(run: Run) -> Batches:
            yield {"done": 1}
            try:
                run.session.execute(text("INSERT INTO probe_orphans VALUES (-1)"))
                yield {"done": 1}
            finally:
                closed_after.append(workshop.run(key).result)
            raise AssertionError("it went on after its batch could not be committed")

        key = workshop.send(workshop.job(job, max_retries=0))
        run = workshop.wait_for_run(key)

        assert run.status == "dead"
        assert closed_after == [{"done": 1}]
        assert run.result == {"done": 1}

    def test_leaves_its_run_alone_if_another_worker_took_it_over(self, workshop: Workshop) -> None:
        # Given a job of batches that loses its connection after the first, and so its run
        def job(run: Run) -> Batches:
            have_effect(run)
            yield {"done": 1}
            end_connection(workshop, run)
            workshop.do("UPDATE job_runs SET attempt = attempt + 1")
            have_effect(run)
            yield {"done": 1}
            return None

        key = workshop.send(workshop.job(job, retry_delay_seconds=60))

        # Then its failure is nothing to the run; its message comes back, to see how the other fares
        workshop.wait_until_sent_again(key)
        run = workshop.run(key)
        assert (run.status, run.attempt, run.result) == ("running", 2, {"done": 1})
        assert workshop.effects() == 1


def end_connection(workshop: Workshop, run: Run) -> None:
    pid = run.session.scalar(text("SELECT pg_backend_pid()"))
    workshop.do("SELECT pg_terminate_backend(:pid)", pid=pid)
    eventually(
        lambda: not workshop.ask("SELECT count(*) FROM pg_stat_activity WHERE pid = :pid", pid=pid)
    )


class TestTheWrapping:
    def test_survives_a_move_to_another_broker_once_only(self, workshop: Workshop) -> None:
        moved: Job = workshop.job(have_effect, actor_name="job")
        elsewhere = build_broker(Settings(), workshop.database, (), in_process=True)
        before = dramatiq.get_broker()
        try:
            rebind([moved], elsewhere)
            rebind([moved], workshop.broker)
        finally:
            dramatiq.set_broker(before)

        assert workshop.run_to_the_end(moved).attempt == 1
        assert workshop.effects() == 1

    def test_keeps_jobs_from_being_called_outside_of_a_run(self, workshop: Workshop) -> None:
        job = workshop.job(have_effect, actor_name="job")

        with pytest.raises(RuntimeError, match="has no message"):
            job()

    def test_is_demanded_of_every_actor(self, workshop: Workshop) -> None:
        job = workshop.job(have_effect, actor_name="job")
        check_actors(workshop.broker)

        job.fn = have_effect

        with pytest.raises(ConfigurationError, match="does not run in a transaction"):
            check_actors(workshop.broker)

    def test_is_not_demanded_in_vain_by_an_actor_on_a_queue_without_workers(
        self, workshop: Workshop
    ) -> None:
        workshop.job(have_effect, actor_name="job", queue_name="hi")

        with pytest.raises(ConfigurationError, match="no worker serves the queue 'hi'"):
            check_actors(workshop.broker)


def test_the_session_is_the_same_from_batch_to_batch(workshop: Workshop) -> None:
    sessions: list[Session] = []

    def job(run: Run) -> Batches:
        for _ in range(2):
            sessions.append(run.session)
            yield {}
        return None

    workshop.run_to_the_end(workshop.job(job))

    assert sessions[0] is sessions[1]
