"""How the page says numbers, times and names. Pure; each is a filter of the templates."""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from urllib.parse import quote

from markupsafe import Markup, escape

COMMAND = re.compile(r"\b(?:python -m workers|dramatiq workers|periodiq workers)(?: [\w-]+)*")

MINUTE, HOUR, DAY = 60, 3600, 86_400

STATUSES = {
    "succeeded": "succeeded",
    "running": "running",
    "retrying": "will be retried",
    "dead": "dead",
    "skipped": "skipped",
}


def duration(seconds: float | None) -> str:
    """Say how long something took, with two or three digits that count."""
    if seconds is None:
        return ""
    if seconds < 1:
        return f"{max(0, seconds) * 1000:.0f} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    return span(seconds)


def span(seconds: float | None) -> str:
    """Say a span of time by its two largest units: ``1 min 20 s``, ``3 h``, ``2 d 4 h``."""
    if seconds is None:
        return ""
    whole = max(0, round(seconds))
    for length, name, smaller_length, smaller_name in (
        (DAY, "d", HOUR, "h"),
        (HOUR, "h", MINUTE, "min"),
        (MINUTE, "min", 1, "s"),
    ):
        if whole >= length:
            rest = whole % length // smaller_length
            return f"{whole // length} {name}" + (f" {rest} {smaller_name}" if rest else "")
    return f"{whole} s"


def clock(moment: datetime | None) -> str:
    """Say the time of day in UTC."""
    return f"{moment:%H:%M:%S}" if moment else ""


def date_and_time(moment: datetime | None) -> str:
    """Say date and time in UTC."""
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC" if moment else ""


def slot(moment: datetime | None) -> str:
    """Say a slot: the time that a run was due."""
    return f"{moment.day} {moment:%b %H:%M:%S}" if moment else ""


def quoted(text: str) -> str:
    """Return text as a part of an address."""
    return quote(text, safe="")


def counts(result: Mapping[str, Any] | None) -> str:
    """Say what a run did: ``assigned 7, waiting 0``."""
    return ", ".join(
        f"{name.replace('_', ' ')} {_grouped(n)}" for name, n in (result or {}).items()
    )


def number(value: int | None) -> str:
    """Group a number's thousands."""
    return "" if value is None else _grouped(value)


def plural(count: int, noun: str, many: str | None = None) -> str:
    """Say how many: ``1 dead letter``, ``2 dead letters``."""
    return f"{_grouped(count)} {noun if count == 1 else many or noun + 's'}"


def title(name: str) -> str:
    """Say an identifier as words: ``Check expired coupons``."""
    words = name.replace("_", " ")
    return words[:1].upper() + words[1:]


def first_line(text: str | None) -> str:
    """Return the first line of an error."""
    return (text or "").strip().partition("\n")[0]


def rest_of(text: str | None) -> str:
    """Return an error without its first line: the stack trace."""
    return (text or "").strip().partition("\n")[2].strip("\n")


def with_commands(text: str) -> Markup:
    """Set the service's commands in a text apart, so that they can be seen, and copied."""
    # What goes in is escaped first, and a command has no character that escaping changes.
    return Markup(COMMAND.sub(r"<code>\g<0></code>", str(escape(text))))  # noqa: S704


def _grouped(value: Any) -> str:
    return f"{value:,}".replace(",", "\u202f") if isinstance(value, int) else str(value)


FILTERS = {
    "duration": duration,
    "span": span,
    "clock": clock,
    "date_and_time": date_and_time,
    "slot": slot,
    "quoted": quoted,
    "counts": counts,
    "number": number,
    "plural": plural,
    "title_words": title,
    "first_line": first_line,
    "rest_of": rest_of,
    "with_commands": with_commands,
}
