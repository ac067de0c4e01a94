"""The service with probe jobs, as a test drives it: in real processes, or within the test's own."""

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, cast

import dramatiq
from sqlalchemy import select, text

from tests.rig.processes import Process, Processes
from tests.rig.rabbitmq import RabbitMQ
from tests.rig.waiting import eventually
from workers import runs
from workers.broker import InProcessBroker, build_broker
from workers.database import Database
from workers.job import Job
from workers.models import JobRun
from workers.periodic import utc_now
from workers.rabbitmq import Rabbitmq
from workers.settings import Settings

MODULE = "tests.probe_jobs"
ENDED = ("succeeded", "dead", "skipped")
PATIENCE_SECONDS = 60

TABLES = """
    CREATE TABLE probe_effects (
        id bigint GENERATED ALWAYS AS IDENTITY,
        job text NOT NULL,
        message_id text NOT NULL
    );
    CREATE TABLE probe_rows (id bigint PRIMARY KEY, times int NOT NULL DEFAULT 0);
    CREATE TABLE probe_open_gates (name text PRIMARY KEY);
    CREATE TABLE probe_parents (id bigint PRIMARY KEY);
    CREATE TABLE probe_orphans (
        parent_id bigint REFERENCES probe_parents DEFERRABLE INITIALLY DEFERRED
    );
    CREATE TABLE probe_long_commits (gate text NOT NULL);
    CREATE FUNCTION wait_at_gate() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            WHILE NOT EXISTS (SELECT FROM probe_open_gates WHERE name = NEW.gate) LOOP
                PERFORM pg_sleep(0.02);
            END LOOP;
            RETURN NULL;
        END
    $$;
    CREATE CONSTRAINT TRIGGER long_commit AFTER INSERT ON probe_long_commits
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION wait_at_gate();
"""


