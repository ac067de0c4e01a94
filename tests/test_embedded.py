"""Without a network between its parts, the service is the same one, and restarts lose nothing."""

from datetime import timedelta

from sqlalchemy import text

from tests.rig.processes import Processes
from tests.rig.waiting import eventually
from workers.database import Database
from workers.models import JobRun
from workers.periodic import utc_now

JOB = "auto_end_timeout_chats"


def status_of(database: Database, run_key: str) -> str | None:
    with database.transaction() as session:
        status: str | None = session.scalar(
            text("SELECT status FROM job_runs WHERE run_key = :key"), {"key": run_key}
        )
    return status


def leave_unfinished(database: Database, run_key: str, *, broker: str, status: str) -> None:
    with database.transaction() as session:
        session.add(
            JobRun(
                run_key=run_key,
                message_id=run_key,
                job=JOB,
                queue="customer_service",
                status=status,
                attempt=1,
                broker=broker,
                enqueued_at=utc_now() - timedelta(minutes=5),
            )
        )


def test_runs_that_a_restart_interrupted_are_taken_up_again(
    processes: Processes, database: Database, database_url: str
) -> None:
    # Given runs that an in-process broker held in memory when it ended, and one of RabbitMQ's
    leave_unfinished(database, "killed", broker="in-process", status="running")
    leave_unfinished(database, "waiting-for-retry", broker="in-process", status="retrying")
    leave_unfinished(database, "on-rabbitmq", broker="rabbitmq", status="retrying")

    # When the service starts again
    service = processes.start("python", "-m", "workers", "run", env={"DATABASE_URL": database_url})

    # Then the first two are finished, and the third is left to RabbitMQ
    for run_key in ("killed", "waiting-for-retry"):
        eventually(
            lambda run_key=run_key: status_of(database, run_key) == "succeeded",  # type: ignore[misc]
            timeout_seconds=30,
        )
    assert status_of(database, "on-rabbitmq") == "retrying"
    service.terminate()
    assert service.wait() == 0


def test_run_on_an_unreachable_rabbitmq_says_so_and_goes_on(
    processes: Processes, database: Database, database_url: str
) -> None:
    env = {"DATABASE_URL": database_url, "RABBITMQ_URL": "amqp://guest:secret@127.0.0.1:1"}

    service = processes.start("python", "-m", "workers", "run", env=env)

    service.wait_for_output("✓ auto_end_timeout_chats")
    assert "RabbitMQ cannot be reached" in service.output
    assert "Falling back to the in-process broker" in service.output
    assert "secret" not in service.output
    with database.transaction() as session:
        assert set(session.scalars(text("SELECT broker FROM job_runs"))) == {"in-process"}


def test_run_without_pika_says_so_and_goes_on(processes: Processes, database_url: str) -> None:
    # Given a machine on which pika cannot be found
    code = (
        "import importlib.util, runpy, sys\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda n, *rest: n != 'pika' and find(n, *rest) or None\n"
        "sys.modules['pika'] = None\n"
        "sys.argv = ['workers', 'run']\n"
        "runpy.run_module('workers', run_name='__main__')\n"
    )
    env = {"DATABASE_URL": database_url, "RABBITMQ_URL": "amqp://guest:guest@127.0.0.1:5672"}

    service = processes.start("python", "-c", code, env=env)

    service.wait_for_output("✓ auto_end_timeout_chats")
    assert "pika cannot be imported" in service.output


def test_run_migrates_an_empty_database(processes: Processes, empty_database_url: str) -> None:
    env = {"DATABASE_URL": empty_database_url}

    service = processes.start("python", "-m", "workers", "run", "--sample-data", env=env)

    service.wait_for_output("✓ process_customer_service_queue")
    assert "rows of sample data" in service.output


def test_workers_and_schedulers_refuse_to_work_without_a_queue_to_share(
    processes: Processes, database_url: str
) -> None:
    env = {"DATABASE_URL": database_url}

    for command in (("dramatiq", "workers", "--processes", "1"), ("periodiq", "workers")):
        done = processes.run(*command, env=env)

        assert done.returncode == 2
        assert "Error: RABBITMQ_URL: is not set" in done.stderr
        assert "Traceback" not in done.stderr
