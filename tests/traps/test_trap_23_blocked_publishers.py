"""Trap 23: under a memory alarm RabbitMQ reads nothing from whoever publishes, so a confirmed
publish hangs without end.

So a connection that is blocked is given up after a while. dramatiq tries six times.
"""

import threading
from collections.abc import Iterator

import dramatiq
import pytest
from dramatiq.brokers.rabbitmq import MAX_ENQUEUE_ATTEMPTS, RabbitmqBroker
from dramatiq.errors import ConnectionClosed

from tests.rig.rabbitmq import RabbitMQ
from tests.rig.waiting import eventually
from workers.broker import build_broker
from workers.database import Database
from workers.job import Job
from workers.rabbitmq import MAX_PRIORITY, Rabbitmq
from workers.settings import Settings


@pytest.fixture
def out_of_memory(clean_rabbitmq: RabbitMQ) -> Iterator[RabbitMQ]:
    """A broker that takes nothing."""
    clean_rabbitmq.ctl("set_vm_memory_high_watermark", "0.00001")
    yield clean_rabbitmq
    clean_rabbitmq.ctl("set_vm_memory_high_watermark", "0.4")


def build(url: str) -> Rabbitmq:
    database = Database("postgresql+psycopg2://nobody@127.0.0.1:1/never-asked")
    broker = build_broker(Settings(rabbitmq_url=url), database, ())
    assert isinstance(broker, Rabbitmq)
    return broker


def test_a_publish_fails_after_six_times_the_timeout(out_of_memory: RabbitMQ) -> None:
    # Given dramatiq's broker as it comes, and ours
    stock = RabbitmqBroker(
        url=out_of_memory.url,
        confirm_delivery=True,
        max_priority=MAX_PRIORITY,
        middleware=[],
    )
    stock_job = dramatiq.actor(broker=stock, actor_name="job")(repr)
    broker = build(f"{out_of_memory.url}/?blocked_connection_timeout=0.3")
    job = dramatiq.actor(actor_class=Job, broker=broker, actor_name="job")(repr)

    # When both are to send while RabbitMQ takes nothing
    publisher = threading.Thread(target=stock_job.send, args=(1,), daemon=True)
    publisher.start()
    with pytest.raises(ConnectionClosed):
        job.send(1)

    # Then ours has said so; the trap is that the other hangs, as long as the alarm lasts
    assert publisher.is_alive()
    out_of_memory.ctl("set_vm_memory_high_watermark", "0.4")
    eventually(lambda: not publisher.is_alive(), timeout_seconds=60)
    stock.close()
    broker.close()


def test_the_timeout_is_set_unless_the_url_says_otherwise() -> None:
    def timeout(url: str) -> float:
        (parameters,) = build(url).parameters
        return float(parameters.blocked_connection_timeout)

    assert timeout("amqp://localhost") == 5
    assert timeout("amqp://localhost/?blocked_connection_timeout=9") == 9
    # What `outbox.enqueue` is for: who must not wait so long sends with the transaction.
    assert MAX_ENQUEUE_ATTEMPTS == 6