class Ledger:
    """What can be seen in the database from outside."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def ask(self, question: str, **parameters: Any) -> Any:
        """Return one value."""
        with self.database.transaction() as session:
            return session.scalar(text(question), parameters)

    def do(self, statement: str, **parameters: Any) -> None:
        with self.database.transaction() as session:
            session.execute(text(statement), parameters)

    def effects(self, message_id: str | None = None) -> int:
        """Count the committed effects, of one message or of all."""
        every = "SELECT count(*) FROM probe_effects"
        if message_id is None:
            return int(self.ask(every))
        return int(self.ask(f"{every} WHERE message_id = :id", id=message_id))

    def run(self, run_key: str) -> JobRun:
        run = runs.find_run(self.database, run_key)
        assert run is not None, f"There is no run {run_key!r}"
        return run

    def runs(self, job: str) -> list[JobRun]:
        """Return the runs of a job, oldest first."""
        with self.database.transaction() as session:
            found = session.scalars(select(JobRun).where(JobRun.job == job).order_by(JobRun.id))
            return list(found)

    def wait_for_run(self, run_key: str, *statuses: str) -> JobRun:
        """Wait until the run of this key has one of the statuses; without any, until it ended."""

        def find() -> JobRun | None:
            run = runs.find_run(self.database, run_key)
            return run if run is not None and run.status in (statuses or ENDED) else None

        run = eventually(
            find,
            timeout_seconds=PATIENCE_SECONDS,
            message=f"The run {run_key!r} did not become {statuses or ENDED}",
        )
        assert run is not None
        return run


class Service(Ledger):
    """Workers and schedulers as child processes, and the broker between them."""

    def __init__(
        self,
        database: Database,
        database_url: str,
        rabbitmq: RabbitMQ,
        processes: Processes,
        *,
        queue_type: str = "classic",
    ) -> None:
        super().__init__(database)
        self.rabbitmq = rabbitmq
        self.processes = processes
        self.env = {
            "DATABASE_URL": database_url,
            "RABBITMQ_URL": rabbitmq.url,
            "RABBITMQ_QUEUE_TYPE": queue_type,
            # How soon a consumer looks whether RabbitMQ is back; 3 s unless told.
            "dramatiq_restart_delay": "200",
        }
        self._publisher = Rabbitmq(
            urls=[rabbitmq.url], queue_type=queue_type, middleware=list[dramatiq.Middleware]()
        )

    def start_worker(
        self,
        *queues: str,
        processes: int = 1,
        threads: int = 2,
        env: dict[str, str] | None = None,
    ) -> Process:
        """Start worker processes for some queues (`default` unless told), and wait for their boot.

        Returns:
            their main process.
        """
        worker = self.processes.start(
            *("dramatiq", "workers", MODULE),
            *("--processes", str(processes), "--threads", str(threads)),
            *("--queues", *(queues or ("default",))),
            env={**self.env, **(env or {})},
        )
        worker.wait_for_output(
            "ready for action", count=processes, timeout_seconds=PATIENCE_SECONDS
        )
        return worker

    def start_scheduler(self, *, env: dict[str, str] | None = None) -> Process:
        """Start periodiq, and wait until it has read the schedule."""
        scheduler = self.processes.start(
            "periodiq", "workers", MODULE, env={**self.env, **(env or {})}
        )
        scheduler.wait_for_output("probe_every_second", timeout_seconds=PATIENCE_SECONDS)
        return scheduler

    def declare(self, *queues: str) -> None:
        """Make queues, before anybody else does, with their delay and dead-letter queues."""
        for queue in queues:
            self._publisher.declare_queue(queue, ensure=True)

    def send(
        self,
        job: str,
        *,
        queue: str = "default",
        slot: datetime | None = None,
        due_at: datetime | None = None,
        **arguments: Any,
    ) -> str:
        """Put a message on a queue, for a slot or on demand, and return its id."""
        options: dict[str, Any] = {} if slot is None else {"scheduled_at": slot.isoformat()}
        message: dramatiq.Message[Any] = dramatiq.Message(
            queue_name=queue, actor_name=job, args=(), kwargs=arguments, options=options
        )
        delay = None if due_at is None else (due_at - utc_now()) // timedelta(milliseconds=1)
        self._publisher.enqueue(message, delay=delay)
        return message.message_id

    def send_again(self, job: str, message_id: str, *, queue: str = "default") -> None:
        """Put another copy of a message on its queue."""
        self._publisher.enqueue(
            dramatiq.Message(
                queue_name=queue,
                actor_name=job,
                args=(),
                kwargs={},
                options={},
                message_id=message_id,
            )
        )

    def open_gate(self, gate: str) -> None:
        """Let a job pass that stands at this gate, or will."""
        self.do("INSERT INTO probe_open_gates VALUES (:gate)", gate=gate)

    def dead_letters(self, queue: str = "default") -> list[str]:
        """Return the message ids of the dead letters of a queue."""
        if not self.rabbitmq.queue_counts(f"{queue}.XQ").ready:
            return []
        return [json.loads(each.body)["message_id"] for each in self.rabbitmq.peek(f"{queue}.XQ")]

    def wait_for_dead_letters(self, *message_ids: str, queue: str = "default") -> None:
        """Wait until exactly these messages are the dead letters of a queue."""
        eventually(
            lambda: sorted(self.dead_letters(queue)) == sorted(message_ids),
            timeout_seconds=PATIENCE_SECONDS,
            message=f"The dead letters are not {message_ids}",
        )

    def close(self) -> None:
        self._publisher.close()


def log_lines(process: Process) -> list[dict[str, Any]]:
    """Return what a process has logged so far, a dictionary for each line."""
    lines = []
    for line in process.output.splitlines():
        # The last one may be half-written.
        with suppress(ValueError):
            lines.append(json.loads(line))
    return [line for line in lines if isinstance(line, dict)]


@dataclass(frozen=True)
class Sent:
    """A message that was sent again, and how long it is to wait."""

    message_id: str
    delay_seconds: float
    options: dict[str, Any]


class Workshop(Ledger, dramatiq.Middleware):
    """Jobs written in the test, run by threads in the test's own process.

    All the middleware of a real worker is around them.
    """

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        broker = build_broker(Settings(), database, (), in_process=True)
        assert isinstance(broker, InProcessBroker)
        self.broker = broker
        self.broker.is_embedded = True
        self.broker.add_middleware(self)
        self.sent_again: list[Sent] = []
        self._worker: dramatiq.Worker | None = None

    def job(self, function: Callable[..., Any], **options: Any) -> Job:
        """Declare a job; its retries come at once unless `retry_delay_seconds` says otherwise."""
        options = {"retry_delay_seconds": 0.05, **options}
        declare = dramatiq.actor(actor_class=Job, broker=self.broker, **options)
        return cast("Job", declare(function))

    def send(self, job: Job, *, slot: datetime | None = None, **options: Any) -> str:
        """Send a message, for a slot or on demand, and return its id."""
        self._start()
        if slot is not None:
            options["scheduled_at"] = slot.isoformat()
        return str(job.send_with_options(**options).message_id)

    def send_again(self, job: Job, message_id: str, *, slot: datetime | None = None) -> None:
        """Deliver a message now, whatever has been sent or delivered with its id before."""
        self._start()
        options = {} if slot is None else {"scheduled_at": slot.isoformat()}
        self.broker.enqueue(job.message_with_options(**options).copy(message_id=message_id))

    def run_to_the_end(self, job: Job) -> JobRun:
        """Send a message, and return the run when it has ended."""
        return self.wait_for_run(self.send(job))

    def wait_until_sent_again(self, message_id: str) -> Sent:
        """Wait until a message was sent again, and return how it was, the last time."""
        return eventually(
            lambda: [sent for sent in self.sent_again if sent.message_id == message_id],
            timeout_seconds=PATIENCE_SECONDS,
            message="The message was not sent again",
        )[-1]

    def dead_letters(self) -> list[str]:
        return [message.message_id for message in self.broker.dead_letters]

    def join(self) -> None:
        """Wait until no message is on its way; those that wait for their time may go on waiting."""
        assert self._worker is not None
        # In this order: what was acknowledged may still be in the hands of a thread.
        queues = (self.broker.queues["default"], self._worker.work_queue)
        eventually(
            lambda: not any(queue.unfinished_tasks for queue in queues),
            timeout_seconds=PATIENCE_SECONDS,
            message="Messages are still on their way",
        )

    def after_enqueue(
        self,
        broker: dramatiq.Broker,  # noqa: ARG002 - dramatiq's signature
        message: dramatiq.Message[Any],
        delay: int | None,
    ) -> None:
        if delay is not None:
            self.sent_again.append(Sent(message.message_id, delay / 1000, message.options))

    def close(self) -> None:
        if self._worker is not None:
            self._worker.stop()
        self.broker.close()

    def _start(self) -> None:
        if self._worker is None:
            self._worker = dramatiq.Worker(self.broker, worker_threads=2, worker_timeout=50)
            self._worker.start()
