"""What an in-process broker left unfinished comes back, once, and a retry when it is due."""

from datetime import datetime, timedelta
from typing import Any

import dramatiq
import pytest
from sqlalchemy import text

from tests.probes import Workshop
from workers.job import ON_DEMAND_PRIORITY, Job, Run
from workers.leftovers import give_back, resume
from workers.models import BrokerName, JobRun, RunStatus
from workers.periodic import EPOCH, daily, utc_now

pytest_plugins = ["tests.probe_fixtures"]

NIGHTLY = daily("02:00")
DELAY_SECONDS = 60


def work(run: Run) -> None:
    run.session.execute(text("INSERT INTO probe_effects (job, message_id) VALUES ('', '')"))


@pytest.fixture
def job(workshop: Workshop) -> Job:
    return workshop.job(work, periodic=NIGHTLY, retry_delay_seconds=DELAY_SECONDS)


def leave(
    workshop: Workshop,
    status: RunStatus,
    *,
    slot: datetime | None = None,
    broker: BrokerName = "in-process",
    budget_from: int = 0,
) -> datetime:
    """Leave a run in the ledger whose first attempt ended just now; return when it did."""
    now = utc_now()
    with workshop.database.transaction() as session:
        session.add(
            JobRun(
                run_key="left",
                message_id="left",
                job="work",
                slot=slot,
                queue="default",
                status=status,
                attempt=1,
                budget_from=budget_from,
                broker=broker,
                finished_at=now,
            )
        )
    return now


def outbox_of(workshop: Workshop) -> list[dramatiq.Message[Any]]:
    with workshop.database.transaction() as session:
        bodies = session.scalars(text("SELECT body FROM outbox_messages ORDER BY id"))
        return [dramatiq.Message.decode(body.encode()) for body in bodies]


class TestGivingBack:
    def test_leaves_a_retry_to_rabbitmq_for_when_it_is_due(
        self, workshop: Workshop, job: Job
    ) -> None:
        slot = NIGHTLY.slot_at(utc_now())
        failed_at = leave(workshop, "retrying", slot=slot)

        assert give_back(workshop.broker, workshop.database) == 1

        (message,) = outbox_of(workshop)
        due = failed_at + timedelta(seconds=DELAY_SECONDS)
        assert (message.message_id, message.actor_name) == ("left", job.actor_name)
        assert message.options["eta"] == (due - EPOCH) // timedelta(milliseconds=1)
        assert datetime.fromisoformat(message.options["scheduled_at"]) == slot
        assert workshop.run("left").broker == "rabbitmq"

    def test_is_done_once(self, workshop: Workshop, job: Job) -> None:  # noqa: ARG002
        leave(workshop, "retrying")

        assert give_back(workshop.broker, workshop.database) == 1
        workshop.do("DELETE FROM outbox_messages")
        assert give_back(workshop.broker, workshop.database) == 0

    def test_lets_what_was_killed_run_at_once(self, workshop: Workshop, job: Job) -> None:  # noqa: ARG002
        leave(workshop, "running")

        give_back(workshop.broker, workshop.database)

        (message,) = outbox_of(workshop)
        assert message.options == {"broker_priority": ON_DEMAND_PRIORITY}

    def test_lets_what_an_operator_sent_again_run_at_once(
        self,
        workshop: Workshop,
        job: Job,  # noqa: ARG002
    ) -> None:
        leave(workshop, "retrying", budget_from=1)

        give_back(workshop.broker, workshop.database)

        (message,) = outbox_of(workshop)
        assert "eta" not in message.options

    def test_leaves_out_what_is_being_executed(self, workshop: Workshop, job: Job) -> None:  # noqa: ARG002
        leave(workshop, "running")

        with workshop.database.transaction() as session:
            session.execute(text("SELECT FROM job_runs FOR UPDATE"))
            assert give_back(workshop.broker, workshop.database) == 0

        assert give_back(workshop.broker, workshop.database) == 1

    def test_leaves_alone_what_is_rabbitmqs_or_nobodys(self, workshop: Workshop, job: Job) -> None:  # noqa: ARG002
        leave(workshop, "retrying", broker="rabbitmq")
        assert give_back(workshop.broker, workshop.database) == 0

        workshop.do("UPDATE job_runs SET broker = 'in-process', job = 'of another program'")
        assert give_back(workshop.broker, workshop.database) == 0
        assert outbox_of(workshop) == []


class TestResuming:
    def test_runs_what_was_killed_again(self, workshop: Workshop, job: Job) -> None:
        workshop.run_to_the_end(job)  # so that there are workers
        leave(workshop, "running")

        assert resume(workshop.broker, workshop.database) == 1

        assert workshop.wait_for_run("left").attempt == 2

    def test_lets_a_retry_wait_for_the_rest_of_its_delay(
        self, workshop: Workshop, job: Job
    ) -> None:
        workshop.run_to_the_end(job)
        leave(workshop, "retrying")

        assert resume(workshop.broker, workshop.database) == 1

        workshop.join()
        assert workshop.run("left").status == "retrying"
