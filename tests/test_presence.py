"""Operators see which processes of the service live, and which have gone silent."""

import signal
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import text

from tests.probes import PATIENCE_SECONDS, Service
from tests.rig.waiting import eventually
from workers import presence
from workers.database import Database
from workers.models import ServiceProcess
from workers.presence import Heartbeat, forget_silent, list_processes, process_name

pytest_plugins = ["tests.probe_fixtures"]


def listed(database: Database) -> dict[tuple[str, str], ServiceProcess]:
    with database.transaction() as session:
        return {(each.name, each.kind): each for each in list_processes(session)}


def ask(database: Database, question: str, **parameters: Any) -> Any:
    with database.transaction() as session:
        return session.scalar(text(question), parameters)


@pytest.fixture
def heartbeat(database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Heartbeat]:
    monkeypatch.setattr(presence, "BEAT_SECONDS", 0.05)
    heartbeat = Heartbeat(database, "standby", queues=["low"], state=lambda: "watching")
    yield heartbeat
    heartbeat.stop()


class TestAHeartbeat:
    def test_tells_what_the_process_is_until_it_ends(
        self, database: Database, heartbeat: Heartbeat
    ) -> None:
        heartbeat.start()

        key = (process_name(), "standby")
        seen = eventually(lambda: listed(database).get(key))
        assert seen is not None
        assert (seen.queues, seen.state) == (["low"], "watching")
        eventually(lambda: listed(database)[key].seen_at > seen.seen_at)

        heartbeat.stop()
        assert listed(database) == {}

    def test_takes_the_place_of_an_earlier_process_of_its_name(
        self, database: Database, heartbeat: Heartbeat
    ) -> None:
        # Given one that was killed, whose process id has come again
        with database.transaction() as session:
            session.add(ServiceProcess(name=process_name(), kind="standby"))
        started = "SELECT min(started_at) FROM service_processes"
        before = ask(database, started)

        heartbeat.start()

        eventually(lambda: (after := ask(database, started)) and after > before)

    def test_of_a_loop_that_hangs_does_not_cover_it(
        self, database: Database, heartbeat: Heartbeat
    ) -> None:
        # Given a loop that gave a sign, and none since
        heartbeat.give_sign()
        heartbeat.start()
        key = (process_name(), "standby")
        first = eventually(lambda: listed(database).get(key))
        assert first is not None

        # Then the process grows older, though its heart goes on beating
        age = "SELECT extract(epoch FROM now() - min(seen_at)) FROM service_processes"
        eventually(lambda: ask(database, age) > 0.5)

        # Until the loop gives the next
        heartbeat.give_sign()
        eventually(lambda: ask(database, age) < 0.5)

    def test_goes_on_when_the_database_is_back(
        self, database: Database, heartbeat: Heartbeat, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("DEBUG", presence.__name__)
        with database.transaction() as session:
            session.execute(text("ALTER TABLE service_processes RENAME TO away"))
        heartbeat.start()
        eventually(lambda: "Could not say that this process lives" in caplog.text)

        with database.transaction() as session:
            session.execute(text("ALTER TABLE away RENAME TO service_processes"))

        eventually(lambda: listed(database))


class TestForgetting:
    def test_takes_those_only_that_have_been_silent_for_long(self, database: Database) -> None:
        with database.transaction() as session:
            session.execute(
                text("""
                    INSERT INTO service_processes (name, kind, seen_at) VALUES
                        ('killed', 'worker', now() - interval '61 minutes'),
                        ('silent', 'worker', now() - interval '59 minutes')
                """)
            )
        with database.transaction() as session:
            assert not forget_silent(session, 10)

        assert [name for name, _ in listed(database)] == ["silent"]

    @pytest.mark.parametrize(
        ("other_is_silent_for", "left"),
        [("30 s", ["other"]), ("46 s", ["killed", "other"])],
    )
    def test_takes_a_silent_scheduler_earlier_if_another_lives(
        self, database: Database, other_is_silent_for: str, left: list[str]
    ) -> None:
        with database.transaction() as session:
            session.execute(
                text("""
                    INSERT INTO service_processes (name, kind, seen_at) VALUES
                        ('killed', 'scheduler', now() - interval '6 minutes'),
                        ('other', 'scheduler', now() - CAST(:silent_for AS interval))
                """),
                {"silent_for": other_is_silent_for},
            )
        with database.transaction() as session:
            forget_silent(session, 10)

        assert [name for name, _ in listed(database)] == left


class TestTheRealCommands:
    def test_show_workers_with_their_queues_and_schedulers(self, service: Service) -> None:
        worker = service.start_worker("default", "low")
        scheduler = service.processes.start("periodiq", "workers", env=service.env)

        def kinds() -> dict[str, list[str]]:
            return {kind: seen.queues for (_, kind), seen in listed(service.database).items()}

        expected = {"worker": ["default", "low"], "scheduler": []}
        eventually(lambda: kinds() == expected, timeout_seconds=PATIENCE_SECONDS)

        # When the worker stops, it says goodbye; a scheduler that is killed cannot
        worker.terminate()
        scheduler.send_signal(signal.SIGKILL)
        worker.wait()
        scheduler.wait()
        assert kinds() == {"scheduler": []}
