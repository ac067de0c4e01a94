"""Messages that are not ours: good ones with something wrong, and what never was a message.

The same seed gives the same garbage, so that what failed can be looked at again.
"""

import json
import random
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

Fields = dict[str, Any]

VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 3.5, 10**18, 10**400, -(10**18), float("nan"), float("inf")),
    *("", "x", "1", "nul \x00", "lone \ud800", "line\nbreak", "x" * 300, "default", "low.DQ"),
    *([], [1], [[]], {}, {"x": 1}, {"eta": None}),
)
"""Odd in one place or another."""

OPTIONS = (
    *("eta", "broker_priority", "time_limit", "throws", "scheduled_at", "max_retries"),
    *("retries", "pipe_target", "on_failure", "traceback"),
)


def good(chance: random.Random, *, job: str, queue: str, **arguments: Any) -> Fields:
    """Make a message as dramatiq would."""
    return {
        "queue_name": queue,
        "actor_name": job,
        "args": [],
        "kwargs": arguments,
        "options": {},
        "message_id": str(UUID(int=chance.getrandbits(128), version=4)),
        "message_timestamp": 1_700_000_000_000,
    }


def encode(fields: Any) -> bytes:
    return json.dumps(fields, separators=(",", ":")).encode()


def spoiled(chance: random.Random, fields: Fields) -> bytes:
    """Spoil a good message in a way taken by chance. By chance, it may still be good after that."""
    return chance.choice(WAYS)(chance, fields)


def spoil_many(seed: int, count: int, *, job: str, queue: str) -> Iterator[bytes]:
    """Spoil as many messages as wanted."""
    chance = random.Random(seed)
    for _ in range(count):
        yield spoiled(chance, good(chance, job=job, queue=queue))


def _replace_a_field(chance: random.Random, fields: Fields) -> bytes:
    return encode({**fields, chance.choice(list(fields)): chance.choice(VALUES)})


def _replace_two_fields(chance: random.Random, fields: Fields) -> bytes:
    return _replace_a_field(chance, json.loads(_replace_a_field(chance, fields)))


def _remove_a_field(chance: random.Random, fields: Fields) -> bytes:
    removed = chance.choice(list(fields))
    return encode({name: value for name, value in fields.items() if name != removed})


def _add_a_field(chance: random.Random, fields: Fields) -> bytes:
    return encode({**fields, chance.choice(("task", "id", "", "\x00")): chance.choice(VALUES)})


def _set_an_option(chance: random.Random, fields: Fields) -> bytes:
    option = {chance.choice(OPTIONS): chance.choice(VALUES)}
    return encode({**fields, "options": option})


def _set_an_argument(chance: random.Random, fields: Fields) -> bytes:
    if chance.random() < 0.5:
        return encode({**fields, "args": [chance.choice(VALUES)]})
    return encode({**fields, "kwargs": {chance.choice(("run", "x", "")): chance.choice(VALUES)}})


def _cut_off(chance: random.Random, fields: Fields) -> bytes:
    body = encode(fields)
    return body[: chance.randrange(len(body))]


def _flip_a_byte(chance: random.Random, fields: Fields) -> bytes:
    body = bytearray(encode(fields))
    body[chance.randrange(len(body))] = chance.randrange(256)
    return bytes(body)


def _other_json(chance: random.Random, _fields: Fields) -> bytes:
    return encode(chance.choice(VALUES))


def _noise(chance: random.Random, _fields: Fields) -> bytes:
    return chance.randbytes(chance.randrange(200))


def _nested(chance: random.Random, fields: Fields) -> bytes:
    depth = chance.choice((60, 500, 1_000, 20_000))
    opening, closing = chance.choice((("[", "]"), ('{"x":', "}")))
    nest = (opening * depth + "1" + closing * depth).encode()
    place = chance.choice((b'"args":[]', b'"options":{}'))
    return encode(fields).replace(place, place.split(b":")[0] + b":" + nest)


WAYS: tuple[Callable[[random.Random, Fields], bytes], ...] = (
    _replace_a_field,
    _replace_two_fields,
    _remove_a_field,
    _add_a_field,
    _set_an_option,
    _set_an_argument,
    _cut_off,
    _flip_a_byte,
    _other_json,
    _noise,
    _nested,
)
