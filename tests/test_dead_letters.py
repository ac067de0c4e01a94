"""Dead letters can be looked at, sent again and dropped, and none is lost on the way."""

import json
import random
import sys
import tracemalloc
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import dramatiq
import pika
import pytest
from sqlalchemy import text

from tests import garbage
from tests.probes import Service
from tests.rig.processes import Processes
from tests.rig.rabbitmq import RabbitMQ
from tests.rig.waiting import eventually
from workers import outbox, runs
from workers.broker import build_broker
from workers.database import Database
from workers.dead_letters.ledger import DeadRuns
from workers.dead_letters.letters import Letter
from workers.dead_letters.queues import open_queues
from workers.job import QUEUES, Job, Run
from workers.models import JobRun
from workers.periodic import every, utc_now
from workers.rabbitmq import Rabbitmq
from workers.settings import Settings

pytest_plugins = ["tests.probe_fixtures"]

PATIENCE_SECONDS = 60
ERROR = "LookupError: not found\n\nTraceback (most recent call last):\n  in the middle of it"
SLOT = every(seconds=30).slot_at(utc_now() - timedelta(hours=1))


def probe_effect(run: Run) -> None: ...


def probe_every_second(run: Run) -> None: ...


class Graveyard:
    """Messages that died, of jobs that the real workers of `tests.probe_jobs` know too."""

    def __init__(self, database: Database, rabbitmq: RabbitMQ) -> None:
        self.database = database
        self.rabbitmq = rabbitmq
        broker = build_broker(Settings(rabbitmq_url=rabbitmq.url), database, ())
        assert isinstance(broker, Rabbitmq)
        self.broker = broker
        dramatiq.actor(actor_class=Job, broker=broker)(probe_effect)
        dramatiq.actor(actor_class=Job, broker=broker, queue_name="low", periodic=every(seconds=1))(
            probe_every_second
        )
        for queue in QUEUES:
            broker.declare_queue(queue, ensure=True)
        self._chance = random.Random()

    def bury(self, body: bytes, queue: str = "default", *, priority: int | None = None) -> None:
        """Have RabbitMQ dead-letter a message from a queue."""
        self.rabbitmq.publish(queue, body, priority=priority)
        with self.rabbitmq.channel() as channel:
            method, _, _ = channel.basic_get(queue)
            channel.basic_nack(method.delivery_tag, requeue=False)
        xq = f"{queue.removesuffix('.DQ')}.XQ"
        eventually(lambda: body in [each.body for each in self.rabbitmq.peek(xq, limit=1000)])

    def bury_run(
        self,
        *,
        slot: datetime | None = None,
        queue: str = "default",
        status: str | None = "dead",
        options: dict[str, Any] | None = None,
    ) -> str:
        """Leave behind what a run that used up its attempts leaves: a dead letter, and a row.

        Returns:
            the message's id.
        """
        job = "probe_effect" if slot is None else "probe_every_second"
        fields = garbage.good(self._chance, job=job, queue=queue)
        fields["options"] = options or {}
        if slot is not None:
            fields["options"] = {"scheduled_at": slot.isoformat()}
        message_id = str(fields["message_id"])
        if status is not None:
            with self.database.transaction() as session:
                session.add(
                    JobRun(
                        run_key=runs.run_key(job, slot, message_id),
                        job=job,
                        slot=slot,
                        message_id=message_id,
                        queue=queue.removesuffix(".DQ"),
                        status=status,
                        attempt=4,
                        finished_at=utc_now(),
                        error=ERROR,
                    )
                )
        self.bury(garbage.encode(fields), queue)
        return message_id

    def look(self, *queues: str, letter_id: str | None = None) -> list[Letter]:
        with open_queues(self.broker, self.database) as cabinet:
            return list(cabinet.look(queues or QUEUES, letter_id))

    def ids(self, *queues: str) -> list[str]:
        return [letter.id for letter in self.look(*queues)]

    def requeue(self, *queues: str, letter_id: str | None = None) -> list[str]:
        with open_queues(self.broker, self.database) as cabinet:
            return list(cabinet.requeue(queues or QUEUES, letter_id))

    def drop(self, *queues: str, letter_id: str | None = None) -> list[str]:
        with open_queues(self.broker, self.database) as cabinet:
            return list(cabinet.drop(queues or QUEUES, letter_id))

    def run(self, run_key: str) -> JobRun:
        run = runs.find_run(self.database, run_key)
        assert run is not None
        return run

    def lying_in(self, queue: str) -> list[dict[str, Any]]:
        return [json.loads(each.body) for each in self.rabbitmq.peek(queue)]


