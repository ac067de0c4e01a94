"""The real commands together, on RabbitMQ and PostgreSQL, and what befalls them."""

import json
import signal
from datetime import timedelta
from typing import Any

import pytest

from tests.probes import PATIENCE_SECONDS, Service, log_lines
from tests.rig.ports import free_ports
from tests.rig.postgres import query
from tests.rig.processes import Process, Processes
from tests.rig.waiting import eventually
from workers.periodic import daily, every, utc_now

pytest_plugins = ["tests.probe_fixtures"]


class TestAJobThatFails:
    @pytest.mark.parametrize(
        ("job", "error"),
        [
            ("probe_last_statement_fails", "division by zero"),
            ("probe_commit_fails", "probe_orphans_parent_id_fkey"),
        ],
    )
    def test_is_rolled_back_tried_again_after_its_delay_and_then_a_dead_letter(
        self, service: Service, job: str, error: str
    ) -> None:
        worker = service.start_worker()

        # Given a job of one retry that fails each time
        key = service.send(job)

        # Then it ends as a dead letter, after two attempts, without an effect
        service.wait_for_dead_letters(key)
        run = service.run(key)
        assert (run.status, run.attempt, run.result) == ("dead", 2, None)
        assert run.error
        assert error in run.error
        assert service.effects() == 0
        assert service.ask("SELECT count(*) FROM probe_orphans") == 0

        # And was tried again when it should
        (retry,) = outcomes(worker, key, "retrying")
        assert 0.9 <= retry["delay_seconds"] <= 1.1
        assert [line["reason"] for line in outcomes(worker, key, "dead")]

    def test_logs_one_stack_trace_for_each_failure_with_the_names_of_the_run(
        self, service: Service
    ) -> None:
        worker = service.start_worker("default", "low")

        # Given a run on demand, and one for a slot
        slot = daily("02:00").slot_at(utc_now())
        on_demand = service.send("probe_last_statement_fails")
        scheduled = service.send("probe_nightly", queue="low", slot=slot, fails=True)
        service.wait_for_dead_letters(on_demand)
        service.wait_for_dead_letters(scheduled, queue="low")

        # Then each attempt has its line, and no line is without its names
        traces = [line for line in log_lines(worker) if "exception" in line]
        slot_name = f"{slot:%Y-%m-%dT%H:%M:%SZ}"
        assert sorted(
            (line["job"], line.get("slot"), line["attempt"], line["message_id"]) for line in traces
        ) == [
            ("probe_last_statement_fails", None, 1, on_demand),
            ("probe_last_statement_fails", None, 2, on_demand),
            ("probe_nightly", slot_name, 1, scheduled),
            ("probe_nightly", slot_name, 2, scheduled),
        ]
        assert all("probe_jobs.py" in json.dumps(line["exception"]) for line in traces)


