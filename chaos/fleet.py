"""The service as a platform runs it: several of each process; one that ends is started again."""

import threading
from collections.abc import Mapping
from pathlib import Path

from tests.rig.processes import Process, Processes

MODULES = ("workers", "chaos.jobs")
COMMANDS: dict[str, tuple[str, ...]] = {
    "customer_service-1": (
        *("dramatiq", *MODULES, "--queues", "customer_service"),
        *("--processes", "1", "--threads", "2"),
    ),
    "worker-1": (
        *("dramatiq", *MODULES, "--queues", "default", "low"),
        *("--processes", "1", "--threads", "3"),
    ),
    "worker-2": (
        *("dramatiq", *MODULES, "--queues", "default", "low"),
        *("--processes", "1", "--threads", "3"),
    ),
    "worker-3": ("dramatiq", *MODULES, "--processes", "1", "--threads", "3"),
    "scheduler-1": ("periodiq", *MODULES),
    "scheduler-2": ("periodiq", *MODULES),
    "standby-1": ("python", "-m", "workers", "standby", "chaos.jobs"),
    "standby-2": ("python", "-m", "workers", "standby", "chaos.jobs"),
}
CHECK_SECONDS = 0.5


class Fleet:
    """Processes by name. `keep` starts anew whatever has ended, until `stop`."""

    def __init__(self, folder: Path, env: Mapping[str, str]) -> None:
        self._processes = Processes(folder)
        self._env = env
        self._running: dict[str, Process] = {}
        self._all: list[tuple[str, Process]] = []
        self._lock = threading.Lock()
        self._is_stopping = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="keeper", daemon=True)
        self.restarts = 0

    def start(self) -> None:
        for name in COMMANDS:
            self._start(name)
        self._keeper.start()

    def process(self, name: str) -> Process:
        with self._lock:
            return self._running[name]

    def names(self, prefix: str = "") -> list[str]:
        return [name for name in COMMANDS if name.startswith(prefix)]

    def retire(self, prefix: str) -> None:
        """Kill the processes whose name begins so, for good."""
        with self._lock:
            for name in self.names(prefix):
                self._running.pop(name).kill()

    def outputs(self, prefix: str) -> list[str]:
        """Return what each process of these names has written, those that were killed too."""
        with self._lock:
            return [process.output for name, process in self._all if name.startswith(prefix)]

    def stop(self) -> None:
        """End all processes; whoever does not follow the signal in time is killed."""
        self._is_stopping.set()
        self._keeper.join()
        self._processes.kill_all()

    def _start(self, name: str) -> None:
        process = self._processes.start(*COMMANDS[name], env=self._env)
        self._running[name] = process
        self._all.append((name, process))

    def _keep(self) -> None:
        while not self._is_stopping.wait(CHECK_SECONDS):
            with self._lock:
                for name, process in list(self._running.items()):
                    if process.returncode is not None:
                        # Its worker processes may have outlived it.
                        process.kill()
                        self.restarts += 1
                        self._start(name)
