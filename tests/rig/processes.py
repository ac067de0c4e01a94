"""The service's real commands as child processes, whose output is kept and shown on failure."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from tests.rig.environment import process_environment
from tests.rig.waiting import eventually

TIMEOUT_SECONDS = 30


class Process:
    """A command and all that it starts: one process group."""

    def __init__(
        self, arguments: list[str], *, env: Mapping[str, str], folder: Path, output_path: Path
    ) -> None:
        self.name = " ".join(arguments)
        self._output_path = output_path
        with output_path.open("wb") as output:
            self._popen = subprocess.Popen(
                _command(arguments),
                cwd=folder,
                env=process_environment(env),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # A group of its own, so that nothing it starts is left behind.
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def output(self) -> str:
        """Standard output and error so far."""
        return self._output_path.read_text(errors="replace")

    @property
    def returncode(self) -> int | None:
        """The exit code; negative: the signal that killed it; None while it runs."""
        return self._popen.poll()

    def wait_for_output(
        self, expected: str, *, count: int = 1, timeout_seconds: float = TIMEOUT_SECONDS
    ) -> None:
        """Wait until the output contains `expected` at least `count` times.

        Raises:
            AssertionError: with the output, if it does not in time, or the process ends before.
        """

        def is_there() -> bool:
            # In this order: whatever it wrote before it ended is in the output.
            has_ended = self.returncode is not None
            if self.output.count(expected) >= count:
                return True
            assert not has_ended, self._report(f"ended without writing {expected!r}")
            return False

        try:
            eventually(is_there, timeout_seconds=timeout_seconds, message=f"No {expected!r}")
        except AssertionError as error:
            if self.returncode is not None:
                raise
            raise AssertionError(self._report(str(error))) from None

    def wait(self, *, timeout_seconds: float = TIMEOUT_SECONDS) -> int:
        """Wait for the command to end, and return its exit code.

        Raises:
            AssertionError: with the output, if it still runs after `timeout_seconds`.
        """
        try:
            return self._popen.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(self._report(f"still runs after {timeout_seconds} s")) from None

    def terminate(self) -> None:
        """Send SIGTERM to the command itself, as a person would."""
        self.send_signal(signal.SIGTERM)

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the command itself."""
        self._popen.send_signal(number)

    def send_signal_to_group(self, number: signal.Signals) -> None:
        """Send a signal to the command and all that it started, as a process supervisor does."""
        os.killpg(self.pid, number)

    def kill(self) -> None:
        """Kill the command and all that it started, and wait for its end."""
        # The group may outlive its first process, and may be gone altogether.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self._popen.wait()

    def _report(self, problem: str) -> str:
        return f"`{self.name}` {problem}; its output:\n{self.output}"


class Processes:
    """Starts commands in an empty folder, so that no ``.env`` or ``.local`` of anybody is found."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._started: list[Process] = []
        (folder / "output").mkdir()
        (folder / "work").mkdir()

    @property
    def folder(self) -> Path:
        """Where the commands run."""
        return self._folder / "work"

    def start(self, *arguments: str, env: Mapping[str, str] | None = None) -> Process:
        """Start a command of our virtual environment (``dramatiq``, ``python`` …).

        `env` is added to this process's environment, which has none of the service's settings.
        """
        number = len(self._started) + 1
        process = Process(
            list(arguments),
            env=env or {},
            folder=self.folder,
            output_path=self._folder / "output" / f"{number}-{Path(arguments[0]).name}.log",
        )
        self._started.append(process)
        return process

    def run(
        self,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, whatever its exit code; standard output and error apart.

        Raises:
            subprocess.TimeoutExpired: with its output so far, after `timeout_seconds`.
        """
        return subprocess.run(
            _command(list(arguments)),
            cwd=self.folder,
            env=process_environment(env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_seconds,
            check=False,
        )

    def kill_all(self) -> None:
        """Kill all that was started, newest first."""
        for process in reversed(self._started):
            process.kill()

    def reports(self) -> list[tuple[str, str]]:
        """Return name and output of each process, for the report of a failed test."""
        return [(process.name, process.output) for process in self._started]


def _command(arguments: list[str]) -> list[str]:
    program, *rest = arguments
    if program == "python":
        return [sys.executable, *rest]
    installed = Path(sys.executable).with_name(program)
    return [str(installed) if installed.exists() else program, *rest]
