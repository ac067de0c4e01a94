"""How the process logs: one JSON object a line for machines, one readable line for people.

Records of libraries pass through the same formatter, so each line that is written during a run
carries its job, slot, attempt and message id, and how long it has taken so far, whoever wrote it.
No line leaves with a password in it.
"""

import logging
import sys
import time
from contextvars import ContextVar
from datetime import datetime
from types import TracebackType
from typing import Any, Literal

import structlog
from structlog.typing import EventDict, Processor

from workers.redaction import redacted

run_began: ContextVar[float | None] = ContextVar("run_began", default=None)
"""When the run in this thread was delivered, by the monotonic clock; None outside of runs."""


def _add_duration(_logger: Any, _method: str, event: EventDict) -> EventDict:
    began = run_began.get()
    if began is not None:
        event.setdefault("duration_seconds", round(time.monotonic() - began, 6))
    return event


SHARED: list[Processor] = [
    structlog.contextvars.merge_contextvars,
    _add_duration,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]

MARKS = {
    "succeeded": ("✓", "32"),
    "retrying": ("↻", "33"),
    "dead": ("✗", "31"),
    "skipped": ("–", "90"),
    "duplicate": ("=", "90"),
    "postponed": ("…", "90"),
}
"""For the console: the mark and the ANSI colour of each outcome of a delivery."""


def configure(log_format: Literal["json", "console"], level: str) -> None:
    """Send all logging of this process to standard error in one format. Safe to call again."""
    if log_format == "json":
        # As text: the alternative, structured, shows the variables of each frame.
        last: list[Processor] = [structlog.processors.format_exc_info, _render_for_machines]
    else:
        last = [_render_for_people]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*SHARED, structlog.stdlib.ExtraAdder()],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    sys.excepthook = _log_uncaught
    # pika tells each step of each connection attempt; what matters of it, dramatiq says too.
    logging.getLogger("pika").setLevel(logging.CRITICAL)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    structlog.configure(
        processors=[*SHARED, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def _log_uncaught(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Let what ends the process end in the log too, in its format and without secrets."""
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
    else:
        logging.getLogger(__name__).critical("The process ends", exc_info=(kind, error, trace))


_to_json = structlog.processors.JSONRenderer(ensure_ascii=False)


def _render_for_machines(logger: Any, method: str, event: EventDict) -> str:
    return redacted(str(_to_json(logger, method, event)))


def _render_for_people(_logger: Any, _method: str, event: EventDict) -> str:
    clock = datetime.fromisoformat(event.pop("timestamp")).astimezone().strftime("%H:%M:%S")
    trace = event.pop("exc_info", None)
    level = event.pop("level")
    event.pop("logger", None)
    message = event.pop("event")
    if "outcome" in event:
        line = f"{clock}  {_outcome_line(event)}"
    else:
        details = "  ".join(f"{name}={value}" for name, value in event.items())
        line = f"{clock}  {'' if level == 'info' else level.upper() + ' '}{message}  {details}"
    if trace:
        line += (
            "\n" + structlog.processors.format_exc_info(None, "", {"exc_info": trace})["exception"]
        )
    return redacted(line.rstrip())


def _outcome_line(event: EventDict) -> str:
    mark, colour = MARKS[event["outcome"]]
    if sys.stderr.isatty():
        mark = f"\x1b[{colour}m{mark}\x1b[0m"
    slot = event.get("slot")
    due = f"slot {slot[11:19]}" if slot else "on demand"
    attempt = event.get("attempt") or 0
    parts = [f"{mark} {event['job']:<42} {due:<13}"]
    if "duration_seconds" in event:
        parts.append(f"{event['duration_seconds'] * 1000:>6.0f} ms")
    if attempt > 1:
        parts.append(f"attempt {attempt}")
    if event.get("result"):
        parts.append(", ".join(f"{name} {count}" for name, count in event["result"].items()))
    if event["outcome"] != "succeeded":
        parts.append(event["outcome"] + (f": {event['reason']}" if event.get("reason") else ""))
    return "  ".join(parts)
