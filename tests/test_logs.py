"""What the log says of a run, whoever says it, and what nobody ever reads there."""

import json
import logging
import sys
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import dramatiq
import pytest
import structlog
from dramatiq.broker import MessageProxy
from dramatiq.brokers.stub import StubBroker
from sqlalchemy import make_url

from tests.probes import Workshop
from tests.rig.processes import Processes
from tests.rig.rabbitmq import RabbitMQ
from workers import logs, redaction
from workers.batches import Counts
from workers.job import Run
from workers.middleware.logs import LogContext
from workers.settings import Settings

pytest_plugins = ["tests.probe_fixtures"]

SECRET = "correct horse"
Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def log_as() -> Iterator[Callable[..., None]]:
    """Configure the log of this process, as it was before afterwards."""
    root, hook = logging.getLogger(), sys.excepthook
    handlers, level, configuration = root.handlers[:], root.level, structlog.get_config()
    yield logs.configure
    root.handlers, sys.excepthook = handlers, hook
    root.setLevel(level)
    structlog.configure(**configuration)


@pytest.fixture
def lines(log_as: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> Lines:
    """Return what was logged, in JSON."""
    stream = StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    log_as("json", "INFO")
    return lambda: [json.loads(line) for line in stream.getvalue().splitlines()]


@pytest.fixture
def secret(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(redaction, "_known", set())
    redaction.hide([SECRET])
    return SECRET


class TestALineOfARun:
    def test_names_the_run_and_its_time_so_far_also_from_libraries(
        self, workshop: Workshop, lines: Lines
    ) -> None:
        def job(_run: Run) -> Counts:
            logging.getLogger("some.library").warning("Slow answer")
            return {"done": 1}

        message_id = workshop.send(workshop.job(job))
        workshop.wait_for_run(message_id)
        workshop.join()
        written = lines()

        of_run = [line for line in written if line["event"] in ("Slow answer", "run")]
        assert [line["event"] for line in of_run] == ["Slow answer", "run"]
        for line in of_run:
            assert (line["job"], line["message_id"], line["attempt"]) == ("job", message_id, 1)
            assert line["duration_seconds"] > 0
        assert of_run[1]["result"] == {"done": 1}

    def test_tells_of_each_failure_with_one_stack_trace_and_no_variables(
        self, workshop: Workshop, lines: Lines
    ) -> None:
        def job(_run: Run) -> Counts:
            variable = [str(number) for number in range(3)]
            raise RuntimeError(f"no {len(variable)}")

        workshop.wait_for_run(workshop.send(workshop.job(job, max_retries=1)), "dead")
        workshop.join()
        written = lines()

        assert [line["outcome"] for line in written if line["event"] == "run"] == [
            "retrying",
            "dead",
        ]
        traces = [line["exception"] for line in written if "exception" in line]
        assert len(traces) == 2
        for trace in traces:
            assert "RuntimeError: no 3" in trace
            assert "test_logs.py" in trace
            assert trace.count("Traceback (most recent call last)") == 1
        assert "['0', '1', '2']" not in json.dumps(written)
        assert all("duration_seconds" in line for line in written if line["event"] == "run")

    def test_is_no_line_of_what_follows_in_its_thread(self, lines: Lines) -> None:
        broker = StubBroker(middleware=[LogContext()])
        message = MessageProxy(
            dramatiq.Message(queue_name="q", actor_name="job", args=(), kwargs={}, options={})
        )
        broker.emit_before("process_message", message)
        logging.getLogger("some.library").warning("Within")
        broker.emit_after("process_message", message)
        logging.getLogger("some.library").warning("After")

        names = {"job", "message_id", "duration_seconds"}
        assert [names & line.keys() for line in lines()] == [names, set()]


class TestSecrets:
    @pytest.mark.parametrize(
        ("text", "shown"),
        [
            ("amqp://me:hunter2@host/v", "amqp://me:***@host/v"),
            ("amqps://me:a%40b@h1;amqps://me:c:d@h2", "amqps://me:***@h1;amqps://me:***@h2"),
            (
                "at postgresql+psycopg2://me:p/w?@host:5/x.",
                "at postgresql+psycopg2://me:***@host:5/x.",
            ),
            ("host=h user=u password=hunter2 dbname=d", "host=h user=u password=*** dbname=d"),
            ("password='hunter 2' port=5", "password=*** port=5"),
            ("{'user': 'u', 'password': 'hunter2'}", "{'user': 'u', 'password': ***}"),
            ('{"password": "hunter2", "a": 1}', '{"password": ***, "a": 1}'),
            # What only mentions one
            ('password authentication failed for user "u"', None),
            ("https://example.org/a:b@c", None),
            ("amqp://host:5672/v", None),
        ],
    )
    def test_are_known_by_their_looks(self, text: str, shown: str | None) -> None:
        assert redaction.redacted(text) == (shown or text)

    def test_of_this_process_are_known_by_heart(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(redaction, "_known", set())
        settings = Settings(
            database_url="postgresql://me:horse%20battery@host/x",
            rabbitmq_url="amqp://me:staple-1@h;amqp://me:guest@h",
            ops_token="opensesame",  # type: ignore[arg-type]
        )
        redaction.hide(settings.secrets)

        said = redaction.redacted("horse battery, horse%20battery, staple-1, opensesame, guest")
        # Too short to be told from a word
        assert said == "***, ***, ***, ***, guest"

    @pytest.mark.parametrize("log_format", ["json", "console"])
    def test_are_in_no_line(
        self,
        log_as: Callable[..., None],
        capsys: pytest.CaptureFixture[str],
        secret: str,
        log_format: str,
    ) -> None:
        log_as(log_format, "INFO")
        log = logging.getLogger("some.library")
        with pytest.raises(OSError, match="No such file") as raised:
            Path(f"/nowhere/{secret}").read_text()
        log.error("It said %s", secret, extra={"also": [secret]}, exc_info=raised.value)
        sys.excepthook(raised.type, raised.value, raised.tb)

        written = capsys.readouterr().err
        assert secret not in written
        assert written.count("/nowhere/***'") == 2
        assert written.count("test_logs.py") >= 2

    def test_are_not_in_the_ledger(self, workshop: Workshop, secret: str) -> None:
        def job(_run: Run) -> Counts:
            raise OSError(f"no answer from amqp://me:hunter2@host, nor for {secret}")

        run = workshop.wait_for_run(workshop.send(workshop.job(job, max_retries=0)), "dead")

        assert run.error is not None
        assert "amqp://me:***@host, nor for ***" in run.error
        assert "hunter2" not in run.error
        # Not even in the lines of the stack trace
        assert run.error.count("***") >= 2


class TestAWrongPasswordInBothUrls:
    """Real servers refuse it, and real libraries complain."""

    PASSWORD = "wr0ng-Passw0rd"

    @pytest.fixture
    def env(self, clean_rabbitmq: RabbitMQ, database_url: str) -> dict[str, str]:
        node = make_url(clean_rabbitmq.url.split(";")[0]).set(password=self.PASSWORD)
        database = make_url(database_url).set(username="stranger", password=self.PASSWORD)
        return {
            "RABBITMQ_URL": node.render_as_string(hide_password=False),
            "DATABASE_URL": database.render_as_string(hide_password=False),
            "LOG_LEVEL": "DEBUG",
        }

    @pytest.mark.parametrize(
        "command", [("check",), ("jobs",), ("trigger", "cancel-expired-tasks"), ("migrate",)]
    )
    def test_stays_out_of_what_commands_say(
        self, processes: Processes, env: dict[str, str], command: tuple[str, ...]
    ) -> None:
        done = processes.run("python", "-m", "workers", *command, env=env)
        said = done.stdout + done.stderr
        assert done.returncode == 1
        assert "stranger" in said
        assert "Traceback" not in said
        assert self.PASSWORD not in said

    def test_stays_out_of_the_logs(self, processes: Processes, env: dict[str, str]) -> None:
        worker = processes.start("dramatiq", "workers", "--processes", "1", env=env)
        scheduler = processes.start("periodiq", "workers", env=env)
        worker.wait_for_output("ACCESS_REFUSED")
        worker.wait_for_output("stranger")
        scheduler.wait_for_output("The broker refused a slot")
        assert self.PASSWORD not in worker.output
        assert self.PASSWORD not in scheduler.output