@pytest.fixture
def graveyard(probe_database: Database, clean_rabbitmq: RabbitMQ) -> Iterator[Graveyard]:
    graveyard = Graveyard(probe_database, clean_rabbitmq)
    yield graveyard
    graveyard.broker.close()


class TestLook:
    def test_tells_of_a_run_what_the_ledger_knows(self, graveyard: Graveyard) -> None:
        began = utc_now().replace(microsecond=0)
        message_id = graveyard.bury_run(slot=SLOT, queue="low")

        (letter,) = graveyard.look()

        assert (letter.id, letter.job, letter.slot) == (message_id, "probe_every_second", SLOT)
        assert letter.run_key == f"probe_every_second@{SLOT:%Y-%m-%dT%H:%M:%SZ}"
        assert (letter.queue, letter.status, letter.attempt) == ("low", "dead", 4)
        assert letter.dead_since
        assert letter.dead_since >= began
        assert letter.expires_at == letter.dead_since + timedelta(days=7)
        assert letter.report()["error"] == "LookupError: not found"
        assert letter.report(is_whole=True)["error"] == ERROR
        assert letter.body is None

    def test_tells_why_a_message_is_not_ours(self, graveyard: Graveyard) -> None:
        graveyard.bury(b"\xff\xfe what is this")

        (letter,) = graveyard.look()

        assert letter.error == "Its message was refused: its body is not JSON: UnicodeDecodeError"
        assert (letter.job, letter.run_key, letter.attempt) == (None, None, None)

    def test_finds_one_by_its_id_and_shows_all_of_it(self, graveyard: Graveyard) -> None:
        # Given a message without an id, among others
        graveyard.bury_run()
        graveyard.bury(b"\xff\xfe what is this")
        graveyard.bury_run(queue="low")
        letter_id = next(each for each in graveyard.ids() if each.startswith("body-"))

        # Then it has one that stays, by which it is found
        (letter,) = graveyard.look(letter_id=letter_id)
        assert letter.id == letter_id
        assert letter.body == "\\xff\\xfe what is this"

    def test_says_so_if_the_ledger_knows_nothing(self, graveyard: Graveyard) -> None:
        graveyard.bury_run(status=None)

        (letter,) = graveyard.look()

        assert letter.error == "The ledger does not know its run (rejected)."

    def test_changes_nothing(self, graveyard: Graveyard) -> None:
        ids = [graveyard.bury_run() for _ in range(5)]

        for _ in range(3):
            assert graveyard.ids() == ids
        assert graveyard.rabbitmq.queue_counts("default.XQ").ready == 5

    def test_can_stop_early(self, graveyard: Graveyard) -> None:
        ids = [graveyard.bury_run() for _ in range(5)]

        with open_queues(graveyard.broker, graveyard.database) as cabinet:
            letters = cabinet.look(QUEUES)
            assert next(letters).id == ids[0]
            letters.close()

            assert [letter.id for letter in cabinet.look(QUEUES)] == ids

    def test_of_queues_that_nobody_has_declared_yet_finds_nothing(
        self, graveyard: Graveyard
    ) -> None:
        graveyard.rabbitmq.delete_queues(QUEUES)
        assert graveyard.look() == []

    def test_keeps_one_message_in_memory_at_a_time(self, graveyard: Graveyard) -> None:
        # Given much more than anybody would want in memory
        for number in range(100):
            graveyard.rabbitmq.publish("default.XQ", b"%d" % number + b"x" * 1_000_000)
        tracemalloc.start()
        try:
            letters = graveyard.look()
            _, peak_bytes = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()

        assert len(letters) == 100
        assert peak_bytes < 20_000_000
        assert graveyard.rabbitmq.queue_counts("default.XQ").ready == 100

    def test_does_not_wear_letters_out_in_quorum_queues(
        self, probe_database: Database, clean_rabbitmq: RabbitMQ
    ) -> None:
        # RabbitMQ 4 drops from a quorum queue what was given back 20 times, unless told otherwise.
        broker = Rabbitmq(urls=[clean_rabbitmq.url], queue_type="quorum", middleware=[])
        broker.declare_queue("default", ensure=True)
        clean_rabbitmq.publish("default.XQ", b"not ours")

        for _ in range(25):
            with open_queues(broker, probe_database) as cabinet:
                assert len(list(cabinet.look(["default"]))) == 1
        for name, arguments in broker.queue_arguments("default").items():
            assert arguments["x-delivery-limit"] > 10**6, name
        broker.close()


