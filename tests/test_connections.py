"""How many connections the service needs, as `check` says; trap 16 counts the real ones."""

from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from sqlalchemy import NullPool, create_engine, text

from tests.probes import Service
from tests.rig.environment import REPOSITORY
from tests.rig.ports import free_ports
from tests.rig.postgres import query
from tests.rig.processes import Processes
from tests.rig.waiting import eventually
from workers.connections import Need, budget
from workers.database import Database

pytest_plugins = ["tests.probe_fixtures"]

CONNECTIONS_OF_THE_PAGE = """
    SELECT count(*) FROM pg_stat_activity
    WHERE application_name = 'workers' AND datname = current_database()
"""

THREADS = 3
WORKER = f"worker: dramatiq workers --queues default low --processes 1 --threads {THREADS}"


def need(*lines: str, **scale: int) -> Need:
    return budget("\n".join(lines), scale).total


class TestTheBudget:
    def test_is_the_sum_of_what_the_procfile_starts(self) -> None:
        worker, scheduler = need(WORKER), need("scheduler: periodiq workers")
        assert need(WORKER, "scheduler: periodiq workers") == Need(
            worker.rabbitmq + scheduler.rabbitmq, worker.postgresql + scheduler.postgresql
        )

    def test_grows_with_queues_threads_processes_and_their_number(self) -> None:
        relay = 1
        one = need("x: dramatiq workers --queues low --processes 1 --threads 1").rabbitmq - relay
        for more in (
            need("x: dramatiq workers --queues low default --processes 1 --threads 1"),
            need("x: dramatiq workers --queues low --processes 1 --threads 2"),
        ):
            assert more.rabbitmq > one + relay
        two = need("x: dramatiq workers --queues low --processes 2 --threads 1")
        assert two.rabbitmq == 2 * one + relay
        assert two == need("x: dramatiq workers -Q low -p 1 -t 1", x=2)

    def test_takes_dramatiqs_defaults_for_what_is_not_said(self) -> None:
        assert need("x: dramatiq workers -p 1") == need(
            "x: dramatiq workers --queues customer_service default low --processes 1 --threads 8"
        )

    def test_of_two_threads_each_fits_where_twenty_are_allowed(self) -> None:
        small = (REPOSITORY / "Procfile").read_text().replace("--threads 4", "--threads 2")
        assert max(budget(small, {"standby": 0}).total) <= 20

    def test_counts_nothing_for_other_programs_comments_and_what_is_not_started(self) -> None:
        assert need("# a remark", "", "web: gunicorn shop") == Need(0, 0)
        assert need(WORKER, worker=0) == Need(0, 0)

    @pytest.mark.parametrize(
        ("procfile", "complaint"),
        [
            ("web: dramatiq workers --threads many", "'dramatiq' is wrong: argument --threads"),
            ("web: dramatiq 'workers", "No closing quotation"),
        ],
    )
    def test_refuses_a_command_that_is_none(self, procfile: str, complaint: str) -> None:
        with pytest.raises(ValueError, match=complaint):
            need(procfile)

    def test_knows_every_process_of_our_procfile(self) -> None:
        parts = budget((REPOSITORY / "Procfile").read_text(), {}).parts
        assert all(need.postgresql for name, need in parts.items() if name != "the outbox's relay")


class TestCheck:
    def test_prints_the_sums_and_what_postgresql_allows(self, service: Service) -> None:
        report = self.check(service, "--scale", "worker=2", procfile=WORKER)

        rabbitmq, postgresql = (line for line in report.splitlines() if "connections" in line)
        twice = budget(WORKER, {"worker": 2})
        total = twice.total.rabbitmq
        assert rabbitmq.startswith(f"ok    connections   RabbitMQ: {total} at most (worker ")
        assert f"PostgreSQL: {twice.total.postgresql} at most (worker " in postgresql
        assert "that it allows" in postgresql

    def test_fails_when_the_database_does_not_let_us_have_so_many(self, service: Service) -> None:
        # Given a database that lets us have some, but not all at once
        name = service.ask("SELECT current_database()")
        query(service.env["DATABASE_URL"], f'ALTER DATABASE "{name}" CONNECTION LIMIT 4')

        report = self.check(service, procfile=WORKER, code=1)

        assert "FAIL  connections   PostgreSQL: " in report
        assert "but it allows 4: start fewer processes" in report

    def test_says_so_where_there_is_nothing_to_count(self, service: Service) -> None:
        assert "ok    connections   not counted: there is no Procfile" in self.check(service)

    def test_says_what_is_wrong_with_the_procfile_in_a_line(self, service: Service) -> None:
        report = self.check(service, "--scale", "web=2", procfile=WORKER, code=1)
        assert "FAIL  connections   the Procfile has no process 'web'; take one of worker" in report

    @pytest.mark.parametrize("scale", ["worker", "=2", "worker=many"])
    def test_refuses_a_scale_that_is_none(self, processes: Processes, scale: str) -> None:
        done = processes.run("python", "-m", "workers", "check", "--scale", scale)
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
        assert "is not like worker=2" in done.stderr

    @staticmethod
    def check(service: Service, *arguments: str, procfile: str = "", code: int = 0) -> str:
        """Run the command in a folder with this Procfile."""
        if procfile:
            (service.processes.folder / "Procfile").write_text(procfile + "\n")
        done = service.processes.run(
            "python", "-m", "workers", "check", *arguments, env=service.env
        )
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout


class TestThePage:
    def test_opens_no_more_than_it_needs_however_many_look_at_a_database_that_hangs(
        self, processes: Processes, database: Database, database_url: str
    ) -> None:
        # Given a page whose every look at the runs hangs
        (port,) = free_ports(1)
        env = {"DATABASE_URL": database_url, "PORT": str(port)}
        web = processes.start("python", "-m", "workers", "web", env=env)
        web.wait_for_output(f"127.0.0.1:{port}")
        database.engine.dispose()  # from here on, the page alone is connected as "workers"

        def look() -> httpx.Response:
            url = f"http://127.0.0.1:{port}/runs"
            return httpx.get(url, headers={"Accept": "text/html"}, timeout=30)

        engine = create_engine(database_url, poolclass=NullPool)
        with engine.begin() as holder, ThreadPoolExecutor(20) as pool:
            holder.execute(text("LOCK TABLE job_runs"))

            # When more people look than it has connections, until each has an answer
            looks = [pool.submit(look) for _ in range(20)]
            open_at_once = set[int]()

            def are_answered() -> bool:
                open_at_once.add(query(database_url, CONNECTIONS_OF_THE_PAGE)[0][0])
                return all(each.done() for each in looks)

            eventually(are_answered, timeout_seconds=60)

        # Then it is busy, and says so with a page that comes back by itself
        answers = [each.result() for each in looks]
        assert {answer.status_code for answer in answers} == {503}
        assert all('http-equiv="refresh"' in answer.text for answer in answers)
        assert max(open_at_once) == need("web: python -m workers web").postgresql
