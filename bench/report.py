"""The report, in Markdown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from inspect import cleandoc

from bench.data import Size
from bench.summary import Summary

MOST_TO_LIMIT = 1.5
MOST_TRANSACTION_SECONDS = 1.0
MOST_MEMORY_BYTES = 20 * 1024**2
LEAST_LOOP_TO_JOB = 30
LEAST_FULL_TO_CHANGED = 50
HALF_A_MILLION = 500_000


@dataclass(frozen=True)
class Environment:
    """Where and how it was measured."""

    date: str
    scale: float
    rounds: int
    seed: int
    postgres: str
    python: str
    machine: str
    settings: Mapping[str, str]


def render(summaries: Sequence[Summary], environment: Environment, picture: str | None) -> str:
    """Return the report; `picture` is the path to link to."""
    parts = [
        INTRODUCTION,
        _note_on_scale(environment),
        _results(summaries, environment),
        f"![How long each job takes, and how that grows]({picture})" if picture else "",
        READING,
        "## Targets",
        _targets(summaries),
        "## Growth",
        GROWTH,
        _growth(summaries),
        "## The data",
        DATA,
        _data(summaries),
        "## How it is measured",
        METHOD,
        _environment(environment),
    ]
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


INTRODUCTION = """
# Benchmarks

`make bench` measures the jobs on much data, each beside two others that do the same:

- the **limit**: the best SQL we could write for it, in one transaction, with nothing around it;
- the **loop** that one would write first: load what is due as objects, go through it, ask for what
  hangs on each, commit at the end.

