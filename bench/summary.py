"""From measurements to what one wants to know: medians, ratios within rounds, growth."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from bench.cases import CASES, Case
from bench.measure import Measurement


@dataclass(frozen=True)
class Point:
    """A job at one size."""

    share: float
    rows: int
    job_seconds: float
    job_to_limit: float
    memory_bytes: int


@dataclass(frozen=True)
class Summary:
    """A case; at the largest size where nothing else is said."""

    case: Case
    share: float
    rows: int
    """What the job changed of its driving table."""
    job_seconds: float
    limit_seconds: float
    loop_seconds: float | None
    job_to_limit: float
    loop_to_job: float | None
    is_extrapolated: bool
    """The loop looked at a sample only."""
    longest_transaction_seconds: float
    """In any round."""
    transactions: int
    memory_bytes: int
    """In any round, above idle."""
    idle_bytes: int
    job_wal_bytes: int
    limit_wal_bytes: int
    points: tuple[Point, ...]
    """Smallest first."""
    growth: float
    """The exponent of the rows that fits the times best: 1 is linear."""


def summarize(measurements: Sequence[Measurement]) -> list[Summary]:
    """Return a summary of each case that was measured, in the order of `CASES`."""
    return [
        _summary(case, [each for each in measurements if each.case == case.name])
        for case in CASES
        if any(each.case == case.name for each in measurements)
    ]


def _summary(case: Case, measurements: list[Measurement]) -> Summary:
    shares = sorted({each.share for each in measurements})
    at_full = [each for each in measurements if each.share == shares[-1]]
    jobs, limits, loops = (_variant(at_full, name) for name in ("job", "limit", "loop"))
    points = tuple(_point(measurements, share) for share in shares)
    return Summary(
        case=case,
        share=shares[-1],
        rows=jobs[0].rows,
        job_seconds=_seconds(jobs),
        limit_seconds=_seconds(limits),
        loop_seconds=_seconds(loops) if loops else None,
        job_to_limit=_ratio(jobs, limits),
        loop_to_job=_ratio(loops, jobs) if loops else None,
        is_extrapolated=any(each.seconds > each.measured_seconds for each in loops),
        longest_transaction_seconds=max(each.longest_transaction_seconds for each in jobs),
        transactions=jobs[0].transactions,
        memory_bytes=max(each.memory_bytes for each in jobs),
        idle_bytes=max(each.idle_bytes for each in jobs),
        job_wal_bytes=round(median(each.wal_bytes for each in jobs)),
        limit_wal_bytes=round(median(each.wal_bytes for each in limits)),
        points=points,
        growth=_growth(points),
    )


def _point(measurements: list[Measurement], share: float) -> Point:
    at_size = [each for each in measurements if each.share == share]
    jobs, limits = _variant(at_size, "job"), _variant(at_size, "limit")
    return Point(
        share=share,
        rows=jobs[0].rows,
        job_seconds=_seconds(jobs),
        job_to_limit=_ratio(jobs, limits),
        memory_bytes=max(each.memory_bytes for each in jobs),
    )


def _variant(measurements: Iterable[Measurement], variant: str) -> list[Measurement]:
    return [each for each in measurements if each.variant == variant]


def _seconds(measurements: Iterable[Measurement]) -> float:
    return median(each.seconds for each in measurements)


def _ratio(above: list[Measurement], below: list[Measurement]) -> float:
    """The median of the ratios within each round."""
    seconds = {each.round: each.seconds for each in below}
    return median(each.seconds / seconds[each.round] for each in above)


def _growth(points: Sequence[Point]) -> float:
    """The slope of the straight line that fits best where both axes are logarithmic."""
    places = [(math.log(max(point.rows, 1)), math.log(point.job_seconds)) for point in points]
    middle_x, middle_y = fmean(x for x, _ in places), fmean(y for _, y in places)
    spread = sum((x - middle_x) ** 2 for x, _ in places)
    return sum((x - middle_x) * (y - middle_y) for x, y in places) / spread if spread else 0.0
