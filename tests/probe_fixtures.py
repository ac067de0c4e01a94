"""Fixtures around probe jobs, for modules with ``pytest_plugins = ["tests.probe_fixtures"]``."""

from collections.abc import Iterator

import pytest
from sqlalchemy import text

from tests.probes import TABLES, Service, Workshop
from tests.rig.processes import Processes
from tests.rig.rabbitmq import RabbitMQ
from workers.database import Database


@pytest.fixture
def probe_database(database: Database) -> Database:
    """A fresh database with the tables that probe jobs write into."""
    with database.transaction() as session:
        session.execute(text(TABLES))
    return database


@pytest.fixture
def service(
    probe_database: Database, database_url: str, clean_rabbitmq: RabbitMQ, processes: Processes
) -> Iterator[Service]:
    """The real commands with the jobs of `tests.probe_jobs`, on RabbitMQ."""
    service = Service(probe_database, database_url, clean_rabbitmq, processes)
    yield service
    # First what is connected, so that nothing complains that the broker's queues are gone.
    processes.kill_all()
    service.close()


@pytest.fixture
def workshop(probe_database: Database) -> Iterator[Workshop]:
    """The in-process broker with worker threads, for jobs that a test writes itself."""
    workshop = Workshop(probe_database)
    yield workshop
    workshop.close()
