"""Where the dead letters of a broker are kept."""

from collections.abc import Iterator
from contextlib import contextmanager

import dramatiq
from dramatiq.brokers.stub import StubBroker

from workers.database import Database
from workers.dead_letters.ledger import DeadRuns
from workers.dead_letters.letters import Cabinet


@contextmanager
def open_cabinet(broker: dramatiq.Broker, database: Database) -> Iterator[Cabinet]:
    """Open what the dead letters of `broker` are kept in, and close it after the block.

    Raises:
        ConnectionClosed: if it is in RabbitMQ, which cannot be reached, or fails within the block.
    """
    if isinstance(broker, StubBroker):
        yield DeadRuns(database, broker.actors)
        return
    from workers.dead_letters.queues import open_queues  # noqa: PLC0415 - pika may be missing
    from workers.rabbitmq import Rabbitmq  # noqa: PLC0415

    assert isinstance(broker, Rabbitmq)  # noqa: S101 - there are two kinds
    with open_queues(broker, database) as cabinet:
        yield cabinet
