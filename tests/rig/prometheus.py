"""A real Prometheus with the project's own configuration, pointed at targets of a test."""

import json
import shutil
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.rig.environment import REPOSITORY
from tests.rig.ports import free_ports
from tests.rig.processes import Processes
from tests.rig.waiting import eventually

CONFIGURATION = REPOSITORY / "infra" / "prometheus"
START_SECONDS = 60
EVERY = "1s"


class Prometheus:
    """The installed server, with the configuration of ``infra/prometheus``, but in a hurry.

    Args:
        processes: runs it.
        folder: an empty one, for its configuration and data.
        targets: for each scrape job of the configuration, where to scrape; others are left out.
        token: what the page would be sent.
    """

    def __init__(
        self,
        processes: Processes,
        folder: Path,
        targets: Mapping[str, Sequence[str]],
        *,
        token: str = "",
    ) -> None:
        self._targets = targets
        (self._port,) = free_ports(1)
        shutil.copytree(CONFIGURATION, folder, dirs_exist_ok=True)
        (folder / "token").write_text(token)
        self._configure(folder)
        self._process = processes.start(
            "prometheus",
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{self._port}",
        )
        self._process.wait_for_output(
            "ready to receive web requests", timeout_seconds=START_SECONDS
        )

    def ask(self, path: str, **parameters: str) -> Any:
        """Return the data that its API answers with."""
        url = f"http://127.0.0.1:{self._port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return json.load(answer)["data"]

    def value(self, expression: str) -> float | None:
        """Return the value of an expression that has one or none."""
        found = self.ask("query", query=expression)["result"]
        assert len(found) <= 1, found
        return float(found[0]["value"][1]) if found else None

    def target_health(self) -> dict[str, str]:
        """Return how each target is, by its address."""
        return {
            target["labels"]["instance"]: target["health"]
            for target in self.ask("targets")["activeTargets"]
        }

    def alert_states(self) -> dict[str, str]:
        """Return the state of each alert that is not inactive, by its name."""
        return {each["labels"]["alertname"]: each["state"] for each in self.ask("alerts")["alerts"]}

    def wait_for_alert(self, name: str, *states: str, timeout_seconds: float = 30) -> None:
        """Wait until an alert is in one of these states."""
        eventually(
            lambda: self.alert_states().get(name) in states,
            timeout_seconds=timeout_seconds,
            message=f"{name} is not {states}",
        )

    def _configure(self, folder: Path) -> None:
        path = folder / "prometheus.yml"
        configuration = yaml.safe_load(path.read_text())
        configuration["global"].update(
            scrape_interval=EVERY, scrape_timeout=EVERY, evaluation_interval=EVERY
        )
        scrapes = {each["job_name"]: each for each in configuration["scrape_configs"]}
        for job, targets in self._targets.items():
            scrapes[job]["static_configs"] = [{"targets": list(targets)}]
            if "authorization" in scrapes[job]:
                scrapes[job]["authorization"]["credentials_file"] = str(folder / "token")
        configuration["scrape_configs"] = [scrapes[job] for job in self._targets]
        path.write_text(yaml.safe_dump(configuration))


def promtool(*arguments: str, text: str = "") -> str:
    """Run promtool, which must be content, and return what it said."""
    done = subprocess.run(
        ["promtool", *arguments],
        cwd=REPOSITORY,
        input=text,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr
