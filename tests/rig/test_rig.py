"""The rig's own tests: if these fail, believe no other."""

import signal
from pathlib import Path

import psutil
import pytest
from pika.exceptions import AMQPConnectionError
from pydantic import AliasChoices
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError

from tests.rig.environment import SETTINGS
from tests.rig.postgres import Postgres, query
from tests.rig.processes import Processes
from tests.rig.rabbitmq import RabbitMQ
from tests.rig.statements import count_statements
from tests.rig.waiting import eventually


class TestWaiting:
    def test_returns_what_became_true(self) -> None:
        values = iter([None, 0, "there"])
        assert eventually(lambda: next(values)) == "there"

    def test_tells_the_last_value_when_it_gives_up(self) -> None:
        with pytest.raises(AssertionError, match=r"No cake .*last value: \[\]"):
            eventually(list, timeout_seconds=0, message="No cake")


class TestEnvironment:
    def test_every_setting_of_the_service_is_kept_from_the_tests(self) -> None:
        from workers.settings import Settings

        for name, field in Settings.model_fields.items():
            alias = field.validation_alias
            names = alias.choices if isinstance(alias, AliasChoices) else [name.upper()]
            assert SETTINGS.issuperset(str(each) for each in names)

    def test_every_test_starts_in_an_empty_folder(self) -> None:
        assert list(Path.cwd().iterdir()) == []


class TestPostgres:
    def test_gives_each_test_a_database_of_its_own(self, postgres: Postgres) -> None:
        first = postgres.create_database(is_migrated=False)
        second = postgres.create_database(is_migrated=False)
        query(first, "CREATE TABLE only_here (id int)")
        assert query(second, "SELECT to_regclass('only_here')") == [(None,)]
        postgres.drop_database(first)
        postgres.drop_database(second)

    def test_drops_a_database_that_is_still_in_use(self, postgres: Postgres) -> None:
        url = postgres.create_database(is_migrated=False)
        engine = create_engine(url)
        with engine.connect() as connection:
            postgres.drop_database(url)
            with pytest.raises(OperationalError):
                connection.execute(text("SELECT 1"))
        engine.dispose()

    def test_comes_back_after_a_restart_with_its_data(
        self, postgres: Postgres, empty_database_url: str
    ) -> None:
        query(empty_database_url, "CREATE TABLE kept (id int)")
        postgres.stop()
        with pytest.raises(OperationalError):
            query(empty_database_url, "SELECT 1")
        postgres.start()
        assert query(empty_database_url, "SELECT * FROM kept") == []

    def test_migrated_databases_have_the_schema(self, database_url: str) -> None:
        assert query(database_url, "SELECT to_regclass('job_runs')::text") == [("job_runs",)]

    def test_counts_statements(self, empty_database_url: str) -> None:
        engine = create_engine(empty_database_url)
        with count_statements(engine) as statements, engine.begin() as connection:
            connection.execute(text("CREATE TABLE t (id int)"))
            connection.execute(text("INSERT INTO t VALUES (:id)"), [{"id": 1}, {"id": 2}])
        engine.dispose()
        assert statements == ["CREATE TABLE t (id int)", *["INSERT INTO t VALUES (%(id)s)"] * 2]


class TestRabbitMQ:
    def test_keeps_messages_in_the_order_of_their_priority(self, clean_rabbitmq: RabbitMQ) -> None:
        with clean_rabbitmq.channel() as channel:
            channel.queue_declare("default", durable=True, arguments={"x-max-priority": 5})
        clean_rabbitmq.publish("default", b"scheduled")
        clean_rabbitmq.publish("default", b"asked for", priority=5)
        assert [each.body for each in clean_rabbitmq.peek("default")] == [
            b"asked for",
            b"scheduled",
        ]
        assert clean_rabbitmq.queue_counts("default").ready == 2

    def test_a_missing_queue_holds_nothing(self, clean_rabbitmq: RabbitMQ) -> None:
        assert clean_rabbitmq.queue_counts("default.XQ").ready == 0

    def test_comes_back_after_a_stop_with_its_messages(self, clean_rabbitmq: RabbitMQ) -> None:
        with clean_rabbitmq.channel() as channel:
            channel.queue_declare("low", durable=True)
        clean_rabbitmq.publish("low", b"kept")
        clean_rabbitmq.stop()
        with pytest.raises(AMQPConnectionError):
            clean_rabbitmq.queue_counts("low")
        clean_rabbitmq.start()
        assert [each.body for each in clean_rabbitmq.peek("low")] == [b"kept"]

    def test_obeys_its_control_command(self, clean_rabbitmq: RabbitMQ) -> None:
        assert "guest" in clean_rabbitmq.ctl("list_users")


class TestProcesses:
    def test_runs_commands_of_the_virtual_environment(self, processes: Processes) -> None:
        done = processes.run("dramatiq", "--version")
        assert (done.returncode, done.stderr) == (0, "")

    def test_gives_a_command_the_settings_of_the_test_alone(self, processes: Processes) -> None:
        code = "import os; print(os.environ.get('LOG_LEVEL'), os.environ.get('DATABASE_URL'))"
        assert (
            processes.run("python", "-c", code, env={"LOG_LEVEL": "DEBUG"}).stdout == "DEBUG None\n"
        )

    def test_waits_for_output_and_for_the_end(self, processes: Processes) -> None:
        process = processes.start("python", "-c", "print('ready'); input(); print('never')")
        process.wait_for_output("ready")
        assert process.wait() == 1
        with pytest.raises(AssertionError, match=r"(?s)ended without writing 'never.*EOFError"):
            process.wait_for_output("never\n")

    def test_stops_by_signal(self, processes: Processes) -> None:
        process = processes.start("sleep", "60")
        process.terminate()
        assert process.wait() == -signal.SIGTERM

    def test_kills_what_a_command_left_behind(self, processes: Processes) -> None:
        process = processes.start("sh", "-c", "sleep 60 & echo $!")
        assert process.wait() == 0
        left_behind = psutil.Process(int(process.output))
        processes.kill_all()
        eventually(lambda: is_gone(left_behind))


def is_gone(process: psutil.Process) -> bool:
    # A killed orphan stays a zombie until the machine's first process, slow in some containers,
    # has asked for its exit code.
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
