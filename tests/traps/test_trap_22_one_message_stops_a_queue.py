"""Trap 22: one message stops a queue while the process stays alive. Options that are null crash the
consumer for ever, the name of another queue ends a worker thread, a few that ask to wait for a year
take all places.

So each message is looked at as it arrives, and what is not ours is dead-lettered.
"""

import json
import random
import struct
from collections.abc import Callable
from typing import Any

import pika
import pytest

from tests import garbage
from tests.probes import PATIENCE_SECONDS, Service, log_lines
from tests.rig.waiting import eventually
from workers.periodic import EPOCH, utc_now

pytest_plugins = ["tests.probe_fixtures"]

JOB = "probe_effect"
THREADS = 2


def message(**changed: Any) -> bytes:
    return garbage.encode({**garbage.good(random.Random(), job=JOB, queue="default"), **changed})


def milliseconds_ahead(*, days: float) -> float:
    return ((utc_now() - EPOCH).total_seconds() + days * 86_400) * 1000


def deep() -> bytes:
    return message().replace(b'"args":[]', b'"args":' + b"[" * 100_000 + b"]" * 100_000)


POISONS: dict[str, Callable[[], bytes]] = {
    "no options": lambda: message(options=None),
    "another queue": lambda: message(queue_name="elsewhere"),
    "another queue of ours": lambda: message(queue_name="low"),
    "far future": lambda: message(options={"eta": milliseconds_ahead(days=365)}),
    "never": lambda: message(options={"eta": float("inf")}),
    "odd priority": lambda: message(options={"eta": 1, "broker_priority": "high"}),
    "odd exceptions": lambda: message(actor_name="probe_nightly", options={"throws": "Error"}),
    "odd slot": lambda: message(actor_name="probe_nightly", options={"scheduled_at": "soon"}),
    "odd id": lambda: message(message_id="nul \x00"),
    "odd arguments": lambda: message(args=[1, 2, 3]),
    "no such job": lambda: message(actor_name="make_coffee"),
    "no message": lambda: b"\x80 is no text",
    "ten megabytes": lambda: message() + b" " * 10_000_000,
    "very deep": deep,
}


@pytest.mark.parametrize("queue", ["default", "default.DQ"])
def test_what_is_not_ours_is_dead_lettered_and_the_rest_gets_done(
    service: Service, queue: str
) -> None:
    # Given of each poison more than a process takes at a time, and a good message behind
    service.declare("default")
    bodies = [poison() for poison in POISONS.values() for _ in range(THREADS + 1)]
    for body in bodies:
        service.rabbitmq.publish(queue, body)
    good = service.send(JOB)

    # When a worker starts
    worker = service.start_worker(threads=THREADS)

    # Then it does the good one, and keeps the poison as dead letters, with a line for each
    service.wait_for_run(good, "succeeded")
    eventually(
        lambda: service.rabbitmq.queue_counts("default.XQ").ready == len(bodies),
        timeout_seconds=PATIENCE_SECONDS,
        message=f"There are not {len(bodies)} dead letters",
    )
    lines = [line for line in log_lines(worker) if line["event"].startswith("Dead-lettered")]
    assert len(lines) == len(bodies)
    assert "Traceback" not in worker.output

    # And all its parts are alive
    for _ in range(2 * THREADS):
        service.wait_for_run(service.send(JOB), "succeeded")
    for name in ("default", "default.DQ"):
        assert service.rabbitmq.queue_counts(name).consumers == 1
    assert "Restarting consumer" not in worker.output


def test_a_header_that_no_code_of_ours_is_asked_about_does_not_stop_the_queue(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a message with a time in its headers, counted in milliseconds instead of seconds
    class Milliseconds(int): ...

    encode_value = pika.data.encode_value

    def encode(pieces: list[bytes], value: object) -> int:
        if not isinstance(value, Milliseconds):
            return int(encode_value(pieces, value))
        pieces.append(struct.pack(">cQ", b"T", value))
        return len(pieces[-1])

    service.declare("default")
    headers = {"sent": Milliseconds(1_700_000_000_000), "nested": {"also": Milliseconds(2**63)}}
    with monkeypatch.context() as patched, service.rabbitmq.channel() as channel:
        patched.setattr("pika.data.encode_value", encode)
        channel.basic_publish("", "default", b"?", pika.BasicProperties(headers=headers))
    good = service.send(JOB)

    # Then it is dead-lettered like any other, and the rest gets done
    worker = service.start_worker(threads=1)
    service.wait_for_run(good, "succeeded")
    eventually(lambda: service.rabbitmq.queue_counts("default.XQ").ready == 1)
    assert "Restarting consumer" not in worker.output


def test_messages_that_have_to_wait_take_no_place_of_others(service: Service) -> None:
    # Given more messages that ask to wait for an hour than a process takes at a time
    service.declare("default")
    waiting = [
        message(options={"eta": milliseconds_ahead(days=1 / 24), "broker_priority": 5})
        for _ in range(THREADS + 1)
    ]
    for body in waiting:
        service.rabbitmq.publish("default", body)

    # When a worker finds them before a good message
    worker = service.start_worker(threads=THREADS)
    good = service.send(JOB)

    # Then they wait elsewhere
    service.wait_for_run(good, "succeeded")
    worker.kill()
    eventually(
        lambda: service.rabbitmq.queue_counts("default.DQ").ready == len(waiting),
        timeout_seconds=PATIENCE_SECONDS,
        message="They are lost",
    )
    assert service.rabbitmq.queue_counts("default").ready == 0
    for each in service.rabbitmq.peek("default.DQ"):
        assert each.properties.priority == 5
        assert json.loads(each.body)["options"]["eta"] > milliseconds_ahead(days=1 / 25)
