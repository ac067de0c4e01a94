"""Fixtures for all tests: real servers, started once when first needed, and real processes."""

import os
import signal
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

from tests.rig.environment import REPOSITORY, forget_settings
from tests.rig.postgres import Postgres, open_postgres
from tests.rig.processes import Processes
from tests.rig.rabbitmq import PrivateRabbitMQ, RabbitMQ

if TYPE_CHECKING:
    from workers.database import Database

QUEUES = ("customer_service", "default", "low")

# Before anything imports the service: its settings are a test's to give, not the machine's.
EXTERNAL_RABBITMQ_URL = os.environ.get("RABBITMQ_URL")
EXTERNAL_DATABASE_URL = os.environ.get("TEST_DATABASE_URL")
forget_settings()

# Machines differ, and a slow example is no wrong one; a test that hangs is ended by its timeout.
hypothesis.settings.register_profile("tests", deadline=None, print_blob=True)
hypothesis.settings.load_profile("tests")

PRIVATE_RABBITMQ = pytest.StashKey[PrivateRabbitMQ]()


def pytest_configure() -> None:
    """Let SIGTERM, by which time limits and CI end us, tidy up as Ctrl-C does."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def pytest_xdist_auto_num_workers() -> int:
    """Run as many tests at once as keep the processor busy; on servers that are given, one."""
    if EXTERNAL_RABBITMQ_URL or EXTERNAL_DATABASE_URL:
        return 0
    return min(8, 1 + (os.cpu_count() or 1))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Begin to start RabbitMQ, if a test will want it: it boots while the first tests run."""
    is_wanted = any("rabbitmq" in getattr(item, "fixturenames", ()) for item in session.items)
    if is_wanted and not EXTERNAL_RABBITMQ_URL and not session.config.option.collectonly:
        session.config.stash[PRIVATE_RABBITMQ] = PrivateRabbitMQ()
        session.config.stash[PRIVATE_RABBITMQ].launch()


def pytest_unconfigure(config: pytest.Config) -> None:
    """End RabbitMQ, however the tests ended."""
    node = config.stash.get(PRIVATE_RABBITMQ, None)
    if node is not None:
        node.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the output of a failed test's processes to its report."""
    report = yield
    processes = getattr(item, "funcargs", {}).get("processes")
    if report.failed and isinstance(processes, Processes):
        report.sections += [(f"Output of `{name}`", text) for name, text in processes.reports()]
    return report


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run every test in an empty folder, where no ``.env`` and no ``.local`` of anybody lies."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The folder of this project."""
    return REPOSITORY


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A server; for all tests the same."""
    server = open_postgres(EXTERNAL_DATABASE_URL)
    yield server
    server.close()


@pytest.fixture
def database_url(postgres: Postgres) -> Iterator[str]:
    """A fresh database with the newest schema."""
    url = postgres.create_database()
    yield url
    postgres.drop_database(url)


@pytest.fixture
def empty_database_url(postgres: Postgres) -> Iterator[str]:
    """A fresh database without any table."""
    url = postgres.create_database(is_migrated=False)
    yield url
    postgres.drop_database(url)


@pytest.fixture
def database(database_url: str) -> Iterator["Database"]:
    """The service's own way to a fresh database with the newest schema."""
    from workers.database import Database

    database = Database(database_url)
    yield database
    database.close()


@pytest.fixture(scope="session")
def rabbitmq(pytestconfig: pytest.Config) -> RabbitMQ:
    """A broker; for all tests the same. It keeps its queues between them (see `clean_rabbitmq`)."""
    if EXTERNAL_RABBITMQ_URL:
        return RabbitMQ(EXTERNAL_RABBITMQ_URL)
    node = pytestconfig.stash[PRIVATE_RABBITMQ]
    node.start()
    return node


@pytest.fixture
def clean_rabbitmq(rabbitmq: RabbitMQ) -> RabbitMQ:
    """The broker, without any of the service's queues. Started again, if a test left it down."""
    rabbitmq.start()
    rabbitmq.delete_queues(QUEUES)
    return rabbitmq


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    """Starts real commands; kills what is left of them at the end of the test."""
    processes = Processes(tmp_path)
    yield processes
    processes.kill_all()
