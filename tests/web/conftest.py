"""Fixtures for tests of the page: a module's tests share a database, and what serves it."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser

from tests.rig.postgres import Postgres
from tests.rig.processes import Processes
from tests.web.chromium import Visit, open_chromium
from tests.web.page import Page, Pages
from workers.database import Database


@pytest.fixture(scope="module")
def page_processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    """Starts processes that live as long as the module's tests."""
    processes = Processes(tmp_path_factory.mktemp("page"))
    yield processes
    processes.kill_all()


@pytest.fixture(scope="module")
def page_database(postgres: Postgres) -> Iterator[Database]:
    """A database that the module's tests share."""
    url = postgres.create_database()
    database = Database(url)
    yield database
    database.close()
    postgres.drop_database(url)


@pytest.fixture(scope="module")
def all_pages(page_processes: Processes, page_database: Database) -> Iterator[Pages]:
    pages = Pages(page_processes, page_database)
    yield pages
    pages.close()


@pytest.fixture
def pages(all_pages: Pages) -> Iterator[Pages]:
    """The pages of the module's database, each test with a browser jar of its own."""
    yield all_pages
    all_pages.forget_sessions()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with open_chromium() as browser:
        yield browser


@pytest.fixture
def visit(chromium: Browser) -> Iterator[Callable[..., Visit]]:
    """Opens windows on a page; whatever a page complains about there fails the test."""
    visits: list[Visit] = []

    def start(page: Page, **options: Any) -> Visit:
        visits.append(Visit(chromium, page.url, **options))
        return visits[-1]

    yield start
    complaints = [complaint for each in visits for complaint in each.complaints]
    for each in visits:
        each.close()
    assert complaints == []
