"""The commands do what they say, for people and for programs, and fail in one line."""

import json
from typing import Any

import pytest
from sqlalchemy import text

from tests.rig.processes import Processes
from tests.rig.rabbitmq import RabbitMQ
from workers.database import Database

JOB = "auto_end_timeout_chats"


class Commands:
    """``python -m workers`` on one database, and perhaps a broker."""

    def __init__(self, processes: Processes, env: dict[str, str]) -> None:
        self.processes = processes
        self.env = env

    def __call__(self, *arguments: str, code: int = 0) -> str:
        done = self.processes.run("python", "-m", "workers", *arguments, env=self.env)
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout if code == 0 else done.stdout + done.stderr

    def json(self, *arguments: str, code: int = 0) -> Any:
        done = self.processes.run("python", "-m", "workers", *arguments, "--json", env=self.env)
        assert done.returncode == code, done.stdout + done.stderr
        return json.loads(done.stdout)


@pytest.fixture
def commands(processes: Processes, database_url: str) -> Commands:
    return Commands(processes, {"DATABASE_URL": database_url})


def test_help_and_no_arguments_show_the_commands(commands: Commands) -> None:
    for arguments in ((), ("--help",)):
        output = commands(*arguments)
        for command in ("run", "web", "migrate", "check", "jobs", "runs", "trigger", "simulate"):
            assert command in output
        assert "dead-letters" in output
        assert "standby" in output


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("frobnicate",), "No such command 'frobnicate'"),
        (("trigger", "make-coffee"), "there is no job 'make-coffee'"),
        (("trigger",), "Missing argument 'JOB'"),
        (("trigger", JOB, "--wait", "-1"), "--wait"),
        (("runs", "--limit", "0"), "--limit"),
        (("runs", "--status", "lost"), "--status"),
        (("runs", "--job", "make-coffee"), "there is no job 'make-coffee'"),
    ],
)
def test_wrong_arguments_get_one_line_and_exit_code_2(
    commands: Commands, arguments: tuple[str, ...], complaint: str
) -> None:
    output = commands(*arguments, code=2)

    assert complaint in output
    assert len(output.splitlines()) == 1


def test_trigger_without_a_broker_runs_the_job_here(commands: Commands) -> None:
    # When a run is triggered on the in-process broker, by the name written with dashes
    run = commands.json("trigger", JOB.replace("_", "-"))

    # Then it has ended, and is in the ledger like any other
    assert run["status"] == "succeeded"
    assert run["result"] == {"ended": 0}
    assert run["run_key"] == run["message_id"]
    assert run["slot"] is None
    assert commands.json("runs") == [run]


def test_runs_can_be_narrowed_down(commands: Commands) -> None:
    for job in (JOB, "send_timeout_warnings", JOB):
        commands("trigger", job)

    assert [run["job"] for run in commands.json("runs")] == [JOB, "send_timeout_warnings", JOB]
    assert len(commands.json("runs", "--job", JOB)) == 2
    assert len(commands.json("runs", "--limit", "1")) == 1
    assert commands.json("runs", "--status", "dead") == []
    assert JOB in commands("runs")


def test_an_error_is_shown_as_it_is(commands: Commands, database: Database) -> None:
    commands("trigger", JOB)
    with database.transaction() as session:
        session.execute(text("UPDATE job_runs SET status = 'dead', error = 'KeyError: [/b]'"))

    assert "KeyError: [/b]" in commands("runs")
    assert "dead" in commands("jobs")


def test_jobs_tells_queue_schedule_next_due_and_last_run(commands: Commands) -> None:
    commands("trigger", JOB)

    jobs = {job["job"]: job for job in commands.json("jobs")}

    assert jobs[JOB]["queue"] == "customer_service"
    assert jobs[JOB]["schedule"] == "every 30 s"
    assert jobs[JOB]["next_due"].endswith("Z")
    assert jobs[JOB]["last_run"]["status"] == "succeeded"
    assert jobs["cleanup_long_inactive_chats"]["last_run"] is None
    assert "daily at 02:00 UTC" in commands("jobs")


