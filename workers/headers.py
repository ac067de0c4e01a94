"""Lets pika read headers with a time in them that Python cannot express.

AMQP counts the seconds of a time, and publishers in other languages easily write milliseconds. pika
gives the connection up over the year 55840, and again at each redelivery, for ever; no code of ours
is asked before. Such a time is None instead.
"""

import struct
from typing import Any

import pika.data

KIND = b"T"
SIZE_BYTES = struct.calcsize(">cQ")

_decode_value = pika.data.decode_value


def tolerate_odd_times() -> None:
    """Have pika decode headers in this way from now on. Safe to call again."""
    pika.data.decode_value = _decode_leniently


def _decode_leniently(encoded: bytes, offset: int) -> tuple[Any, int]:
    try:
        value: tuple[Any, int] = _decode_value(encoded, offset)
    except (ValueError, OverflowError, OSError):
        if encoded[offset : offset + 1] != KIND:
            raise
        return None, offset + SIZE_BYTES
    return value
