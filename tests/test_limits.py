"""A run that takes too long is interrupted; one that cannot be, is ended with its process."""

import re
import time
from collections.abc import Callable
from typing import Any

import pytest
from dramatiq.middleware import TimeLimitExceeded
from sqlalchemy import text

from tests.probes import PATIENCE_SECONDS, Service, Workshop, log_lines
from workers.broker import check_actors
from workers.job import Run
from workers.settings import ConfigurationError

pytest_plugins = ["tests.probe_fixtures"]


def work(run: Run) -> None:
    have_effect(run)
    while True:
        time.sleep(0.01)


def wait_for_postgresql(run: Run) -> None:
    have_effect(run)
    run.session.execute(text("SELECT pg_sleep(60)"))


def wait_again_and_again(run: Run) -> None:
    have_effect(run)
    while True:
        # Each statement is short enough for any statement_timeout.
        run.session.execute(text("SELECT pg_sleep(0.01)"))


def have_effect(run: Run) -> None:
    run.session.execute(text("INSERT INTO probe_effects (job, message_id) VALUES ('job', '')"))


class TestTheSoftLimit:
    @pytest.mark.parametrize("job", [work, wait_for_postgresql, wait_again_and_again])
    def test_is_an_ordinary_failure_wherever_it_finds_the_run(
        self, workshop: Workshop, job: Callable[[Run], Any]
    ) -> None:
        run = workshop.run_to_the_end(workshop.job(job, max_retries=1, soft_time_limit_seconds=0.1))

        assert (run.status, run.attempt) == ("dead", 2)
        assert run.error
        # Whichever of the two notices first.
        assert re.match(r"TimeLimitExceeded|OperationalError: .* statement timeout", run.error)
        assert f"in {job.__name__}" in run.error
        assert workshop.effects() == 0

    def test_can_be_noticed_by_the_job(self, workshop: Workshop) -> None:
        def job(run: Run) -> dict[str, int]:
            try:
                work(run)
            except TimeLimitExceeded:
                return {"tidied_up": 1}
            return {}

        run = workshop.run_to_the_end(workshop.job(job, soft_time_limit_seconds=0.1))

        assert (run.status, run.attempt, run.result) == ("succeeded", 1, {"tidied_up": 1})

    def test_reaches_no_run_but_the_one_that_is_beyond_it(self, workshop: Workshop) -> None:
        # Given jobs that are interrupted, and others that follow at once on their threads and their
        # connections
        slow, quick = [], []
        for number in range(4):
            options = {"max_retries": 0, "soft_time_limit_seconds": 0.1}
            job = workshop.job(wait_again_and_again, actor_name=f"slow_{number}", **options)
            slow.append(workshop.send(job))
            quick.append(workshop.send(workshop.job(have_effect, actor_name=f"quick_{number}")))

        # Then these succeed at the first attempt
        assert [workshop.wait_for_run(key).status for key in slow] == ["dead"] * 4
        runs = [workshop.wait_for_run(key) for key in quick]
        assert [(run.status, run.attempt) for run in runs] == [("succeeded", 1)] * 4
        assert workshop.effects() == 4

    def test_holds_on_the_server_too(self, service: Service) -> None:
        # PostgreSQL ends the statement by itself, should this process not live to do it.
        worker = service.start_worker()
        key = service.send("probe_beyond_its_soft_limit")

        service.wait_for_dead_letters(key)
        (line,) = [line for line in log_lines(worker) if line["event"] == "working"]
        assert line["statement_timeout"] == "500ms"
        assert service.effects() == 0


class TestTheHardLimit:
    def test_ends_the_process_and_costs_no_other_run_its_attempt(self, service: Service) -> None:
        # Given two worker processes, one with a run that nothing can interrupt, and other runs,
        # one of which waits for it
        workers = service.start_worker(processes=2, threads=2, env={"SHUTDOWN_GRACE_SECONDS": "3"})
        lost = service.send("probe_beyond_its_hard_limit")
        others = [
            service.send("probe_gated", gate="gate"),
            service.send("probe_gated_too", gate="gate"),
            service.send("probe_deaf_in_python"),
        ]
        workers.wait_for_output("at the gate", count=2, timeout_seconds=PATIENCE_SECONDS)
        workers.wait_for_output("working", count=2, timeout_seconds=PATIENCE_SECONDS)
        service.open_gate("deaf")

        # When it is beyond its hard limit
        workers.wait_for_output("beyond its hard time limit", timeout_seconds=PATIENCE_SECONDS)
        (line,) = [line for line in log_lines(workers) if line.get("level") == "critical"]
        assert (line["job"], line["attempt"]) == ("probe_beyond_its_hard_limit", 1)
        assert line["message_id"] == lost
        service.open_gate("gate")

        # Then its attempts are counted until it is a dead letter, without an effect
        service.wait_for_dead_letters(lost)
        run = service.run(lost)
        assert (run.status, run.attempt) == ("dead", 2)
        assert service.effects(lost) == 0

        # And the others are done at their first attempt, in spite of all
        for key in others:
            run = service.wait_for_run(key)
            assert (run.status, run.attempt) == ("succeeded", 1)

        # And nobody had to start the service again
        assert workers.returncode is None
        assert service.wait_for_run(service.send("probe_effect")).attempt == 1


def test_limits_in_the_wrong_order_are_found_at_the_start(workshop: Workshop) -> None:
    workshop.job(work, soft_time_limit_seconds=9, hard_time_limit_seconds=8)

    with pytest.raises(ConfigurationError, match=r"Actor\(work\).*less than hard_time_limit"):
        check_actors(workshop.broker)
