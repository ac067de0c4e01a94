"""``python -m bench``: measure, and report."""

import json
import os
import platform
import shutil
import signal
import sys
import tempfile
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bench import measure, picture
from bench.cases import BY_NAME, CASES
from bench.measure import REPOSITORY, Measurement, MeasurementError
from bench.report import Environment, render
from bench.server import Server
from bench.summary import summarize
from workers import logs

RESULTS = REPOSITORY / ".local/bench"
DOCUMENT = REPOSITORY / "docs/benchmarks.md"
PICTURE = REPOSITORY / "docs/images/benchmarks.svg"

ROOM_NEEDED_BYTES = 15 * 1024**3
"""At full size: two copies of the largest database, and the WAL between two checkpoints."""


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--scale", type=click.FloatRange(min=0.001, max=10), default=1.0, help="Share of the full size."
)
@click.option(
    "--only", type=click.Choice(list(BY_NAME)), multiple=True, help="A case; may be repeated."
)
@click.option("--rounds", type=click.IntRange(min=1), default=3, help="Rounds at each size.")
@click.option("--seed", type=click.IntRange(min=0, max=10**9), default=1, help="For the data.")
@click.option("--write", is_flag=True, help="Write docs/benchmarks.md and its picture.")
@click.option(
    "--again",
    is_flag=True,
    help="Measure nothing: report on what was measured last, or until it was interrupted.",
)
def main(
    *, scale: float, only: tuple[str, ...], rounds: int, seed: int, write: bool, again: bool
) -> None:
    """Measure the jobs beside the loop one would write first and the best SQL there is."""
    logs.configure("console", "WARNING")
    if not again:
        _measure(scale, only or tuple(BY_NAME), rounds, seed)
    found = _read()
    summaries = summarize(found[0])
    drawn = picture.draw(summaries)
    if write:
        PICTURE.parent.mkdir(exist_ok=True)
        PICTURE.write_text(drawn)
        DOCUMENT.write_text(render(summaries, found[1], "images/benchmarks.svg"))
        click.echo(f"Wrote {DOCUMENT} and {PICTURE}", err=True)
    else:
        (RESULTS / "benchmarks.svg").write_text(drawn)
        report = render(summaries, found[1], "benchmarks.svg")
        (RESULTS / "benchmarks.md").write_text(report)
        click.echo(report)
        click.echo(f"Also in {RESULTS}", err=True)


def _measure(scale: float, names: tuple[str, ...], rounds: int, seed: int) -> None:
    _check_room(scale)
    RESULTS.mkdir(parents=True, exist_ok=True)
    cases = [case for case in CASES if case.name in names]
    measurements: list[Measurement] = []
    with Server() as server, _progress() as progress:
        environment = _environment(server, scale, rounds, seed)
        total = sum(measure.steps(case, rounds) for case in cases)
        bar = progress.add_task("starting", total=total)
        for case in cases:

            def say(doing: str, name: str = case.name) -> None:
                progress.update(bar, description=f"{name}: {doing}")

            taken = measure.take(server, case, scale=scale, rounds=rounds, seed=seed, say=say)
            for measurement in taken:
                measurements.append(measurement)
                progress.console.print(_line(measurement))
                progress.advance(bar)
                # After each: hours of measuring are not lost with the last minute.
                _save(measurements, environment)


def _check_room(scale: float) -> None:
    folder = tempfile.gettempdir()
    needed = ROOM_NEEDED_BYTES * scale
    if shutil.disk_usage(folder).free < needed:
        raise click.ClickException(
            f"needs {needed / 1024**3:.0f} GB in {folder}; set TMPDIR, or take a smaller --scale"
        )


def _progress() -> Progress:
    return Progress(
        MofNCompleteColumn(),
        BarColumn(bar_width=20),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
        console=Console(stderr=True, highlight=False, soft_wrap=True),
    )


def _line(measurement: Measurement) -> str:
    extrapolated = ""
    if measurement.seconds != measurement.measured_seconds:
        extrapolated = f" (from {measurement.measured_seconds:.2f} s for {measurement.sampled:,})"
    return (
        f"{measurement.case:<18} {measurement.share:<7.4g} round {measurement.round + 1} "
        f"{measurement.variant:<5} {measurement.seconds:>9.3f} s{extrapolated}"
    )


def _environment(server: Server, scale: float, rounds: int, seed: int) -> Environment:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3
    return Environment(
        date=f"{datetime.now(UTC):%Y-%m-%d}",
        scale=scale,
        rounds=rounds,
        seed=seed,
        postgres=server.version(),
        python=platform.python_version(),
        machine=f"{_processor()}, {os.cpu_count()} cores, {memory:.0f} GB, {platform.system()}",
        settings=server.settings(),
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _save(measurements: list[Measurement], environment: Environment) -> None:
    content: dict[str, Any] = {
        "environment": asdict(environment),
        "measurements": [asdict(measurement) for measurement in measurements],
    }
    (RESULTS / "results.json").write_text(json.dumps(content, indent=1))


def _read() -> tuple[list[Measurement], Environment]:
    path = RESULTS / "results.json"
    if not path.exists():
        raise click.ClickException("nothing has been measured yet; leave out --again")
    content = json.loads(path.read_text())
    measurements = [Measurement(**each) for each in content["measurements"]]
    # What was interrupted at a smaller size says nothing of the largest one.
    largest = max(each.share for each in measurements)
    complete = {
        each.case for each in measurements if each.share == largest and each.variant == "job"
    }
    return (
        [each for each in measurements if each.case in complete],
        Environment(**content["environment"]),
    )


if __name__ == "__main__":
    # By which time limits end us: the server must not outlive this process.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        main()
    except MeasurementError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(1)