class TestRequeue:
    def test_gives_a_run_a_fresh_budget_and_its_message_back_to_its_queue(
        self, graveyard: Graveyard
    ) -> None:
        message_id = graveyard.bury_run(options={"broker_priority": 5})

        assert graveyard.requeue(letter_id=message_id) == [message_id]

        run = graveyard.run(message_id)
        assert (run.status, run.attempt, run.budget_from) == ("retrying", 4, 4)
        assert graveyard.ids() == []
        (message,) = graveyard.lying_in("default")
        assert message["message_id"] == message_id
        assert message["options"] == {"broker_priority": 5}

    def test_takes_only_what_was_asked_for(self, graveyard: Graveyard) -> None:
        first, second = graveyard.bury_run(), graveyard.bury_run()
        low = [graveyard.bury_run(slot=SLOT, queue="low")]

        assert graveyard.requeue("low", letter_id=first) == []
        assert graveyard.requeue(letter_id=second) == [second]
        assert graveyard.ids() == [first, *low]
        assert graveyard.requeue("low") == low
        assert graveyard.ids() == [first]
        assert graveyard.requeue() == [first]
        assert graveyard.ids() == []
        assert graveyard.run(first).status == "retrying"

    def test_ends_the_wait_of_a_message_that_died_waiting(self, graveyard: Graveyard) -> None:
        eta = (utc_now() + timedelta(hours=1)).timestamp() * 1000
        message_id = graveyard.bury_run(queue="default.DQ", options={"eta": eta})

        graveyard.requeue()

        (message,) = graveyard.lying_in("default")
        assert message["message_id"] == message_id
        assert (message["queue_name"], message["options"]) == ("default", {})

    @pytest.mark.parametrize("queue", ["low", "low.DQ"])
    def test_returns_what_is_not_ours_as_it_is_to_where_it_came_from(
        self, graveyard: Graveyard, queue: str
    ) -> None:
        body = b'{"options": null, "message_id": 3}'
        graveyard.bury(body, queue)

        graveyard.requeue()

        assert graveyard.ids() == []
        assert [each.body for each in graveyard.rabbitmq.peek(queue)] == [body]

    def test_returns_what_came_from_nowhere_to_the_queue(self, graveyard: Graveyard) -> None:
        with graveyard.rabbitmq.channel() as channel:
            for headers in (None, {"x-death": "forged"}, {"x-death": [{"queue": "amq.other"}]}):
                properties = pika.BasicProperties(headers=headers)
                channel.basic_publish("", "default.XQ", b"?", properties)

        assert len(graveyard.requeue()) == 3

        assert [each.body for each in graveyard.rabbitmq.peek("default")] == [b"?"] * 3

    def test_marks_runs_of_jobs_that_only_the_workers_know(self, graveyard: Graveyard) -> None:
        slot_run = graveyard.bury_run(slot=SLOT, queue="low")
        on_demand = graveyard.bury_run()
        del graveyard.broker.actors["probe_effect"], graveyard.broker.actors["probe_every_second"]

        graveyard.requeue()

        assert graveyard.run(on_demand).status == "retrying"
        assert graveyard.run(f"probe_every_second@{SLOT:%Y-%m-%dT%H:%M:%SZ}").status == "retrying"
        assert graveyard.lying_in("low")[0]["message_id"] == slot_run

    def test_writes_down_a_slot_that_the_ledger_has_forgotten(self, graveyard: Graveyard) -> None:
        # Otherwise a worker would skip it, since a newer slot is due.
        graveyard.bury_run(slot=SLOT, queue="low", status=None)

        graveyard.requeue()

        run = graveyard.run(f"probe_every_second@{SLOT:%Y-%m-%dT%H:%M:%SZ}")
        assert (run.status, run.attempt, run.slot, run.queue) == ("retrying", 0, SLOT, "low")

    @pytest.mark.parametrize("status", ["running", "retrying", "succeeded"])
    def test_leaves_a_run_alone_that_is_not_dead(self, graveyard: Graveyard, status: str) -> None:
        message_id = graveyard.bury_run(status=status)

        assert graveyard.requeue() == [message_id]

        run = graveyard.run(message_id)
        assert (run.status, run.budget_from) == (status, 0)

    def test_declares_a_queue_again_that_was_deleted(self, graveyard: Graveyard) -> None:
        message_id = graveyard.bury_run()
        with graveyard.rabbitmq.channel() as channel:
            channel.queue_delete("default")

        graveyard.requeue()

        assert [each["message_id"] for each in graveyard.lying_in("default")] == [message_id]
        assert graveyard.ids() == []

    def test_keeps_the_letter_if_rabbitmq_does_not_take_the_message(
        self, graveyard: Graveyard, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        message_id = graveyard.bury_run()

        def refuse(*_: Any, **__: Any) -> None:
            raise pika.exceptions.NackError([])

        with monkeypatch.context() as patched:
            patched.setattr(
                pika.adapters.blocking_connection.BlockingChannel, "basic_publish", refuse
            )
            with pytest.raises(dramatiq.errors.ConnectionClosed):
                graveyard.requeue()

        assert graveyard.ids() == [message_id]
        assert graveyard.requeue() == [message_id]


class TestDrop:
    def test_removes_the_letter_and_leaves_the_row(self, graveyard: Graveyard) -> None:
        kept, dropped = graveyard.bury_run(), graveyard.bury_run()

        assert graveyard.drop(letter_id=dropped) == [dropped]

        assert graveyard.ids() == [kept]
        assert graveyard.run(dropped).status == "dead"
        assert graveyard.rabbitmq.queue_counts("default").ready == 0


class Commands:
    """``python -m workers dead-letters``, in processes that know the probe jobs."""

    PROGRAM = """
import os, signal, sys
import tests.probe_jobs
from workers import dead_runs
from workers.__main__ import main
from workers.dead_letters.queues import DeadLetterQueues
from workers.dead_letters.taken import Taken

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

def and_then_die(function):
    def wrapper(*args, **kwargs):
        function(*args, **kwargs)
        die()
    return wrapper

{patch}
sys.argv[0] = "workers"
sys.exit(main())
"""

    def __init__(self, service: Service) -> None:
        self.service = service

    def __call__(self, *arguments: str, code: int = 0, patch: str = "") -> str:
        program = self.PROGRAM.format(patch=patch)
        command = ("python", "-c", program, "dead-letters", *arguments)
        done = self.service.processes.run(*command, env=self.service.env)
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr


@pytest.fixture
def commands(service: Service) -> Commands:
    return Commands(service)


class TestWithWorkers:
    def test_a_run_that_was_sent_again_has_its_retries_and_counts_its_attempts_on(
        self, service: Service, commands: Commands
    ) -> None:
        # Given a run that used up its two attempts
        worker = service.start_worker()
        key = service.send("probe_last_statement_fails")
        service.wait_for_dead_letters(key)

        # When it is sent again, though nothing was mended
        assert commands("requeue", "--id", key) == f"Sent {key} again.\n"

        # Then it has two more, and is a dead letter again, once
        eventually(lambda: service.run(key).attempt == 4, timeout_seconds=PATIENCE_SECONDS)
        service.wait_for_run(key, "dead")
        service.wait_for_dead_letters(key)
        assert service.effects() == 0
        assert worker.returncode is None

    def test_a_run_that_nobody_marked_is_dead_lettered_again(
        self, service: Service, graveyard: Graveyard
    ) -> None:
        # Given a dead letter that somebody moved back by hand
        message_id = graveyard.bury_run()
        (letter,) = graveyard.rabbitmq.peek("default.XQ")
        graveyard.drop()
        graveyard.rabbitmq.publish("default", letter.body)

        service.start_worker()

        service.wait_for_dead_letters(message_id)
        assert service.effects() == 0

    def test_an_old_slot_is_run_again_under_its_own_key(
        self, service: Service, commands: Commands, graveyard: Graveyard
    ) -> None:
        graveyard.bury_run(slot=SLOT, queue="low")
        service.start_worker("low")

        commands("requeue", "--all", "--queue", "low")

        run = service.wait_for_run(f"probe_every_second@{SLOT:%Y-%m-%dT%H:%M:%SZ}", "succeeded")
        assert (run.attempt, service.effects()) == (5, 1)

    def test_sending_all_again_ends_though_all_of_them_fail_at_once(
        self, service: Service, commands: Commands, graveyard: Graveyard
    ) -> None:
        for number in range(50):
            graveyard.bury(b"not ours, number %d" % number)
        service.start_worker()

        assert json.loads(commands("requeue", "--all", "--json")) == {"requeued": 50}

        eventually(
            lambda: service.rabbitmq.queue_counts("default.XQ").ready == 50,
            timeout_seconds=PATIENCE_SECONDS,
        )

    @pytest.mark.parametrize(
        "patch",
        [
            "dead_runs.renew = die",
            "dead_runs.renew = and_then_die(dead_runs.renew)",
            "DeadLetterQueues._publish = and_then_die(DeadLetterQueues._publish)",
            "Taken.remove = die",
            "Taken.remove = and_then_die(Taken.remove)",
        ],
    )
    def test_a_kill_at_any_point_neither_loses_nor_doubles_it(
        self, service: Service, commands: Commands, graveyard: Graveyard, patch: str
    ) -> None:
        # Given a command that was killed in the middle of sending a letter again
        message_id = graveyard.bury_run()
        commands("requeue", "--all", patch=patch, code=-9)
        eventually(
            lambda: len(graveyard.lying_in("default") + graveyard.lying_in("default.XQ")) > 0,
            message="The message is lost",
        )

        # When it is given once more
        commands("requeue", "--all")
        service.start_worker()

        # Then the run has its effect, once, and nothing is left
        service.wait_for_run(message_id, "succeeded")
        eventually(lambda: service.rabbitmq.queue_counts("default").ready == 0)
        assert service.effects() == 1
        assert service.dead_letters() == []

    @pytest.mark.parametrize(
        ("arguments", "patch"),
        [
            (("list",), "Taken.describe = die"),
            (("list",), "Taken.describe = and_then_die(Taken.describe)"),
            (("drop", "--all", "--yes"), "Taken.remove = die"),
        ],
    )
    def test_a_kill_while_looking_or_dropping_loses_nothing_unasked(
        self, commands: Commands, graveyard: Graveyard, arguments: tuple[str, ...], patch: str
    ) -> None:
        ids = [graveyard.bury_run() for _ in range(3)]

        commands(*arguments, patch=patch, code=-9)

        eventually(lambda: graveyard.ids() == ids)


class TestCommands:
    def test_list_is_what_it_does_unless_told(
        self, commands: Commands, graveyard: Graveyard
    ) -> None:
        assert commands() == commands("list") == "There are no dead letters.\n"
        assert commands("--json") == "[]\n"
        message_id = graveyard.bury_run()
        graveyard.bury(b"not ours", "low")

        for output in (commands(), commands("list")):
            first, second = output.splitlines()[1:]
            for part in ("probe_effect", "4", "default", message_id, "LookupError: not found"):
                assert part in first
            for part in ("unknown", "low", "body-", "Its message was refused"):
                assert part in second
        assert message_id not in commands("--queue", "low")
        assert message_id in commands("--queue", "default.XQ")

    def test_list_can_be_read_by_programs(self, commands: Commands, graveyard: Graveyard) -> None:
        ids = [graveyard.bury_run(), graveyard.bury_run()]

        letters = json.loads(commands("list", "--json"))

        assert [letter["id"] for letter in letters] == ids
        assert letters[0].keys() == {
            *("id", "queue", "job", "slot", "run_key", "status", "attempt", "error"),
            *("dead_since", "age_seconds", "expires_at"),
        }
        (letter,) = json.loads(commands("list", "--id", ids[1], "--json"))
        assert letter["error"] == ERROR
        assert json.loads(letter["body"])["message_id"] == ids[1]

    def test_list_of_one_prints_all_of_it(self, commands: Commands, graveyard: Graveyard) -> None:
        message_id = graveyard.bury_run()

        output = commands("list", "--id", message_id)

        assert f"id:          {message_id}" in output
        assert ERROR in output
        assert f'"message_id":"{message_id}"' in output

    def test_list_prints_nothing_that_a_terminal_obeys(
        self, commands: Commands, graveyard: Graveyard
    ) -> None:
        graveyard.bury(b"\x1b[31mred\x07 [/bold]")
        letter_id = graveyard.ids()[0]

        assert "\\x1b[31mred\\x07 [/bold]" in commands("list", "--id", letter_id)

    def test_list_of_very_many_says_how_many_there_are(
        self, commands: Commands, graveyard: Graveyard
    ) -> None:
        with graveyard.rabbitmq.channel() as channel:
            for number in range(130):
                channel.basic_publish("", "default.XQ", b"%d" % number)

        output = commands()
        assert len(output.splitlines()) == 102
        assert output.endswith("And 30 more; --all shows them.\n")
        assert len(commands("--all").splitlines()) == 131
        assert len(json.loads(commands("--json"))) == 130

    def test_drop_asks_first(self, commands: Commands, graveyard: Graveyard) -> None:
        message_id = graveyard.bury_run()

        # Nobody answers
        output = commands("drop", "--all", code=1)
        assert "Drop all dead letters of customer_service, default, low (1 now)?" in output
        assert output.splitlines()[-1] == "Error: nothing was dropped; answer y, or pass --yes"
        assert graveyard.ids() == [message_id]

        # Somebody does
        workers = f"{sys.executable} -m workers"
        command = f"echo y | {workers} dead-letters drop --id {message_id}"
        done = commands.service.processes.run("sh", "-c", command, env=commands.service.env)
        assert (done.returncode, done.stdout) == (0, f"Dropped {message_id}.\n")
        assert graveyard.ids() == []

        # Nobody is asked
        message_id = graveyard.bury_run()
        assert commands("drop", "--id", message_id, "--yes") == f"Dropped {message_id}.\n"
        assert graveyard.ids() == []
        assert json.loads(commands("drop", "--all", "--yes", "--json")) == {"dropped": 0}

    @pytest.mark.parametrize(
        "arguments", [("list", "--id", "no-such"), ("requeue", "--id", "no-such")]
    )
    def test_an_id_that_is_not_there_is_a_failure(
        self, commands: Commands, arguments: tuple[str, ...]
    ) -> None:
        assert commands(*arguments, code=1) == "Error: there is no dead letter 'no-such'\n"

    @pytest.mark.parametrize(
        ("arguments", "complaint"),
        [
            (("bury",), "'bury' is not one of 'list', 'requeue', 'drop'"),
            (("requeue",), "say which to requeue: --id ID, or --all"),
            (("drop", "--queue", "low"), "say which to drop: --id ID, or --all"),
            (("requeue", "--all", "--id", "x"), "--id and --all contradict each other"),
            (("--queue", "high"), "there is no queue 'high'"),
        ],
    )
    def test_wrong_arguments_get_one_line_and_exit_code_2(
        self, commands: Commands, arguments: tuple[str, ...], complaint: str
    ) -> None:
        output = commands(*arguments, code=2)
        assert complaint in output
        assert len(output.splitlines()) == 1

    @pytest.mark.parametrize("arguments", [(), ("requeue", "--all"), ("drop", "--all", "--yes")])
    def test_an_unreachable_rabbitmq_gets_one_line(
        self, processes: Processes, database_url: str, arguments: tuple[str, ...]
    ) -> None:
        env = {"DATABASE_URL": database_url, "RABBITMQ_URL": "amqp://user:secret@127.0.0.1:1"}

        done = processes.run("python", "-m", "workers", "dead-letters", *arguments, env=env)

        assert done.returncode == 1
        assert done.stderr.startswith("Error: RABBITMQ_URL: RabbitMQ failed: ")
        assert len(done.stderr.splitlines()) == 1
        assert "secret" not in done.stderr


class TestInProcess:
    """Without RabbitMQ the ledger is all there is."""

    JOB = "auto_end_timeout_chats"

    @pytest.fixture
    def dead_run(self, database: Database) -> str:
        with database.transaction() as session:
            for broker in ("in-process", "rabbitmq"):
                session.add(
                    JobRun(
                        run_key=f"of-{broker}",
                        job=self.JOB,
                        message_id=f"of-{broker}",
                        queue="customer_service",
                        broker=broker,
                        status="dead",
                        attempt=4,
                        finished_at=utc_now(),
                        error=ERROR,
                    )
                )
        return "of-in-process"

    def command(
        self, processes: Processes, database_url: str, *arguments: str, code: int = 0
    ) -> str:
        done = processes.run(
            *("python", "-m", "workers", "dead-letters", *arguments),
            env={"DATABASE_URL": database_url},
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def test_list_shows_dead_runs(
        self, processes: Processes, database_url: str, dead_run: str
    ) -> None:
        letters = json.loads(self.command(processes, database_url, "--json"))
        assert [(each["id"], each["attempt"], each["status"]) for each in letters] == [
            (dead_run, 4, "dead")
        ]
        assert "LookupError" in self.command(processes, database_url)
        assert "in the middle" in self.command(processes, database_url, "--id", dead_run)
        assert self.command(processes, database_url, "--queue", "low", "--json") == "[]\n"

    def test_requeue_has_the_next_run_resume_them(
        self, processes: Processes, database: Database, database_url: str, dead_run: str
    ) -> None:
        output = self.command(processes, database_url, "requeue", "--all")
        assert output == f"Sent {dead_run} again.\n"

        service = processes.start(
            "python", "-m", "workers", "run", env={"DATABASE_URL": database_url}
        )

        def status() -> str | None:
            run = runs.find_run(database, dead_run)
            return run.status if run else None

        eventually(lambda: status() == "succeeded", timeout_seconds=PATIENCE_SECONDS)
        run = runs.find_run(database, dead_run)
        assert run
        assert run.attempt == 5
        service.terminate()
        assert service.wait() == 0
        with database.transaction() as session:
            others = session.scalars(text("SELECT status FROM job_runs WHERE broker = 'rabbitmq'"))
            assert list(others) == ["dead"]

    def test_requeue_of_a_slot_leaves_nothing_in_the_outbox(
        self, processes: Processes, database: Database, database_url: str
    ) -> None:
        # Given a slot whose run is dead
        slot = every(seconds=30).slot_at(utc_now() - timedelta(minutes=5))
        key = runs.run_key(self.JOB, slot, "")
        with database.transaction() as session:
            session.add(
                JobRun(
                    run_key=key,
                    job=self.JOB,
                    slot=slot,
                    message_id="of a slot",
                    queue="customer_service",
                    broker="in-process",
                    status="dead",
                    attempt=4,
                    finished_at=utc_now(),
                )
            )

        def unpublished() -> int:
            with database.transaction() as session:
                query = "SELECT count(*) FROM outbox_messages WHERE published_at IS NULL"
                return int(session.scalar(text(query)) or 0)

        # When it is sent again, and done
        self.command(processes, database_url, "requeue", "--all")
        assert unpublished() == 1
        processes.start("python", "-m", "workers", "run", env={"DATABASE_URL": database_url})

        # Then its message counts as published
        eventually(lambda: unpublished() == 0, timeout_seconds=PATIENCE_SECONDS)
        run = runs.find_run(database, key)
        assert run
        assert run.status == "succeeded"

    def test_requeue_sends_what_the_outbox_sent_with_its_arguments(
        self, database: Database, dead_run: str
    ) -> None:
        sent: dramatiq.Message[Any] = dramatiq.Message(
            queue_name="customer_service",
            actor_name=self.JOB,
            args=(7,),
            kwargs={"why": "asked"},
            options={},
            message_id=dead_run,
        )
        with database.transaction() as session:
            outbox.enqueue_many(session, [sent])

        assert list(DeadRuns(database, {self.JOB}).requeue(["customer_service"])) == [dead_run]

        with database.transaction() as session:
            bodies = session.scalars(text("SELECT body FROM outbox_messages ORDER BY id"))
            first, again = (dramatiq.Message.decode(body.encode()) for body in bodies)
        assert (again.args, again.kwargs) == (first.args, first.kwargs)
        assert (list(again.args), again.kwargs) == ([7], {"why": "asked"})

    def test_those_of_a_standby_are_found_beside_those_in_rabbitmq(
        self, service: Service, dead_run: str
    ) -> None:
        def command(*arguments: str) -> str:
            done = service.processes.run(
                *("python", "-m", "workers", "dead-letters", *arguments), env=service.env
            )
            assert done.returncode == 0, done.stdout + done.stderr
            return done.stdout

        assert [each["id"] for each in json.loads(command("--json"))] == [dead_run]
        assert command("requeue", "--all") == f"Sent {dead_run} again.\n"
        assert command("--json") == "[]\n"
        assert service.ask("SELECT message_id FROM outbox_messages") == dead_run

    def test_drop_explains_that_there_is_nothing_to_drop(
        self, processes: Processes, database_url: str, dead_run: str
    ) -> None:
        output = self.command(processes, database_url, "drop", "--id", dead_run, "--yes", code=2)
        assert "the rows of dead runs stay in the ledger" in output
        assert len(output.splitlines()) == 1
