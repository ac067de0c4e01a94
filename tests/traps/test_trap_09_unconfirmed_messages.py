"""Trap 9: without confirms, a message can vanish on its way to the broker, and nobody is told.

So each is confirmed, and a queue that somebody deleted is declared again.
"""

from collections.abc import Iterator
from typing import cast

import dramatiq
import pytest
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from pika.exceptions import UnroutableError

from tests.rig.rabbitmq import RabbitMQ
from workers.broker import build_broker
from workers.database import Database
from workers.job import Job
from workers.rabbitmq import Rabbitmq
from workers.settings import Settings


def test_the_trap_is_there(clean_rabbitmq: RabbitMQ) -> None:
    # Given dramatiq's broker as it comes
    broker = RabbitmqBroker(url=clean_rabbitmq.url, middleware=[])
    job = dramatiq.actor(broker=broker, actor_name="job")(repr)
    job.send(1)
    clean_rabbitmq.delete_queues(["default"])

    # When a message is sent to a queue that is gone
    job.send(2)
    broker.close()

    # Then it is lost without a word
    assert clean_rabbitmq.queue_counts("default").ready == 0


@pytest.fixture
def broker(clean_rabbitmq: RabbitMQ) -> Iterator[Rabbitmq]:
    database = Database("postgresql+psycopg2://nobody@127.0.0.1:1/never-asked")
    broker = build_broker(Settings(rabbitmq_url=clean_rabbitmq.url), database, ())
    assert isinstance(broker, Rabbitmq)
    yield broker
    broker.close()


def test_no_message_is_lost_with_a_queue_that_somebody_deleted(
    broker: Rabbitmq, clean_rabbitmq: RabbitMQ
) -> None:
    # Given a publisher that has used a queue
    job = cast("Job", dramatiq.actor(actor_class=Job, broker=broker, actor_name="job")(repr))
    job.send()
    assert clean_rabbitmq.queue_counts("default").ready == 1

    # When the queue is deleted behind its back
    clean_rabbitmq.delete_queues(["default"])

    # Then the next message declares it again, and is there
    job.send()
    assert clean_rabbitmq.queue_counts("default").ready == 1
    job.send_with_options(delay=1000)
    assert clean_rabbitmq.queue_counts("default.DQ").ready == 1


def test_the_broker_is_asked_to_confirm(broker: Rabbitmq, clean_rabbitmq: RabbitMQ) -> None:
    assert clean_rabbitmq.url

    with pytest.raises(UnroutableError):
        broker.channel.basic_publish("", "no-such-queue", b"", mandatory=True)
