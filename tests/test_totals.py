"""What happens to runs is counted once, in the database, and stays counted."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import select, text

from tests.probes import Workshop
from workers import dead_runs, runs
from workers.batches import Counts
from workers.database import Database
from workers.job import Run
from workers.models import DURATION_BOUNDS_SECONDS, JobTotal
from workers.periodic import every

pytest_plugins = ["tests.probe_fixtures"]

NOON = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
BUCKETS = len(DURATION_BOUNDS_SECONDS) + 1


def totals(database: Database, job: str = "job") -> dict[str, JobTotal]:
    with database.transaction() as session:
        rows = session.scalars(select(JobTotal).where(JobTotal.job == job))
        return {row.event: row for row in rows}


def counts(database: Database, job: str = "job") -> dict[str, int]:
    return {event: row.count for event, row in totals(database, job).items()}


def add_run(database: Database, status: str, **values: Any) -> int:
    row = {
        "run_key": uuid4().hex,
        "status": status,
        "attempt": 1,
        "enqueued_at": NOON,
        "started_at": NOON,
        "finished_at": None,
    } | values
    names = ", ".join(row)
    marks = ", ".join(f":{name}" for name in row)
    with database.transaction() as session:
        return int(
            session.execute(
                text(
                    f"INSERT INTO job_runs (job, message_id, queue, {names}) "
                    f"VALUES ('job', 'm', 'default', {marks}) RETURNING id"
                ),
                row,
            ).scalar_one()
        )


def update_run(database: Database, run_id: int, **values: Any) -> None:
    settings = ", ".join(f"{name} = :{name}" for name in values)
    with database.transaction() as session:
        session.execute(
            text(f"UPDATE job_runs SET {settings} WHERE id = :id"), values | {"id": run_id}
        )


class TestWhatIsCounted:
    def test_a_success_with_what_it_took_and_its_slot(self, workshop: Workshop) -> None:
        def job(_run: Run) -> Counts:
            return {"done": 1}

        actor = workshop.job(job, periodic=every(seconds=60))
        slot = every(seconds=60).slot_at(datetime.now(UTC))
        workshop.send(actor, slot=slot)
        run = workshop.wait_for_run(runs.run_key("job", slot, ""))

        found = totals(workshop.database)
        assert {event: row.count for event, row in found.items()} == {"started": 1, "succeeded": 1}
        assert found["succeeded"].last_slot == slot
        assert found["succeeded"].last_at == run.finished_at
        assert run.finished_at is not None
        assert run.started_at is not None
        took_seconds = (run.finished_at - run.started_at).total_seconds()
        assert found["succeeded"].seconds == pytest.approx(took_seconds)
        assert sum(found["started"].buckets) == sum(found["succeeded"].buckets) == 1

    def test_each_failure_and_the_death_in_the_end(self, workshop: Workshop) -> None:
        def job(_run: Run) -> Counts:
            raise RuntimeError("no")

        message_id = workshop.send(workshop.job(job, max_retries=2))
        workshop.wait_for_run(message_id, "dead")

        assert counts(workshop.database) == {"started": 1, "retrying": 2, "dead": 1}

    def test_a_skipped_slot(self, workshop: Workshop) -> None:
        def job(_run: Run) -> Counts:
            return {}

        actor = workshop.job(job, periodic=every(seconds=60))
        slot = every(seconds=60).slot_at(datetime.now(UTC)) - timedelta(hours=1)
        workshop.send(actor, slot=slot)
        workshop.wait_for_run(runs.run_key("job", slot, ""), "skipped")

        assert counts(workshop.database) == {"skipped": 1}

    def test_an_attempt_whose_worker_was_killed(self, database: Database) -> None:
        run_id = add_run(database, "running")

        # The next delivery finds it running, and nobody at it
        update_run(database, run_id, attempt=2)

        assert counts(database) == {"started": 1, "lost": 1}
        assert sum(totals(database)["lost"].buckets) == 0

    def test_no_attempt_that_is_taken_back(self, database: Database) -> None:
        run_id = add_run(database, "running")
        update_run(database, run_id, status="retrying", attempt=0, finished_at=NOON)

        assert counts(database) == {"started": 1}

    def test_no_progress_of_batches(self, database: Database) -> None:
        run_id = add_run(database, "running")
        update_run(database, run_id, result='{"rows": 2}')
        update_run(database, run_id, status="running")

        assert counts(database) == {"started": 1}

    def test_no_dead_run_that_is_sent_again_but_what_becomes_of_it(
        self, database: Database
    ) -> None:
        run_id = add_run(database, "dead", finished_at=NOON, run_key="job@1")
        dead_runs.renew(database, message_id="m", run_key="job@1")
        dead_runs.expect(
            database,
            run_key="job@2",
            job="job",
            slot=None,
            message_id="n",
            queue="default",
            enqueued_at=NOON,
        )
        assert counts(database) == {"dead": 1}

        update_run(database, run_id, status="running", attempt=2)
        update_run(database, run_id, status="succeeded", finished_at=NOON)
        assert counts(database) == {"dead": 1, "succeeded": 1}


def test_durations_fall_into_the_buckets_that_the_code_knows(database: Database) -> None:
    for bound in DURATION_BOUNDS_SECONDS:
        for seconds in (bound * 0.99, bound * 1.01):
            run_id = add_run(database, "running")
            finished_at = NOON + timedelta(seconds=seconds)
            update_run(database, run_id, status="succeeded", finished_at=finished_at)

    assert totals(database)["succeeded"].buckets == [1, *[2] * (BUCKETS - 2), 1]
    # Those that began had not waited at all
    assert totals(database)["started"].buckets == [2 * (BUCKETS - 1)] + [0] * (BUCKETS - 1)


def test_clocks_that_disagree_make_no_negative_durations(database: Database) -> None:
    run_id = add_run(database, "running", enqueued_at=NOON + timedelta(seconds=9))
    update_run(database, run_id, status="succeeded", finished_at=NOON - timedelta(seconds=9))

    found = totals(database)
    assert (found["started"].seconds, found["succeeded"].seconds) == (0, 0)


def test_totals_stay_when_runs_are_cleared_away(database: Database) -> None:
    for number in range(3):
        run_id = add_run(database, "running", run_key=f"job@{number}")
        update_run(database, run_id, status="succeeded", finished_at=NOON)
    before = counts(database)

    with database.transaction() as session:
        session.execute(text("UPDATE job_runs SET finished_at = now() - interval '99 days'"))
    with database.transaction() as session:
        assert not runs.clear_ended(session, 100, age_days=14)
        assert session.scalar(text("SELECT count(*) FROM job_runs")) == 0

    assert counts(database) == before == {"started": 3, "succeeded": 3}


def test_a_run_that_is_rolled_back_is_not_counted(database: Database) -> None:
    run_id = add_run(database, "running")
    with pytest.raises(RuntimeError), database.transaction() as session:
        session.execute(
            text("UPDATE job_runs SET status = 'succeeded', finished_at = now() WHERE id = :id"),
            {"id": run_id},
        )
        raise RuntimeError("the commit did not happen")

    assert counts(database) == {"started": 1}
