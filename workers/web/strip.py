"""The strip: a job's last runs as bars, oldest on the left, drawn as SVG.

Colour says the outcome, and so does the shape, for whoever sees no colours: a success is a solid
bar, as high as it took long; a failure reaches to the top and is cut through; a run that will be
retried is cut once more; one in progress is an outline; a skipped one a tick on the ground. What
each was, its title says.

Attributes only, no style: the page allows none inline.
"""

import math
from collections.abc import Iterator, Sequence
from urllib.parse import quote

from markupsafe import Markup

from workers.models import RunStatus
from workers.web import words
from workers.web.history import STRIP_RUNS, Mark

STEP, WIDTH = 6, 4
HEIGHT = 28
MIN_HEIGHT, MAX_HEIGHT = 4, HEIGHT - 2

BAR = Markup(
    '<a href="/run?key={key}" tabindex="-1"><title>{title}</title>'
    '<rect class="hit" x="{x}" width="{step}" height="{height}"/>{shape}</a>'
)
RECT = Markup('<rect class="{status}" x="{x}" y="{y}" width="{width}" height="{height}"/>')
STRIP = Markup(
    '<svg class="strip" role="img" aria-label="{label}" viewBox="0 0 {width} {height}" '
    'preserveAspectRatio="none">{bars}</svg>'
)

CUTS: dict[RunStatus, tuple[int, ...]] = {"dead": (12,), "retrying": (9, 17)}
"""Where bars are cut through, from the top: the shape of what did not end well."""
CUT_HEIGHT = 3


def draw(marks: Sequence[Mark]) -> Markup:
    """Draw the runs of one job, newest last, aligned to the right."""
    marks = marks[-STRIP_RUNS:]
    # Of those that went well: beside a run that waited for its time limit all would look alike.
    longest = max(
        (mark.seconds for mark in marks if mark.seconds and mark.status == "succeeded"), default=0.0
    )
    first_x = (STRIP_RUNS - len(marks)) * STEP
    bars = [
        BAR.format(
            key=quote(mark.run_key, safe=""),
            title=describe(mark),
            x=first_x + index * STEP,
            step=STEP,
            height=HEIGHT,
            shape=_shape(mark, first_x + index * STEP + 1, longest),
        )
        for index, mark in enumerate(marks)
    ]
    return STRIP.format(
        label=summarise(marks),
        width=STRIP_RUNS * STEP,
        height=HEIGHT,
        bars=Markup("").join(bars),
    )


def describe(mark: Mark) -> str:
    """Say one run in a line."""
    parts = [words.STATUSES[mark.status], words.date_and_time(mark.at)]
    if mark.seconds is not None and mark.status != "skipped":
        parts.append(words.duration(mark.seconds))
    if mark.attempt > 1:
        parts.append(f"attempt {mark.attempt}")
    return ", ".join(parts)


def summarise(marks: Sequence[Mark]) -> str:
    """Say a strip in a line, for whoever does not see it."""
    if not marks:
        return "no runs yet"
    counts: dict[str, int] = {}
    for mark in marks:
        counts[words.STATUSES[mark.status]] = counts.get(words.STATUSES[mark.status], 0) + 1
    said = ", ".join(f"{count} {status}" for status, count in counts.items())
    return f"last {words.plural(len(marks), 'run')}: {said}"


def _shape(mark: Mark, x: int, longest: float) -> Markup:
    return Markup("").join(
        RECT.format(status=mark.status, x=x, y=y, width=WIDTH, height=height)
        for y, height in _pieces(mark, longest)
    )


def _pieces(mark: Mark, longest: float) -> Iterator[tuple[int, int]]:
    """The pieces of a bar: where each begins, from the top, and how high it is."""
    if mark.status == "skipped":
        yield HEIGHT - 2, 2
        return
    height = MAX_HEIGHT if mark.status != "succeeded" else _height(mark.seconds, longest)
    top = HEIGHT - height
    for cut in CUTS.get(mark.status, ()):
        yield top, cut - top
        top = cut + CUT_HEIGHT
    yield top, HEIGHT - top


def _height(seconds: float | None, longest: float) -> int:
    """As the square root, so that short runs still differ beside a long one."""
    if not seconds or not longest:
        return MIN_HEIGHT
    return max(MIN_HEIGHT, round(MAX_HEIGHT * math.sqrt(seconds / longest)))
