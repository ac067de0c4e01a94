"""The page lives when nothing else does, and says what is wrong and what to do."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
from sqlalchemy import text

from tests.rig.postgres import Postgres
from tests.rig.processes import Processes
from tests.rig.rabbitmq import RabbitMQ
from tests.rig.waiting import eventually
from tests.web import scenes
from tests.web.page import Page, Pages
from workers.database import Database

JOB = "check_expired_coupons"
PATIENCE_SECONDS = 60


def problems(page: Page) -> set[str]:
    """Return the codes of what keeps the service from being ready."""
    answer = page.get("/readyz", headers={"Accept": "application/json"})
    codes = {each["code"] for each in answer.json()["problems"]}
    assert answer.status_code == (503 if codes else 200)
    assert answer.json()["is_ready"] is not bool(codes)
    return codes


def wait_for(page: Page, *codes: str) -> None:
    seen: list[set[str]] = []

    def is_so() -> bool:
        seen.append(problems(page))
        return seen[-1] == set(codes)

    try:
        eventually(is_so, timeout_seconds=PATIENCE_SECONDS)
    except AssertionError:
        raise AssertionError(f"The problems are {seen[-1]}, not {set(codes)}") from None


@pytest.fixture
def page(pages: Pages, page_database: Database) -> Page:
    """A page on a database in which a scheduler and two workers live."""
    scenes.write_processes(page_database)
    return pages()


class TestReadyz:
    def test_is_ready_when_runs_can_take_place(self, page: Page) -> None:
        wait_for(page)
        assert page.get("/readyz").text == "ready\n"

    def test_says_that_no_scheduler_lives(self, page: Page, page_database: Database) -> None:
        with page_database.transaction() as session:
            session.execute(
                text("""
                    UPDATE service_processes SET seen_at = now() - interval '2 minutes'
                    WHERE kind = 'scheduler'
                """)
            )
        wait_for(page, "no_scheduler")

        said = page.get("/readyz").text
        assert "No scheduler is alive" in said
        assert "periodiq workers" in said
        shown = page.get("/").text
        assert "No scheduler is alive" in shown
        assert "scheduler-1:4" in shown
        assert "silent for 2 min" in shown

    def test_says_that_the_schema_is_behind(self, page: Page, page_database: Database) -> None:
        revision = page_database.engine.connect()
        with revision:
            head = revision.scalar(text("SELECT version_num FROM alembic_version"))
        move = text("UPDATE alembic_version SET version_num = :to")
        with page_database.transaction() as session:
            session.execute(move, {"to": "0001"})
        try:
            wait_for(page, "schema_behind")
            assert "python -m workers migrate" in page.get("/readyz").text
            assert "schema does not fit" in page.get("/").text
        finally:
            with page_database.transaction() as session:
                session.execute(move, {"to": head})
        wait_for(page)


class TestWithoutADatabase:
    def test_the_page_says_so_and_recovers(
        self, pages: Pages, page_database: Database, postgres: Postgres
    ) -> None:
        scenes.write_processes(page_database)
        page = pages.open()
        token = page.form_token()
        page_database.close()
        postgres.stop()
        try:
            wait_for(page, "database_away")

            assert page.get("/healthz").status_code == 200
            shown = page.get("/")
            assert shown.status_code == 200
            assert "The database cannot be reached" in shown.text
            assert "See that PostgreSQL is up" in shown.text
            # What is open to everybody does not tell the driver's words
            assert "connection to server" not in page.get("/readyz").text
            assert page.get(f"/jobs/{JOB}").status_code == 503
            for path in ("/runs", "/run?key=x", "/dead-letters"):
                answer = page.get(path, headers={"Accept": "text/html"})
                assert answer.status_code == 503
                assert "Traceback" not in answer.text
            refused = page.post(f"/jobs/{JOB}/run", {"form_token": token})
            assert refused.status_code == 503
            assert "jobs_database_up 0" in page.get("/metrics").text
        finally:
            postgres.start()
        scenes.write_processes(page_database)
        wait_for(page)

    def test_one_that_accepts_and_says_nothing_does_not_hang_the_page(
        self, processes: Processes
    ) -> None:
        with silent_server() as port:
            env = {"DATABASE_URL": f"postgresql://somebody:secret@127.0.0.1:{port}/x"}
            page = Page(processes, env).wait()

            # httpx would give up after 30 s
            shown = page.get("/").text
            assert "The database cannot be reached" in shown
            assert "secret" not in shown
            assert page.get("/runs").status_code == 503
            page.process.terminate()
            assert page.process.wait(timeout_seconds=25) == 0
            page.close()


@contextmanager
def silent_server() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


class TestWithoutRabbitmq:
    def test_the_page_says_so_and_recovers(
        self, pages: Pages, page_database: Database, clean_rabbitmq: RabbitMQ
    ) -> None:
        scenes.write_processes(page_database)
        page = pages.open(RABBITMQ_URL=clean_rabbitmq.url)
        wait_for(page)
        clean_rabbitmq.stop()

        wait_for(page, "broker_away")
        assert "python -m workers standby" in page.get("/readyz").text
        assert "RabbitMQ cannot be reached" in page.get("/").text
        assert page.get("/dead-letters").status_code == 503

        # A run can be asked for all the same: it waits in the outbox
        token = page.form_token()
        asked = page.post(f"/jobs/{JOB}/run", {"form_token": token})
        assert asked.status_code == 303
        waiting = page.get(asked.headers["location"])
        assert "Waits for a worker" in waiting.text

        clean_rabbitmq.start()
        scenes.write_processes(page_database)
        wait_for(page)


class TestThePort:
    def test_that_is_in_use_ends_web_in_one_line(self, page: Page, processes: Processes) -> None:
        done = processes.run("python", "-m", "workers", "web", env={"PORT": str(page.port)})
        assert done.returncode == 1
        assert done.stderr.startswith("Error: PORT: cannot listen on 127.0.0.1:")
        assert "is in use" in done.stderr
        assert len(done.stderr.splitlines()) == 1

    def test_that_is_in_use_keeps_run_from_nothing_but_the_page(
        self, page: Page, processes: Processes, database_url: str
    ) -> None:
        env = {"DATABASE_URL": database_url, "PORT": str(page.port)}
        service = processes.start("python", "-m", "workers", "run", env=env)
        service.wait_for_output("No operations page: PORT: cannot listen on")
        service.wait_for_output("✓ auto_end_timeout_chats")
        service.terminate()
        assert service.wait() == 0


def test_run_serves_the_page_and_ends_it_with_its_streams(pages: Pages) -> None:
    page = pages.open("run")
    page.process.wait_for_output(f"Operations page: http://127.0.0.1:{page.port}")
    wait_for(page)

    with httpx.stream("GET", f"{page.url}/events", timeout=30) as stream:
        assert next(stream.iter_lines()).startswith("retry")
        page.process.terminate()
        assert page.process.wait(timeout_seconds=15) == 0