class TestAWorkerThatIsKilled:
    def test_leaves_its_run_to_another_which_does_it_once(self, service: Service) -> None:
        # Given a worker in the middle of a run
        worker = service.start_worker()
        key = service.send("probe_gated", gate="gate")
        worker.wait_for_output("at the gate", timeout_seconds=PATIENCE_SECONDS)

        # When it is killed, then nothing is left of what it did
        worker.kill()
        assert (service.run(key).status, service.run(key).attempt) == ("running", 1)

        # And another does it all
        service.open_gate("gate")
        service.start_worker()
        run = service.wait_for_run(key)
        assert (run.status, run.attempt, run.result) == ("succeeded", 2, {"effects": 2})
        assert service.effects(key) == 2

    def test_in_the_middle_of_batches_loses_one_at_most(self, service: Service) -> None:
        # Given a job that has done two batches of five, and is about to commit the third
        service.do("INSERT INTO probe_rows SELECT generate_series(1, 10)")
        worker = service.start_worker()
        key = service.send("probe_batches", gated_row=5)
        worker.wait_for_output("at the gate", timeout_seconds=PATIENCE_SECONDS)
        assert service.run(key).result == {"rows": 4}

        # When its worker is killed
        worker.kill()
        assert service.ask("SELECT count(*) FROM probe_rows WHERE times = 1") == 4

        # Then the next one goes on from there, and the counts are those of both
        service.open_gate("batches")
        service.start_worker()
        run = service.wait_for_run(key)
        assert (run.status, run.attempt, run.result) == ("succeeded", 2, {"rows": 10})
        assert service.ask("SELECT count(*) FROM probe_rows WHERE times = 1") == 10

    @pytest.mark.parametrize("commit_is_completed", [True, False])
    def test_in_the_middle_of_commit_has_either_done_it_or_not(
        self, service: Service, *, commit_is_completed: bool
    ) -> None:
        # Given a worker that waits for the answer to COMMIT
        worker = service.start_worker()
        key = service.send("probe_long_commit")
        worker.wait_for_output("about to commit", timeout_seconds=PATIENCE_SECONDS)
        committing = "SELECT count(*) FROM pg_stat_activity WHERE query = 'COMMIT' AND state = :s"
        eventually(lambda: service.ask(committing, s="active") == 1)

        # When it is killed, and PostgreSQL goes on, or notices that nobody is there
        worker.kill()
        if commit_is_completed:
            service.open_gate("commit")
        eventually(lambda: service.ask(committing, s="active") == 0, timeout_seconds=30)
        assert service.effects(key) == int(commit_is_completed)

        # Then the next worker does it, or finds it done
        if not commit_is_completed:
            service.open_gate("commit")
        worker = service.start_worker()
        run = service.wait_for_run(key)
        assert run.attempt == (1 if commit_is_completed else 2)
        eventually(
            lambda: outcomes(worker, key, "duplicate" if commit_is_completed else "succeeded")
        )
        assert service.effects(key) == 1

    def test_between_commit_and_acknowledgement_has_done_it(self, service: Service) -> None:
        # Given a worker that is killed just then
        worker = service.start_worker()
        key = service.send("probe_killed_before_its_acknowledgement")
        assert worker.wait(timeout_seconds=PATIENCE_SECONDS) != 0
        assert (service.run(key).status, service.effects(key)) == ("succeeded", 1)

        # When its message is delivered again, then it is found done, and acknowledged
        worker = service.start_worker()
        worker.wait_for_output("killed before", timeout_seconds=PATIENCE_SECONDS)
        eventually(lambda: outcomes(worker, key, "duplicate"))
        worker.terminate()
        assert worker.wait(timeout_seconds=PATIENCE_SECONDS) == 0
        assert service.rabbitmq.queue_counts("default").ready == 0
        assert (service.run(key).attempt, service.effects(key)) == (1, 1)

    def test_by_its_message_takes_no_more_workers_along_than_there_are_attempts(
        self, service: Service
    ) -> None:
        # Given a job of one retry that kills its worker
        key = service.send("probe_kills_its_worker")
        for attempt in (1, 2):
            worker = service.start_worker()
            assert worker.wait(timeout_seconds=PATIENCE_SECONDS) != 0
            assert (service.run(key).status, service.run(key).attempt) == ("running", attempt)

        # Then the third worker puts it aside, and lives on
        service.start_worker()
        service.wait_for_dead_letters(key)
        run = service.run(key)
        assert (run.status, run.attempt) == ("dead", 2)
        assert service.effects() == 0
        assert service.wait_for_run(service.send("probe_effect")).status == "succeeded"


class TestSeveralOfEach:
    SLOTS = 10

    def test_do_the_work_of_each_slot_once(self, service: Service) -> None:
        # Given two schedulers and two workers
        workers = [service.start_worker("low") for _ in range(2)]
        for _ in range(2):
            service.start_scheduler()

        # When they have worked for a while
        def find_done() -> bool:
            runs = service.runs("probe_every_second")
            return sum(run.status == "succeeded" for run in runs) >= self.SLOTS

        eventually(find_done, timeout_seconds=90, message="Not enough slots succeeded")

        # Then no slot was done twice, or failed; one that came too late was left out
        with service.database.transaction() as session:
            succeeded, effects = (
                session.connection()
                .exec_driver_sql(
                    """
                    SELECT (SELECT count(*) FROM job_runs WHERE status = 'succeeded'
                                AND job = 'probe_every_second'),
                           (SELECT count(*) FROM probe_effects WHERE job = 'probe_every_second')
                    """
                )
                .one()
            )
        assert succeeded == effects
        runs = service.runs("probe_every_second")
        assert len({run.slot for run in runs}) == len(runs)
        assert {run.status for run in runs} <= {"succeeded", "skipped", "running"}
        assert {run.attempt for run in runs} <= {0, 1}
        assert all(run.slot == every(seconds=1).slot_at(run.slot) for run in runs if run.slot)

        # And it was offered twice: the schedulers did compete
        eventually(
            lambda: any(
                line.get("outcome") == "duplicate" for each in workers for line in log_lines(each)
            ),
            timeout_seconds=PATIENCE_SECONDS,
        )


