"""The rules on who may know whom. They are what keeps a change in one place."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import grimp
import pytest

from tests.rig.environment import REPOSITORY
from tests.rig.processes import Processes

PACKAGE = REPOSITORY / "workers"
MIGRATIONS = PACKAGE / "migrations"
OWNER_OF_TRANSACTIONS = PACKAGE / "database.py"
SOURCES = sorted(PACKAGE.rglob("*.py"))


def test_imports_point_down_only(processes: Processes) -> None:
    """The floors are listed in pyproject.toml."""
    done = processes.run(
        "lint-imports", "--no-cache", "--config", str(REPOSITORY / "pyproject.toml")
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_only_the_commands_import_from_the_composition_root() -> None:
    """It imports all the rest, which would find it half made."""
    graph = grimp.build_graph("workers", cache_dir=None)
    commands = {"workers.__main__", "workers.cli", *graph.find_descendants("workers.cli")}
    assert graph.find_modules_that_directly_import("workers") <= commands


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_one_file_commits_and_rolls_back(path: Path) -> None:
    """So that no rule ends the transaction which the claim of its run is part of."""
    if path == OWNER_OF_TRANSACTIONS or path.is_relative_to(MIGRATIONS):
        return
    assert list(_ends_of_transactions(path)) == []


def _ends_of_transactions(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and node.attr in {"commit", "rollback"}:
            yield f"line {node.lineno}: .{node.attr}"
        # Spelled in SQL, it works as well.
        if isinstance(node, ast.Constant) and re.match(
            r"\s*(COMMIT|ROLLBACK)\b\s*(;|$)", str(node.value), re.IGNORECASE
        ):
            yield f"line {node.lineno}: {node.value!r}"
