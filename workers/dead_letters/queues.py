"""Dead letters in RabbitMQ: the queues ``<queue>.XQ``.

They are read by taking messages one at a time without acknowledging them, so that only one is in
memory however many there are, and so that RabbitMQ puts back by itself whatever a command had in
hand that was killed. What was only looked at is given back at the end; until then others do not
see it. No more are taken than there were at the start: one that is sent again and fails at once
comes back behind them.

One is sent again in this order: its run is marked in the ledger, the message is published and
RabbitMQ has confirmed it, the dead letter is removed. Whoever is killed in between leaves two
messages of one run, of which the claim drops one; never none.
"""

import dataclasses
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import dramatiq
import pika
from dramatiq.common import q_name, xq_name
from dramatiq.errors import ConnectionClosed

from workers import dead_runs
from workers.database import Database
from workers.dead_letters.letters import Letter
from workers.dead_letters.taken import Taken
from workers.messages import Refused
from workers.rabbitmq import FAILURES, NOT_FOUND, Rabbitmq, reason_of

PAGE = 100
"""For so many letters at once the ledger is asked."""

ALL = 0
"""As a delivery tag: all that a channel has delivered and that are not yet acknowledged."""


class DeadLetterQueues:
    """The dead-letter queues of a broker, over one connection."""

    def __init__(
        self, connection: pika.BlockingConnection, broker: Rabbitmq, database: Database
    ) -> None:
        self._connection = connection
        self._broker = broker
        self._database = database
        self._publishing = connection.channel()
        self._publishing.confirm_delivery()

    def count(self, queues: Sequence[str]) -> int:
        return sum(self._count(queue) for queue in queues)

    def look(self, queues: Sequence[str], letter_id: str | None = None) -> Generator[Letter]:
        letters = (
            taken.describe(with_body=letter_id is not None)
            for taken in self._take(queues, letter_id)
        )
        while page := list(islice(letters, PAGE)):
            yield from self._with_their_runs(page)

    def requeue(self, queues: Sequence[str], letter_id: str | None = None) -> Generator[str]:
        for taken in self._take(queues, letter_id):
            self._send_again(taken)
            taken.remove()
            yield taken.id

    def drop(self, queues: Sequence[str], letter_id: str | None = None) -> Generator[str]:
        for taken in self._take(queues, letter_id):
            taken.remove()
            yield taken.id

    def _count(self, queue: str) -> int:
        channel = self._connection.channel()
        try:
            declared = channel.queue_declare(xq_name(queue), passive=True)
        except pika.exceptions.ChannelClosedByBroker as error:
            if error.reply_code == NOT_FOUND:
                return 0
            raise
        channel.close()
        return int(declared.method.message_count)

    def _take(self, queues: Sequence[str], letter_id: str | None) -> Iterator[Taken]:
        for queue in queues:
            count = self._count(queue)
            if not count:
                continue
            channel = self._connection.channel()
            try:
                for _ in range(count):
                    method, properties, body = channel.basic_get(xq_name(queue))
                    if method is None:
                        break  # somebody else took some
                    taken = Taken(
                        queue,
                        channel,
                        tag=method.delivery_tag,
                        properties=properties,
                        body=body,
                        actors=self._broker.actors,
                    )
                    if letter_id in (None, taken.id):
                        yield taken
            finally:
                if channel.is_open:
                    channel.basic_nack(ALL, multiple=True, requeue=True)
                    # A nack has no answer, but the queue hears it before this question: whoever
                    # looks next finds all of them.
                    channel.queue_declare(xq_name(queue), passive=True)
                    channel.close()

    def _with_their_runs(self, letters: list[Letter]) -> Iterator[Letter]:
        keys = {letter.run_key for letter in letters if letter.run_key}
        runs = dead_runs.find_runs(self._database, keys)
        for letter in letters:
            run = runs.get(letter.run_key or "")
            if run is None:
                yield letter
            else:
                yield dataclasses.replace(
                    letter,
                    status=run.status,
                    attempt=run.attempt,
                    error=run.error or letter.error,
                )

    def _send_again(self, taken: Taken) -> None:
        try:
            message = taken.read()
        except Refused:
            # As it is, and to where it came from: perhaps the workers, of another version or with
            # further modules, know what to do with it.
            self._mark(taken, None)
            self._publish(taken.origin, taken.body, taken.properties)
            return
        # Whatever it waited for is over.
        options = {name: value for name, value in message.options.items() if name != "eta"}
        message = dataclasses.replace(message, options=options)
        self._mark(taken, message)
        self._publish(taken.queue, message.encode(), taken.properties)

    def _mark(self, taken: Taken, message: dramatiq.Message[Any] | None) -> None:
        message_id, job, slot, run_key = taken.identity
        if message_id is None:
            return
        status = dead_runs.renew(self._database, message_id=message_id, run_key=run_key)
        if status is None and message and job and run_key:
            dead_runs.expect(
                self._database,
                run_key=run_key,
                job=job,
                slot=slot,
                message_id=message_id,
                queue=taken.queue,
                enqueued_at=message.message_datetime,
            )

    def _publish(self, queue: str, body: bytes, properties: pika.BasicProperties) -> None:
        try:
            self._publish_once(queue, body, properties)
        except pika.exceptions.UnroutableError:
            # Somebody deleted the queue.
            for name, arguments in self._broker.queue_arguments(q_name(queue)).items():
                self._publishing.queue_declare(name, durable=True, arguments=arguments)
            self._publish_once(queue, body, properties)

    def _publish_once(self, queue: str, body: bytes, properties: pika.BasicProperties) -> None:
        self._publishing.basic_publish(
            exchange="",
            routing_key=queue,
            body=body,
            properties=pika.BasicProperties(delivery_mode=2, priority=properties.priority),
            mandatory=True,
        )


@contextmanager
def open_queues(broker: Rabbitmq, database: Database) -> Iterator[DeadLetterQueues]:
    """Connect to RabbitMQ, and close the connection after the block.

    Raises:
        ConnectionClosed: if RabbitMQ cannot be reached, or fails within the block.
    """
    try:
        connection = pika.BlockingConnection(broker.parameters)
    except FAILURES as error:
        raise ConnectionClosed(reason_of(error)) from None
    try:
        yield DeadLetterQueues(connection, broker, database)
    except pika.exceptions.AMQPError as error:
        raise ConnectionClosed(reason_of(error)) from None
    finally:
        if connection.is_open:
            connection.close()