The job is run for real: its actor, sent to a worker, with claim, ledger, and a commit after each
batch. `make bench ARGS="--scale 0.1 --only coupons"` measures less.
"""

READING = """
Medians. The ratios are taken within a round, in which the variants take turns, since the machine
is not equally fast all the time: trust them more than the seconds. The loop is measured on a sample
and extrapolated in proportion, which is kind to it. *Memory* is the most that the worker
process took above what it takes when idle, and *longest transaction* the longest in any round: for
so long a lock is held at most.
"""

GROWTH = """
Each job on a tenth, three tenths, and all of the data: rows changed, time, how many times the
limit that is, and memory above idle. The exponent is that of the rows changed which fits the times
best; 1 is linear, and where little is to be done the cost of any run, some 10 ms, makes it less.
"""

DATA = """
Nothing is arranged in anybody's favour: what is due together lies scattered over its table.
"""

METHOD = """
- A PostgreSQL of its own, in a temporary folder, with `fsync`. Data is made set-based and the same
  for the same seed; what is due is spread at random over each table. After `VACUUM (FREEZE,
  ANALYZE)` each measurement gets a copy of the database's files, and begins with a checkpoint and
  an empty buffer cache (the operating system's is warm). Where only changes are measured, they are
  made after a run on all, a `VACUUM` as autovacuum would have done it, and a checkpoint; the cache
  is as these have left it.
- Each variant runs in a fresh process; the worker has done another job, which had nothing to do.
  The job's time is from the sending of its message to its acknowledgement; loop and limit are timed
  from BEGIN until COMMIT has returned.
- After each measurement the tables are compared by content. A round in which job and limit differ
  ends the benchmark; the loop is compared at 1/500 of the size, where its sample is everything.
- Triggers and foreign keys are on in all variants. Memory is the process's peak resident set, as
  the kernel counts it; WAL is what the server wrote, with full-page images after the checkpoint.
"""


def _note_on_scale(environment: Environment) -> str:
    if environment.scale == 1:
        return ""
    return f"**Measured at {environment.scale:g} of the full size**: ratios do not carry over."


def _results(summaries: Sequence[Summary], environment: Environment) -> str:
    header = (
        "| | job | limit | job ÷ limit | loop | loop ÷ job | longest transaction "
        "| memory | WAL: job, limit |"
    )
    return "\n".join(
        [
            header,
            "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
            *(_result(summary, environment) for summary in summaries),
        ]
    )


def _result(summary: Summary, environment: Environment) -> str:
    cells = [
        f"**{summary.case.name}**: {summary.case.describe(Size(summary.share, environment.seed))}",
        _seconds(summary.job_seconds),
        _seconds(summary.limit_seconds),
        f"**{summary.job_to_limit:.2f}**",
        _loop(summary),
        f"**{summary.loop_to_job:,.0f}**" if summary.loop_to_job else "",
        f"{_seconds(summary.longest_transaction_seconds)} of {summary.transactions}",
        _megabytes(summary.memory_bytes),
        f"{_megabytes(summary.job_wal_bytes)}, {_megabytes(summary.limit_wal_bytes)}",
    ]
    return f"| {' | '.join(cells)} |"


def _loop(summary: Summary) -> str:
    if summary.loop_seconds is None:
        return ""
    return ("≈ " if summary.is_extrapolated else "") + _seconds(summary.loop_seconds)


def _growth(summaries: Sequence[Summary]) -> str:
    rows = ["| | smallest | middle | largest | exponent |", "|---|--:|--:|--:|--:|"]
    for summary in summaries:
        cells = [
            f"{point.rows:,} rows: {_seconds(point.job_seconds)} ({point.job_to_limit:.2f} ×), "
            f"{_megabytes(point.memory_bytes)}"
            for point in summary.points
        ]
        rows.append(f"| {summary.case.name} | {' | '.join(cells)} | {summary.growth:.2f} |")
    return "\n".join(rows)


def _data(summaries: Sequence[Summary]) -> str:
    lines: dict[str, list[str]] = {}
    for summary in summaries:
        lines.setdefault(cleandoc(summary.case.fill.__doc__ or ""), []).append(summary.case.name)
    return "\n".join(
        f"- **{', '.join(names)}**: {' '.join(text.split())}" for text, names in lines.items()
    )


def _targets(summaries: Sequence[Summary]) -> str:
    lines = [
        _target(
            f"each job within {MOST_TO_LIMIT} × its limit, at the largest size",
            {each.case.name: f"{each.job_to_limit:.2f} ×" for each in summaries},
            [each.case.name for each in summaries if each.job_to_limit > MOST_TO_LIMIT],
        ),
        _target(
            f"no transaction much longer than {MOST_TRANSACTION_SECONDS:g} s",
            {each.case.name: _seconds(each.longest_transaction_seconds) for each in summaries},
            [
                each.case.name
                for each in summaries
                if each.longest_transaction_seconds > MOST_TRANSACTION_SECONDS
            ],
        ),
        _target(
            f"memory within {_megabytes(MOST_MEMORY_BYTES)} of idle at every size",
            {each.case.name: _megabytes(_most_memory(each)) for each in summaries},
            [each.case.name for each in summaries if _most_memory(each) > MOST_MEMORY_BYTES],
        ),
    ]
    large = [each for each in summaries if each.rows >= HALF_A_MILLION * 0.99 and each.loop_to_job]
    lines += [
        _target(
            f"{LEAST_LOOP_TO_JOB} × as fast as the loop on half a million rows",
            {each.case.name: f"{each.loop_to_job or 0:.0f} ×"},
            [each.case.name] if (each.loop_to_job or 0) < LEAST_LOOP_TO_JOB else [],
        )
        for each in large
    ]
    by_name = {each.case.name: each for each in summaries}
    for each in summaries:
        full = by_name.get(each.case.full_case or "")
        if full is not None:
            ratio = full.job_seconds / each.job_seconds
            best = full.job_seconds / each.limit_seconds
            lines.append(
                _target(
                    f"changed statistics {LEAST_FULL_TO_CHANGED} × as fast as all",
                    {each.case.name: f"{ratio:.0f} ×; its limit would be {best:.0f} × as fast"},
                    [each.case.name] if ratio < LEAST_FULL_TO_CHANGED else [],
                )
            )
    return "\n".join(lines)


def _target(statement: str, found: Mapping[str, str], missed: Sequence[str]) -> str:
    if missed:
        listed = ", ".join(f"{name} {found[name]}" for name in missed)
        return f"- ✗ {statement}: missed by {listed}"
    return f"- ✓ {statement}" + (f": {next(iter(found.values()))}" if len(found) == 1 else "")


def _most_memory(summary: Summary) -> int:
    return max(point.memory_bytes for point in summary.points)


def _environment(environment: Environment) -> str:
    settings = ", ".join(f"{name} {value}" for name, value in environment.settings.items())
    return "\n".join(
        [
            "| | |",
            "|---|---|",
            (
                f"| measured | {environment.date}, rounds at each size: {environment.rounds}, "
                f"seed {environment.seed} |"
            ),
            f"| machine | {environment.machine} |",
            f"| PostgreSQL | {environment.postgres}: {settings} |",
            f"| Python | {environment.python} |",
        ]
    )


def _seconds(seconds: float) -> str:
    if seconds < 1:
        return f"{seconds * 1000:,.0f} ms"
    return f"{seconds:.2f} s" if seconds < 100 else f"{seconds:,.0f} s"


def _megabytes(count: int) -> str:
    megabytes = count / 1024**2
    return f"{megabytes:.1f} MB" if megabytes < 10 else f"{megabytes:,.0f} MB"
