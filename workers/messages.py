"""Which messages are ours. Whatever else lies in a queue is refused as it arrives.

dramatiq takes a message at its word: its shape, the queue that it names, how long it asks to wait.
One that is wrong in the right place stops its queue, while the process stays alive: options that
are null crash the consumer each time it starts, the name of another queue ends a worker thread, and
a few that ask to wait for a year take the places of all others. So each is looked at here before
dramatiq handles it. Nothing here reads the clock or has an effect.
"""

import inspect
import json
import math
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, NamedTuple

import dramatiq
from dramatiq.common import q_name

from workers.job import DEFAULT_RETRY_DELAY_SECONDS
from workers.periodic import EPOCH, Ticker
from workers.runs import run_key

Actors = Mapping[str, dramatiq.Actor[Any, Any]]

MAX_BODY_BYTES = 1_000_000
"""Jobs are given names and numbers, not files; RabbitMQ itself takes 128 MB and more."""

MAX_DEPTH = 50
"""Of nested arrays and objects. Python gives up at some hundreds, here or when it encodes again."""

MAX_NAME_CHARACTERS = 255
"""Of a message id, which is a key of the ledger."""

MAX_AHEAD = timedelta(days=1)
"""How far in the future a time may lie; an ``eta``, beyond the delays of its job's retries."""

FIELDS: dict[str, type] = {
    "queue_name": str,
    "actor_name": str,
    "args": list,
    "kwargs": dict,
    "options": dict,
    "message_id": str,
    "message_timestamp": int,
}
JSON_NAMES: dict[type, str] = {
    str: "a string",
    list: "an array",
    dict: "an object",
    int: "an integer",
    float: "a fraction",
    bool: "a boolean",
    type(None): "null",
}
MAX_PRIORITY = 255
"""What fits into the field of AMQP; RabbitMQ takes what is above the queue's maximum for that."""

EXCERPT_CHARACTERS = 60


class Refused(Exception):  # noqa: N818 - it names what happened
    """A message is not ours; the text says why, in one short line."""


class Identity(NamedTuple):
    """What can be told of a message, ours or not."""

    message_id: str | None = None
    job: str | None = None
    slot: datetime | None = None
    run_key: str | None = None
    """None also if the message is for a slot, and nobody can tell for which."""


def read(body: bytes, *, queue_name: str, actors: Actors, now: datetime) -> dramatiq.Message[Any]:
    """Return the message that was taken from a queue.

    Its ``queue_name`` is then that queue's name, by which dramatiq finds the consumer to
    acknowledge to.

    Args:
        body: what was published.
        queue_name: the queue, or delay queue, that it was taken from.
        actors: those that this process knows, by name.
        now: the present time.

    Raises:
        Refused: if it is not ours.
    """
    fields = _decode(body)
    _check_fields(fields)
    if q_name(fields["queue_name"]) != q_name(queue_name):
        raise Refused(f"it names another queue, {excerpt(fields['queue_name'])}")
    if not _is_name(fields["message_id"]):
        raise Refused(f"message_id must be 1 to {MAX_NAME_CHARACTERS} printable characters")
    actor = actors.get(fields["actor_name"])
    if actor is None:
        raise Refused(f"there is no actor {excerpt(fields['actor_name'])}")
    _check_arguments(actor, fields["args"], fields["kwargs"])
    if not 0 <= fields["message_timestamp"] <= _milliseconds(now + MAX_AHEAD):
        raise Refused("message_timestamp is not a time in the past")
    _check_options(actor, fields["options"], now)
    return dramatiq.Message(**{**fields, "queue_name": queue_name, "args": tuple(fields["args"])})


def identify(body: bytes, actors: Actors) -> Identity:
    """Tell of a message, whatever is wrong with it, as much as can be told."""
    try:
        fields = _decode(body)
    except Refused:
        return Identity()
    names = (fields.get("message_id"), fields.get("actor_name"))
    message_id, job = (name if _is_name(name) else None for name in names)
    options = fields.get("options")
    slot = None
    if isinstance(options, dict) and "scheduled_at" in options:
        try:
            slot = _slot(actors[job or ""], options)
        except (KeyError, Refused):
            return Identity(message_id, job)
    return Identity(message_id, job, slot, message_id and run_key(job or "", slot, message_id))


def excerpt(text: str | bytes) -> str:
    """Shorten what came from outside to what a line of a log can bear."""
    return ascii(text[:EXCERPT_CHARACTERS]) + ("…" if len(text) > EXCERPT_CHARACTERS else "")