def test_a_triggered_run_is_taken_before_scheduled_ones(service: Service) -> None:
    # Given slots that wait in a queue, and a run that somebody asks for after them
    now = utc_now()
    for number in range(3):
        slot = now - timedelta(seconds=number)
        service.send("probe_every_second", queue="low", slot=slot)
    done = service.processes.run(
        *("python", "-m", "workers", "trigger", "cleanup-long-inactive-chats", "--json"),
        env=service.env,
    )
    assert done.returncode == 0, done.stderr
    key = json.loads(done.stdout)["run_key"]

    # When a worker comes
    service.start_worker("low", threads=1)
    service.wait_for_run(key, "succeeded")
    eventually(
        lambda: len(service.runs("probe_every_second")) == 3, timeout_seconds=PATIENCE_SECONDS
    )

    # Then it begins with that one
    assert service.ask("SELECT run_key FROM job_runs ORDER BY id LIMIT 1") == key


class TestEverythingInOneProcess:
    JOBS = ("process_customer_service_queue", "auto_end_timeout_chats", "send_timeout_warnings")

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_runs_jobs_on_a_fresh_database_until_it_is_stopped(
        self, processes: Processes, empty_database_url: str, number: signal.Signals
    ) -> None:
        # Given a database without any table
        process = processes.start(
            "python", "-m", "workers", "run", env={"DATABASE_URL": empty_database_url}
        )

        # Then the jobs run there
        self.wait_for_jobs(process, empty_database_url)

        # And a signal ends it in good order
        process.send_signal(number)
        assert process.wait(timeout_seconds=PATIENCE_SECONDS) == 0
        rows = query(empty_database_url, "SELECT status, broker, attempt FROM job_runs")
        # One that came at the very end of its slot was left out, and one that the signal met
        # between two batches is for the next start; neither has used an attempt.
        assert {row.status for row in rows} <= {"succeeded", "skipped", "retrying"}
        assert all(row.attempt == (row.status == "succeeded") for row in rows)
        assert "Traceback" not in process.output
        assert {row.broker for row in rows} == {"in-process"}

    def test_says_loudly_that_rabbitmq_cannot_be_reached_and_goes_on_without(
        self, processes: Processes, empty_database_url: str
    ) -> None:
        (port,) = free_ports(1)
        env = {
            "DATABASE_URL": empty_database_url,
            "RABBITMQ_URL": f"amqp://guest:secret@127.0.0.1:{port}",
        }

        process = processes.start("python", "-m", "workers", "run", env=env)
        self.wait_for_jobs(process, empty_database_url)

        assert "RabbitMQ cannot be reached" in process.output
        assert "Falling back to the in-process broker" in process.output
        assert "secret" not in process.output
        process.terminate()
        assert process.wait(timeout_seconds=PATIENCE_SECONDS) == 0

    def wait_for_jobs(self, process: Process, url: str) -> None:
        process.wait_for_output("Stop with Ctrl+C", timeout_seconds=PATIENCE_SECONDS)

        def find_succeeded() -> set[str]:
            rows = query(url, "SELECT job FROM job_runs WHERE status = 'succeeded'")
            return {row.job for row in rows}

        eventually(
            lambda: find_succeeded().issuperset(self.JOBS),
            timeout_seconds=PATIENCE_SECONDS,
            message="The jobs did not run",
        )


def outcomes(process: Process, message_id: str, outcome: str) -> list[dict[str, Any]]:
    """Return the lines in which a process tells that a delivery of a message ended so."""
    return [
        line
        for line in log_lines(process)
        if (line.get("message_id"), line.get("outcome")) == (message_id, outcome)
    ]