def test_a_failed_run_makes_trigger_fail(commands: Commands, database: Database) -> None:
    # Given a job that fails
    with database.transaction() as session:
        session.connection().exec_driver_sql("ALTER TABLE customer_service_chats RENAME TO gone")

    # Then waiting for its success is in vain, and the exit code says so
    done = commands.processes.run(
        "python", "-m", "workers", "trigger", JOB, "--wait", "1", env=commands.env
    )
    assert done.returncode == 1
    assert "retrying" in done.stdout
    assert "Error: the run did not succeed: it is retrying" in done.stderr


def test_migrate_can_be_repeated(processes: Processes, empty_database_url: str) -> None:
    commands = Commands(processes, {"DATABASE_URL": empty_database_url})

    assert "Applied" in commands("migrate")
    assert "Up to date" in commands("migrate")


@pytest.mark.parametrize("arguments", [("jobs",), ("runs",), ("trigger", JOB)])
def test_a_schema_that_is_behind_is_told_how_to_mend_it(
    processes: Processes, empty_database_url: str, arguments: tuple[str, ...]
) -> None:
    commands = Commands(processes, {"DATABASE_URL": empty_database_url})

    output = commands(*arguments, code=1)

    assert "run `python -m workers migrate`" in output
    assert len(output.splitlines()) == 1


def test_check_finds_nothing_wrong_with_a_good_set_up(
    processes: Processes, database_url: str, clean_rabbitmq: RabbitMQ
) -> None:
    env = {"DATABASE_URL": database_url, "RABBITMQ_URL": clean_rabbitmq.url}

    output = Commands(processes, env)("check")

    for subject in ("configuration", "database", "schema", "broker", "queues", "schedule"):
        assert f"ok    {subject}" in output


def test_check_names_each_thing_that_is_wrong(
    processes: Processes, empty_database_url: str
) -> None:
    env = {"DATABASE_URL": empty_database_url, "RABBITMQ_URL": "amqp://guest:guest@127.0.0.1:1"}

    output = Commands(processes, env)("check", code=1)

    assert "FAIL  schema" in output
    assert "FAIL  broker        RABBITMQ_URL: cannot connect" in output
    assert "guest:guest" not in output


def test_check_survives_a_database_that_is_away(processes: Processes) -> None:
    env = {"DATABASE_URL": "postgresql://user:secret@127.0.0.1:1/db"}

    output = Commands(processes, env)("check", code=1)

    assert "FAIL  database" in output
    assert "secret" not in output


def test_check_compares_the_arguments_of_queues(
    processes: Processes, database_url: str, clean_rabbitmq: RabbitMQ
) -> None:
    # Given a queue that somebody declared in another way
    with clean_rabbitmq.channel() as channel:
        channel.queue_declare("default", durable=True)
    env = {"DATABASE_URL": database_url, "RABBITMQ_URL": clean_rabbitmq.url}

    output = Commands(processes, env)("check", code=1)

    assert "FAIL  queues        default: " in output
    assert "x-dead-letter-exchange" in output
    assert "delete" in output


def test_trigger_through_rabbitmq_is_done_by_a_worker(
    processes: Processes, database_url: str, clean_rabbitmq: RabbitMQ
) -> None:
    # Given a worker
    env = {"DATABASE_URL": database_url, "RABBITMQ_URL": clean_rabbitmq.url}
    commands = Commands(processes, env)
    worker = processes.start("dramatiq", "workers", "--processes", "1", "--threads", "2", env=env)
    worker.wait_for_output("ready for action")

    # When a run is triggered, then it is the worker's, and the result is printed
    run = commands.json("trigger", JOB, "--wait", "20")
    assert run["status"] == "succeeded"
    assert run["result"] == {"ended": 0}

    # And without waiting, the key to find it by is printed
    enqueued = commands.json("trigger", JOB)
    assert enqueued["job"] == JOB
    assert enqueued["run_key"]


def test_trigger_says_when_rabbitmq_cannot_be_reached(
    processes: Processes, database_url: str
) -> None:
    env = {"DATABASE_URL": database_url, "RABBITMQ_URL": "amqp://127.0.0.1:1"}

    output = Commands(processes, env)("trigger", JOB, code=1)

    assert output.startswith("Error: RABBITMQ_URL: cannot publish")
    assert len(output.splitlines()) == 1