def _decode(body: bytes) -> dict[str, Any]:
    if len(body) > MAX_BODY_BYTES:
        raise Refused(f"its body has {len(body)} bytes, more than {MAX_BODY_BYTES}")
    try:
        fields = json.loads(body.decode())
    except (ValueError, RecursionError) as error:
        raise Refused(f"its body is not JSON: {type(error).__name__}") from None
    if not isinstance(fields, dict):
        raise Refused(f"its body is {JSON_NAMES[type(fields)]}, not an object")
    if _is_deeper_than(MAX_DEPTH, fields):
        raise Refused(f"its body is nested deeper than {MAX_DEPTH} levels")
    return fields


def _is_deeper_than(levels: int, value: Any) -> bool:
    layer: list[Any] = [value]
    for _ in range(levels):
        children: list[Any] = []
        for each in layer:
            if isinstance(each, dict):
                children += each.values()
            elif isinstance(each, list):
                children += each
        layer = children
    return any(isinstance(each, dict | list) for each in layer)


def _check_fields(fields: dict[str, Any]) -> None:
    for name, wanted in FIELDS.items():
        if name not in fields:
            raise Refused(f"{name} is missing")
        # A boolean is an int to Python only.
        if type(fields[name]) is not wanted:
            is_now = JSON_NAMES[type(fields[name])]
            raise Refused(f"{name} must be {JSON_NAMES[wanted]}, and is {is_now}")
    for name in fields:
        if name not in FIELDS:
            raise Refused(f"there is no field {excerpt(name)}")


def _is_name(value: Any) -> bool:
    """Tell whether PostgreSQL and a line of a log can bear a name.

    NUL, lone surrogates and line breaks are not printable.
    """
    return isinstance(value, str) and 0 < len(value) <= MAX_NAME_CHARACTERS and value.isprintable()


def _check_arguments(
    actor: dramatiq.Actor[Any, Any], args: list[Any], kwargs: dict[str, Any]
) -> None:
    try:
        # What comes first is the `Run`, which is not in the message.
        _signature(actor.fn).bind(None, *args, **kwargs)
    except TypeError as error:
        reason = excerpt(str(error))
        raise Refused(f"its arguments do not fit {actor.actor_name}: {reason}") from None


@lru_cache(maxsize=256)
def _signature(function: Callable[..., Any]) -> inspect.Signature:
    return inspect.signature(function)


def _check_options(actor: dramatiq.Actor[Any, Any], options: dict[str, Any], now: datetime) -> None:
    retry_delay_seconds = actor.options.get("retry_delay_seconds", DEFAULT_RETRY_DELAY_SECONDS)
    # Another message of a run that is to be retried is put off for two delays.
    latest_eta = now + MAX_AHEAD + timedelta(seconds=2 * retry_delay_seconds)
    _check_number("eta", options, upper_bound=_milliseconds(latest_eta))
    _check_number("time_limit", options, upper_bound=MAX_AHEAD // timedelta(milliseconds=1))
    if (options.get("time_limit") or 1) <= 0:
        raise Refused("time_limit must be more than 0")
    priority = options.get("broker_priority")
    if priority is not None and not (type(priority) is int and 0 <= priority <= MAX_PRIORITY):
        raise Refused(f"broker_priority must be an integer from 0 to {MAX_PRIORITY}")
    if options.get("throws") is not None:
        # dramatiq would look there for classes of exceptions, and lose the thread over anything
        # else, just when the job has failed.
        raise Refused("throws must be set on the actor, not on a message")
    slot = _slot(actor, options)
    if slot is not None and slot > now + MAX_AHEAD:
        raise Refused("scheduled_at is too far in the future")


def _check_number(name: str, options: dict[str, Any], *, upper_bound: int) -> None:
    value = options.get(name)
    if value is None:
        return
    if type(value) not in (int, float) or (isinstance(value, float) and not math.isfinite(value)):
        raise Refused(f"{name} must be a number")
    if value > upper_bound:
        raise Refused(f"{name} is more than {upper_bound}")


def _slot(actor: dramatiq.Actor[Any, Any], options: dict[str, Any]) -> datetime | None:
    ticker: Ticker | None = actor.options.get("periodic")
    try:
        return ticker.slot_of(options) if ticker else None
    except ValueError:
        raise Refused("scheduled_at is not a time") from None


def _milliseconds(moment: datetime) -> int:
    return (moment - EPOCH) // timedelta(milliseconds=1)
