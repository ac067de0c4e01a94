"""An interruption strikes the run that it is meant for, and nothing that comes after it."""

import threading
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, cast

import pytest
from dramatiq.middleware import Shutdown

from tests.probes import PATIENCE_SECONDS
from tests.rig.waiting import eventually
from workers.database import Lease
from workers.middleware import in_progress
from workers.middleware.in_progress import RunInProgress, RunsInProgress, TimeLimits
from workers.runs import Claim, Delivery, Verdict


class Connection:
    """Stands for a run's lease, and notes when it is told to cancel a statement."""

    def __init__(self) -> None:
        self.cancelled = 0
        self.may_cancel = threading.Event()

    def cancel_statement(self) -> None:
        self.cancelled += 1
        assert self.may_cancel.wait(PATIENCE_SECONDS)


class LateComer:
    """A lock that whoever interrupts gets only after the run has ended."""

    def __init__(self, has_ended: threading.Event) -> None:
        self._has_ended = has_ended
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        if threading.current_thread().name == "interruption":
            assert self._has_ended.wait(PATIENCE_SECONDS)
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def new_run(connection: Connection, **fields: Any) -> RunInProgress:
    delivery = Delivery("job", None, "id", "default", datetime.now(UTC), 0, 0, "rabbitmq")
    claim = Claim(Verdict.RUN, attempt=1)
    return RunInProgress(delivery, claim, cast("Lease", connection), TimeLimits(1, 2), **fields)


def interrupters() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "interruption"]


def test_what_comes_too_late_strikes_nothing() -> None:
    # Given a run that ends just when it is about to be interrupted
    connection, has_ended = Connection(), threading.Event()
    connection.may_cancel.set()
    run = new_run(connection, has_ended=has_ended, _lock=LateComer(has_ended))

    def be_interrupted_and_done() -> str:
        run.interrupt(Shutdown)
        return "done"

    # Then it has ended well, and neither its thread nor its connection is struck
    assert RunsInProgress().execute(run, be_interrupted_and_done) == "done"
    eventually(lambda: not interrupters())
    assert connection.cancelled == 0


def test_a_run_does_not_end_while_it_is_being_interrupted() -> None:
    # Given a run whose statement is being cancelled, which takes a while
    connection, all_runs, results = Connection(), RunsInProgress(), list[str]()
    is_running = threading.Event()

    def execute() -> None:
        with pytest.raises(Shutdown):
            all_runs.execute(new_run(connection), until_interrupted)
        results.append("ended")

    def until_interrupted() -> None:
        is_running.set()
        while True:
            pass

    thread = threading.Thread(target=execute)
    thread.start()
    assert is_running.wait(PATIENCE_SECONDS)
    (run,) = all_runs.all()
    run.interrupt(Shutdown)
    eventually(lambda: connection.cancelled == 1)

    # Then it waits, lest the next run on this connection is cancelled in its place
    assert not run.has_ended.is_set()
    connection.may_cancel.set()
    thread.join(PATIENCE_SECONDS)
    assert results == ["ended"]
    assert all_runs.all() == []
    assert all_runs.ended_count == 1


@pytest.mark.parametrize("number", range(20))
def test_what_follows_an_interrupted_run_is_left_alone(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a run that is interrupted again and again, and does not listen
    monkeypatch.setattr(in_progress, "AGAIN_SECONDS", 0)
    connection = Connection()
    connection.may_cancel.set()
    run = new_run(connection)

    def not_listen() -> int:
        run.interrupt(Shutdown)
        heard = 0
        while heard < 3 + number:
            try:
                while True:
                    pass
            except Shutdown:
                heard += 1
        return heard

    # When it is over, and other work is done on its thread
    with suppress(Shutdown):
        RunsInProgress().execute(run, not_listen)
    cancelled = connection.cancelled
    eventually(lambda: not interrupters())

    # Then nothing happens to that
    assert sum(range(10_000)) == 49_995_000
    assert connection.cancelled == cancelled
