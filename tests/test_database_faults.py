"""Whatever becomes of PostgreSQL, failures become retries; no run is done without its effects."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import pytest
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import QueuePool

from tests.probes import PATIENCE_SECONDS, Service, Workshop, log_lines
from tests.rig.postgres import Postgres, query
from tests.rig.processes import Process
from tests.rig.proxy import Proxy, proxy_to_postgres
from tests.rig.waiting import eventually
from workers.database import Database
from workers.job import Run

pytest_plugins = ["tests.probe_fixtures"]

MODULE = "tests.standby_jobs"


@pytest.fixture
def wire(service: Service) -> Iterator[Proxy]:
    """What connects the service, not the test, to PostgreSQL."""
    wire, service.env["DATABASE_URL"] = proxy_to_postgres(service.env["DATABASE_URL"])
    yield wire
    service.processes.kill_all()
    wire.close()


def start_worker(service: Service) -> Process:
    worker = service.processes.start(
        *("dramatiq", "workers", MODULE, "--processes", "1", "--threads", "3"),
        *("--queues", "default"),
        env=service.env,
    )
    worker.wait_for_output("ready for action", timeout_seconds=PATIENCE_SECONDS)
    return worker


class Scene:
    """Workers in the middle of their work, and what can be done to their database."""

    def __init__(self, service: Service, wire: Proxy, postgres: Postgres) -> None:
        self.service = service
        self.wire = wire
        self.postgres = postgres
        self.keys: list[str] = []
        service.declare("default")
        self.workers = [start_worker(service) for _ in range(2)]

    def send_work(self) -> list[str]:
        """Send runs that take a while, and others, and wait until they are under way."""
        keys = [self.service.send("take_long") for _ in range(4)]
        keys += [self.service.send("on_demand", key="key") for _ in range(8)]
        eventually(
            lambda: self._count("status = 'running'", keys),
            timeout_seconds=PATIENCE_SECONDS,
            message="Nothing is under way",
        )
        self.keys += keys
        return keys

    def wait_until_done(self, keys: list[str]) -> None:
        eventually(
            lambda: self._count("status = 'succeeded'", keys) == len(keys),
            timeout_seconds=2 * PATIENCE_SECONDS,
            message="Not everything was done",
        )

    def cut_connections_at_random(self) -> None:
        for _ in range(15):
            query(
                self.postgres.url,
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE application_name = 'workers' AND random() < 0.3",
            )

    def restart(self) -> None:
        self.postgres.restart()

    def cut_off(self) -> None:
        """Until a message has come in vain."""
        before = self._postponed()
        self.wire.cut()
        eventually(lambda: self._postponed() > before, timeout_seconds=PATIENCE_SECONDS)
        self.wire.restore()

    def stand_still(self) -> None:
        """Until whoever is under way must be stuck."""
        self.wire.pause()
        stuck_until = time.monotonic() + 2
        eventually(lambda: time.monotonic() > stuck_until)
        self.wire.restore()

    def _count(self, condition: str, keys: list[str]) -> int:
        # The test's own connections suffer too.
        with suppress(SQLAlchemyError):
            question = f"SELECT count(*) FROM job_runs WHERE {condition} AND run_key = ANY(:keys)"
            return int(self.service.ask(question, keys=keys))
        return 0

    def _postponed(self) -> int:
        lines = [line for each in self.workers for line in log_lines(each)]
        return sum("OperationalError" in str(line.get("reason")) for line in lines)


@pytest.mark.timeout(300)
def test_the_service_recovers_from_each_fault_of_the_database(
    service: Service, wire: Proxy, postgres: Postgres
) -> None:
    # Given workers in the middle of their work
    scene = Scene(service, wire, postgres)
    for fault in (
        scene.cut_connections_at_random,
        scene.restart,
        scene.cut_off,
        scene.stand_still,
    ):
        keys = scene.send_work()

        # When something befalls the database
        fault()

        # Then all that was sent is done in the end
        scene.wait_until_done(keys)

    # And each run has its effects, once
    assert service.effects() == len(scene.keys)
    assert {service.effects(key) for key in scene.keys} == {1}
    assert service.ask("SELECT count(*) FROM job_runs WHERE status <> 'succeeded'") == 0
    assert [each.returncode for each in scene.workers] == [None, None]


def test_a_message_waits_while_the_pool_is_exhausted(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a process all of whose connections are in use
    pool = workshop.database.engine.pool
    assert isinstance(pool, QueuePool)
    monkeypatch.setattr(pool, "_timeout", 0.1)
    calls = []

    def work(run: Run) -> None:
        calls.append(run.key)

    job = workshop.job(work, actor_name="work")
    with ExitStack() as stack:
        taken = 0
        while taken < pool.size() + pool._max_overflow:
            stack.enter_context(workshop.database.lease())
            taken += 1
        key = workshop.send(job)

        # Then a message is put off, without an attempt
        workshop.wait_until_sent_again(key)
        assert calls == []

    # And it runs as soon as there is one again
    run = workshop.wait_for_run(key)
    assert (run.status, run.attempt) == ("succeeded", 1)


def test_a_failure_is_retried_though_the_pool_is_exhausted_when_it_is_recorded(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a run that fails while it, and others, hold all connections
    pool = workshop.database.engine.pool
    assert isinstance(pool, QueuePool)
    monkeypatch.setattr(pool, "_timeout", 0.1)
    is_over = threading.Event()
    stack = ExitStack()
    attempts = []

    def work(run: Run) -> None:
        attempts.append(run.key)
        if not is_over.is_set():
            # As many as there are: its own goes back when it has failed, and is taken too.
            with suppress(SQLAlchemyError):
                while True:
                    stack.enter_context(workshop.database.lease())
            threading.Thread(target=take_what_comes_free, daemon=True).start()
            raise LookupError("not found")

    def take_what_comes_free() -> None:
        with suppress(SQLAlchemyError):
            while not is_over.is_set():
                stack.enter_context(workshop.database.lease())

    job = workshop.job(work, actor_name="work")
    key = workshop.send(job)
    workshop.wait_until_sent_again(key)
    is_over.set()
    stack.close()

    run = workshop.wait_for_run(key)
    assert run.status == "succeeded"
    assert len(attempts) == run.attempt


def test_a_server_that_is_cut_off_without_a_word_is_given_up_soon(database_url: str) -> None:
    # Given a connection over a network: the kernel would try for a quarter of an hour
    wire, url = proxy_to_postgres(database_url)
    database = Database(url)
    with database.engine.connect() as connection:
        driver = connection.connection.driver_connection
        assert driver is not None
        with socket.socket(fileno=socket.dup(driver.fileno())) as wired:
            given_up_after = wired.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)

    assert given_up_after == 30_000
    database.close()
    wire.close()
