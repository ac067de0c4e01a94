"""A process whose clock is wrong, by as much as a test says at any time.

``python -m tests.rig.clock FILE COMMAND ARGUMENTS`` runs a console script with its clock off by the
seconds that stand in the file. The clock of the day alone: what measures lengths of time is right,
as when a machine's clock is set.
"""

import sys
import threading
import time
from importlib.metadata import entry_points
from pathlib import Path

import time_machine

POLL_SECONDS = 0.05


class WrongClock:
    """The file by which a test sets the clock of such a process."""

    def __init__(self, path: Path, *, seconds: float = 0) -> None:
        self.path = path
        self.be_off_by(seconds)

    def be_off_by(self, seconds: float) -> None:
        """Set the clock ahead (or, less than 0, behind) of the right time."""
        draft = self.path.with_suffix(".new")
        draft.write_text(str(seconds))
        draft.replace(self.path)

    def command(self, *arguments: str) -> tuple[str, ...]:
        """Return the command that runs another one by this clock."""
        return ("python", "-m", "tests.rig.clock", str(self.path), *arguments)


def run_by(path: Path, command: str) -> None:
    """Run a console script, with `sys.argv` as it wants it."""
    offset_seconds = float(path.read_text())
    traveller = time_machine.travel(time.time() + offset_seconds, tick=True)
    coordinates = traveller.start()

    def follow() -> None:
        nonlocal offset_seconds
        while True:
            time.sleep(POLL_SECONDS)
            wanted_seconds = float(path.read_text())
            if wanted_seconds != offset_seconds:
                coordinates.shift(wanted_seconds - offset_seconds)
                offset_seconds = wanted_seconds

    threading.Thread(target=follow, name="clock", daemon=True).start()
    (script,) = entry_points(group="console_scripts", name=command)
    script.load()()


if __name__ == "__main__":
    _, file, name, *rest = sys.argv
    sys.argv = [name, *rest]
    run_by(Path(file), name)
