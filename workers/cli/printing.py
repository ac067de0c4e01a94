"""How commands print: tables for people, JSON for programs."""

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import click
from rich.console import Console
from rich.table import Table

PIPE_WIDTH = 200

as_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")


def print_table(table: Table) -> None:
    """Print a table, as wide as the terminal."""
    # Into a file or a pipe there is no terminal whose width the columns would have to fit.
    Console(width=None if sys.stdout.isatty() else PIPE_WIDTH).print(table)


def print_json(value: Sequence[Any] | dict[str, Any]) -> None:
    """Print one value."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def print_json_array(values: Iterable[dict[str, Any]]) -> int:
    """Print an array, each element as it comes, so that a long one is never in memory.

    Returns:
        the number of elements.
    """
    count = 0
    for count, value in enumerate(values, start=1):
        element = json.dumps(value, indent=2, ensure_ascii=False)
        click.echo(f"{',' if count > 1 else '['}\n{element}", nl=False)
    click.echo("\n]" if count else "[]")
    return count
