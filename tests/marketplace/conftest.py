"""Fixtures of the marketplace's tests."""

from collections.abc import Iterator

import pytest

from tests.rig.postgres import Postgres
from workers.database import Database


@pytest.fixture(scope="module")
def shared_database(postgres: Postgres) -> Iterator[Database]:
    """One database for all tests of a module; each clears it before it begins."""
    url = postgres.create_database()
    database = Database(url)
    yield database
    database.close()
    postgres.drop_database(url)
