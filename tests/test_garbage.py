"""A queue full of garbage is a queue like any other: what is ours gets done."""

import json
import random

import dramatiq
import pytest

from tests import garbage
from tests.probes import Service, log_lines
from tests.rig.rabbitmq import RabbitMQ
from tests.rig.waiting import eventually
from workers import messages
from workers.broker import build_broker
from workers.database import Database
from workers.job import Job, Run
from workers.messages import Refused
from workers.periodic import utc_now
from workers.settings import Settings

pytest_plugins = ["tests.probe_fixtures"]

JOB = "probe_effect"
PATIENCE_SECONDS = 240
BODIES = 24_000
GOOD_ONES = 240


def publish(rabbitmq: RabbitMQ, bodies: list[tuple[str, bytes]]) -> None:
    """Put bodies on their queues over one connection."""
    with rabbitmq.channel() as channel:
        for queue, body in bodies:
            channel.basic_publish(exchange="", routing_key=queue, body=body)


def make_actors() -> messages.Actors:
    """Declare the job as the workers do."""
    database = Database("postgresql+psycopg2://nobody@127.0.0.1:1/nothing")
    broker = build_broker(Settings(), database, (), in_process=True)

    def probe_effect(run: Run) -> None: ...

    dramatiq.actor(actor_class=Job, broker=broker)(probe_effect)
    return broker.actors


def is_ours(body: bytes, actors: messages.Actors) -> bool:
    try:
        messages.read(body, queue_name="default", actors=actors, now=utc_now())
    except Refused:
        return False
    return True


@pytest.mark.timeout(600)
def test_good_messages_get_done_amid_garbage(service: Service) -> None:
    # Given good messages, and a hundred times as many that are not ours
    chance = random.Random(22)
    good = [garbage.good(chance, job=JOB, queue="default") for _ in range(GOOD_ONES)]
    spoiled = list(garbage.spoil_many(22, BODIES, job=JOB, queue="default"))
    actors = make_actors()
    still_good = [body for body in spoiled if is_ours(body, actors)]
    bad = [b"x" * 10_000_000, *(body for body in spoiled if not is_ours(body, actors))]
    assert len(bad) > 20_000
    bodies = [(chance.choice(("default", "default.DQ")), body) for body in bad]
    bodies += [("default", garbage.encode(fields)) for fields in good]
    chance.shuffle(bodies)

    # When a worker is to do them
    service.declare("default")
    publish(service.rabbitmq, bodies)
    worker = service.start_worker(threads=2)

    # Then it does all good ones, and keeps all others as dead letters
    eventually(
        lambda: service.effects() == GOOD_ONES,
        timeout_seconds=PATIENCE_SECONDS,
        message="Not all good messages are done",
    )
    eventually(
        lambda: service.rabbitmq.queue_counts("default.XQ").ready == len(bad),
        timeout_seconds=PATIENCE_SECONDS,
        message=f"There are not {len(bad)} dead letters",
    )
    for fields in good:
        assert service.effects(str(fields["message_id"])) == 1

    # And the log has a line for each, and no stack trace
    lines = [line for line in log_lines(worker) if line["event"].startswith("Dead-lettered")]
    assert len(lines) == len(bad)
    assert "Traceback" not in worker.output
    assert "Restarting consumer" not in worker.output
    assert max(len(json.dumps(line)) for line in lines) < 1_000

    # And what is odd in a way that does no harm does none
    publish(service.rabbitmq, [("default", body) for body in still_good[:300]])
    last = service.send(JOB)
    service.wait_for_run(last, "succeeded")
    eventually(lambda: service.rabbitmq.queue_counts("default").ready == 0)
    assert worker.returncode is None
    assert service.rabbitmq.queue_counts("default").consumers == 1
    assert service.rabbitmq.queue_counts("default.DQ").consumers == 1
