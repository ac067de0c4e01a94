"""Where the dead letters of a broker are kept."""

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager

import dramatiq
from dramatiq.brokers.stub import StubBroker

from workers.database import Database
from workers.dead_letters.ledger import DeadRuns
from workers.dead_letters.letters import Cabinet, Letter


class WithStandbys:
    """The dead letters in RabbitMQ, and the dead runs of standbys, which left none there.

    Args:
        letters: what is in RabbitMQ.
        runs: what is in the ledger alone.
    """

    def __init__(self, letters: Cabinet, runs: DeadRuns) -> None:
        self._letters = letters
        self._runs = runs

    def count(self, queues: Sequence[str]) -> int:
        return self._letters.count(queues) + self._runs.count(queues)

    def look(self, queues: Sequence[str], letter_id: str | None = None) -> Generator[Letter]:
        yield from self._letters.look(queues, letter_id)
        yield from self._runs.look(queues, letter_id)

    def requeue(self, queues: Sequence[str], letter_id: str | None = None) -> Generator[str]:
        yield from self._letters.requeue(queues, letter_id)
        yield from self._runs.requeue(queues, letter_id)

    def drop(self, queues: Sequence[str], letter_id: str | None = None) -> Generator[str]:
        """Drop those in RabbitMQ; the rows of dead runs stay."""
        yield from self._letters.drop(queues, letter_id)


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
        yield WithStandbys(cabinet, DeadRuns(database, broker.actors))
