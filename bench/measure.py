"""Takes the measurements: every variant from the same bytes, side by side, round by round.

For each case and size a database is made once, vacuumed and analyzed. A measurement gets a copy of
its files and begins with a checkpoint. The variants take turns within a round, and another one
begins each round: what slows the machine down for a while does not hit one of them alone. Ratios
are taken within a round, and only then their median.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import NullPool, create_engine, text

from bench.cases import Case
from bench.data import Size
from bench.server import Server
from workers import schema
from workers.settings import Settings

REPOSITORY = Path(__file__).parents[1]

SHARES = (0.1, 0.3, 1.0)
"""The parts of the size asked for at which the job and the limit are measured."""

CHECK_SHARE = 0.002
"""The part of the full size at which the loop's sample is everything there is, so that what it
does can be compared."""

Say = Callable[[str], None]


class MeasurementError(Exception):
    """A variant failed, or did something else than the others."""


@dataclass(frozen=True)
class Measurement:
    """What one variant took in one round."""

    case: str
    variant: str
    share: float
    """Of the full size."""
    round: int
    seconds: float
    """Of the loop: what it would take for everything."""
    measured_seconds: float
    rows: int
    """How many rows of the driving table the job changed; 0 for the others."""
    sampled: int
    """How many things the loop looked at; 0 for the others."""
    memory_bytes: int
    idle_bytes: int
    longest_transaction_seconds: float
    transactions: int
    wal_bytes: int


@dataclass(frozen=True)
class Taken:
    """A measurement, and a fingerprint of what it left behind."""

    measurement: Measurement
    fingerprint: list[list[str]]
    is_complete: bool


def take(
    server: Server, case: Case, *, scale: float, rounds: int, seed: int, say: Say
) -> Iterator[Measurement]:
    """Measure one case at all sizes.

    Raises:
        MeasurementError: if a variant fails, or leaves other rows behind than the rest.
    """
    size = Size(CHECK_SHARE, seed)
    with _template(server, case, size, say) as template:
        _compare([_run(server, template, case, name, size=size) for name in _variants(case)])
    for share in SHARES:
        size = Size(scale * share, seed)
        with _template(server, case, size, say) as template:
            variants = [name for name in _variants(case) if name != "loop" or share == max(SHARES)]
            for number in range(rounds):
                turn = number % len(variants)
                done = []
                for variant in variants[turn:] + variants[:turn]:
                    taken = _run(server, template, case, variant, size=size, number=number)
                    done.append(taken)
                    yield taken.measurement
                _compare(done)


def steps(case: Case, rounds: int) -> int:
    """Return how many measurements `take` yields."""
    return rounds * (2 * len(SHARES) + bool(case.loop))


def _variants(case: Case) -> list[str]:
    return ["limit", "job", "loop"] if case.loop else ["limit", "job"]


@contextmanager
def _template(server: Server, case: Case, size: Size, say: Say) -> Iterator[str]:
    """Make the data of a case, from which the measurements get copies."""
    say(f"making the data to {case.describe(size)}")
    name = "template_" + case.name.replace("-", "_")
    server.create(name)
    try:
        engine = create_engine(server.url(name), poolclass=NullPool)
        schema.migrate(engine)
        with engine.begin() as connection:
            # Without triggers: foreign keys are true by construction, and nothing is a change yet.
            connection.execute(text("SET LOCAL session_replication_role = replica"))
            for statement in case.fill(size):
                connection.execute(text(statement))
        # Leave nothing for the first reader to do: dead rows, hint bits, missing statistics.
        server.execute("VACUUM (FREEZE, ANALYZE)", database=name)
        yield name
    finally:
        server.drop(name)


def _run(
    server: Server,
    template: str,
    case: Case,
    variant: str,
    *,
    size: Size,
    number: int = 0,
) -> Taken:
    with server.copy_of(template) as database:
        if case.after_first_run:
            # In the copy, and not once for all: that run may be too long ago by now to count.
            _child(server.url(database), "job", case)
            # What autovacuum and checkpoints do between two runs.
            server.execute("VACUUM (ANALYZE)", "CHECKPOINT", database=database)
            server.execute(*case.after_first_run(size), database=database)
        units = 0
        if variant == "loop":
            units = int(server.row(case.loop_units, database)[0])
        sample = min(units, case.loop_sample)
        wal_before = server.wal_position()
        outcome = _child(server.url(database), variant, case, sample)
        wal_bytes = server.wal_position() - wal_before
        fingerprint = [
            [str(value) for value in server.row(query, database, **_now(query, outcome["now"]))]
            for query in case.results
        ]
    factor = units / sample if sample else 1
    measurement = Measurement(
        case=case.name,
        variant=variant,
        share=size.share,
        round=number,
        seconds=outcome["seconds"] * factor,
        measured_seconds=outcome["seconds"],
        rows=outcome["units"] if variant == "job" else 0,
        sampled=sample,
        memory_bytes=outcome["memory_bytes"],
        idle_bytes=outcome["idle_bytes"],
        longest_transaction_seconds=outcome["longest_transaction_seconds"],
        transactions=outcome["transactions"],
        wal_bytes=wal_bytes,
    )
    return Taken(measurement, fingerprint, is_complete=sample == units)


def _now(query: str, now: str) -> dict[str, str]:
    return {"now": now} if ":now" in query else {}


def _compare(done: list[Taken]) -> None:
    complete = [taken for taken in done if taken.is_complete]
    for taken in complete[1:]:
        if taken.fingerprint != complete[0].fingerprint:
            one, other = complete[0].measurement, taken.measurement
            raise MeasurementError(
                f"{one.case}: {one.variant} and {other.variant} left different rows behind:\n"
                f"{complete[0].fingerprint}\n{taken.fingerprint}"
            )


def _child(url: str, variant: str, case: Case, sample: int = 0) -> dict[str, Any]:
    # None of the service's settings but this one; and no .env file, which a folder may have.
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name.lower() not in Settings.model_fields and name != "CLOUDAMQP_URL"
    }
    done = subprocess.run(  # noqa: S603 - our own module
        [sys.executable, "-m", "bench.worker", variant, case.name, str(sample)],
        cwd=Path(__file__).parent,
        env={
            **inherited,
            "PYTHONPATH": str(REPOSITORY),
            "DATABASE_URL": url,
            "LOG_LEVEL": "WARNING",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise MeasurementError(f"{case.name}: {variant} failed\n{done.stderr.strip()}")
    outcome: dict[str, Any] = json.loads(done.stdout)
    return outcome
