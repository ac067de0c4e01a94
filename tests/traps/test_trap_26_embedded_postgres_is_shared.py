"""Trap 26: the embedded PostgreSQL belongs to its folder, and survives a ``kill -9`` of its user.

The processes of one folder share it, and it stops with the last of them; one that was killed is not
counted out in time, and leaves it up. So the next one takes it over, and ``make stop`` ends it.
"""

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.probes import PATIENCE_SECONDS
from tests.rig.environment import REPOSITORY
from tests.rig.processes import Process, Processes
from tests.rig.waiting import eventually


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that the user may enter as whom PostgreSQL runs if we are root."""
    folder = Path(tempfile.mkdtemp(prefix="workers-trap-"))
    folder.chmod(0o755)
    yield folder
    stop_server(folder)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def in_folder(folder: Path) -> Iterator[Processes]:
    processes = Processes(folder)
    yield processes
    processes.kill_all()


def stop_server(folder: Path) -> None:
    """Do what ``make stop`` does."""
    script = REPOSITORY / "scripts" / "stop-postgres"
    subprocess.run([script, folder / "work" / ".local"], check=True, capture_output=True)


def server_of(folder: Path) -> psutil.Process:
    pid_file = folder / "work" / ".local" / "postgres" / "postmaster.pid"
    return psutil.Process(int(pid_file.read_text().splitlines()[0]))


def is_up(server: psutil.Process) -> bool:
    """Whether it lives; where nobody waits for orphans (some containers), a zombie does not."""
    return server.is_running() and server.status() != psutil.STATUS_ZOMBIE


def run_everything(processes: Processes) -> Process:
    process = processes.start("python", "-m", "workers", "run")
    process.wait_for_output("✓ auto_end_timeout_chats", timeout_seconds=PATIENCE_SECONDS)
    return process


def count_runs(processes: Processes) -> int:
    done = processes.run(
        "python", "-m", "workers", "runs", "--json", "--limit", "1000", timeout_seconds=60
    )
    assert done.returncode == 0, done.stderr
    # Run by root, the library would complain that it finds no session of a user.
    assert done.stderr == ""
    return len(json.loads(done.stdout))


def test_a_server_that_a_kill_left_behind_serves_the_next_and_ends_with_it(
    folder: Path, in_folder: Processes
) -> None:
    # Given a process, and another that comes and goes
    first = run_everything(in_folder)
    server = server_of(folder)
    before = count_runs(in_folder)
    assert before
    assert is_up(server)

    # When the first is killed, then the server stays
    first.kill()
    assert is_up(server)

    # And the next one finds there what the first had done
    second = in_folder.start("python", "-m", "workers", "run")
    second.wait_for_output("Stop with Ctrl+C", timeout_seconds=PATIENCE_SECONDS)
    assert server_of(folder) == server
    assert count_runs(in_folder) >= before

    # And it is of no use to anybody after the last one has ended
    second.terminate()
    assert second.wait(timeout_seconds=PATIENCE_SECONDS) == 0
    stop_server(folder)
    eventually(lambda: not is_up(server), timeout_seconds=PATIENCE_SECONDS)
    for each in (first, second):
        assert "XDG_RUNTIME_DIR" not in each.output


def test_a_server_stops_with_the_last_of_its_users(folder: Path, in_folder: Processes) -> None:
    process = run_everything(in_folder)
    server = server_of(folder)

    process.terminate()

    assert process.wait(timeout_seconds=PATIENCE_SECONDS) == 0
    eventually(
        lambda: not is_up(server),
        timeout_seconds=PATIENCE_SECONDS,
        message="The server is still up",
    )
