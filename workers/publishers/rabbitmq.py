"""Publishes the outbox to RabbitMQ, with many confirms in flight.

Waiting for each message's confirm before sending the next costs a round trip and, for a durable
queue, a write to disk each. Here messages are sent as fast as the socket takes them, and confirms
are collected as they come. Only the events of one key go one by one (a *lane*), each after the
confirm of the one before: RabbitMQ keeps the order of what it keeps, but if it refuses or loses
one of several in flight, the next may be in a queue already.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import pika

from workers.outbox import Stored, StoredEvent, StoredMessage
from workers.publishers.connection import Connection
from workers.rabbitmq import EXCHANGE, Rabbitmq
from workers.relay import PublisherError

CONNECTION_NAME = "outbox relay"

Lane = deque[Stored]
"""What is to be published one after the other; the first is in flight."""


class RabbitmqPublisher:
    """Publishes over one connection. After a failure it is of no more use.

    Args:
        broker: names the nodes, and the queues' arguments.

    Raises:
        PublisherError: if RabbitMQ cannot be reached, or refuses.
    """

    def __init__(self, broker: Rabbitmq) -> None:
        self._broker = broker
        self._sent = 0
        self._in_flight: dict[int, Lane] = {}
        self._confirmed: list[Stored] = []
        self._returned: set[str] = set()
        self._missing_queues: set[str] = set()
        self._connection = Connection(
            broker.parameters,
            name=CONNECTION_NAME,
            on_confirm=self._on_confirm,
            on_return=self._on_return,
        )
        self._channel = self._connection.channel
        try:
            self._connection.answer_to(self._declare_exchange)
        except BaseException:
            self.close()
            raise

    def publish(self, pending: Sequence[Stored]) -> Sequence[Stored]:
        """Publish, and return what RabbitMQ has confirmed.

        An event that no queue is bound for is confirmed too. A message whose queue is missing is
        not; its queue is declared instead, for the next time.
        """
        self._connection.require_alive()
        self._confirmed = []
        self._returned.clear()
        for lane in _lanes(pending):
            self._send(lane)
        with suppress(PublisherError):  # what is confirmed is confirmed; the next call raises it
            self._connection.wait_until(lambda: not self._in_flight)
            self._declare_missing_queues()
        return self._confirmed

    def keep_alive(self) -> None:
        """Exchange heartbeats, if they are due."""
        self._connection.keep_alive()

    def close(self) -> None:
        """End the connection."""
        self._connection.close()

    def _send(self, lane: Lane) -> None:
        stored = lane[0]
        if isinstance(stored, StoredEvent):
            # Nobody needs to care for an event …
            exchange, routing_key, is_mandatory = EXCHANGE, stored.type, False
            properties = _event_properties(stored)
        else:
            # … but a message without its queue would be lost.
            exchange, routing_key, is_mandatory = "", stored.queue, True
            properties = _message_properties(stored)
        self._channel.basic_publish(
            exchange, routing_key, stored.body.encode(), properties, mandatory=is_mandatory
        )
        # RabbitMQ counts what is published on a channel, and confirms by number.
        self._sent += 1
        self._in_flight[self._sent] = lane

    def _on_confirm(self, frame: Any) -> None:
        answer = frame.method
        tags = [answer.delivery_tag]
        if answer.multiple:
            tags = [tag for tag in self._in_flight if tag <= answer.delivery_tag]
        for tag in tags:
            lane = self._in_flight.pop(tag)
            stored = lane.popleft()
            is_returned = isinstance(stored, StoredMessage) and stored.message_id in self._returned
            if isinstance(answer, pika.spec.Basic.Ack) and not is_returned:
                self._confirmed.append(stored)
                if lane:
                    self._send(lane)

    def _on_return(self, method: Any, properties: Any) -> None:
        # Comes before the confirm of the same message.
        self._returned.add(properties.message_id)
        self._missing_queues.add(method.routing_key)

    def _declare_exchange(self, answer: Callable[[Any], None]) -> None:
        self._channel.exchange_declare(
            EXCHANGE, exchange_type="topic", durable=True, callback=answer
        )

    def _declare_missing_queues(self) -> None:
        while self._missing_queues:
            queue = self._missing_queues.pop()
            for name, arguments in self._broker.queue_arguments(queue).items():
                self._connection.answer_to(partial(self._declare_queue, name, arguments))

    def _declare_queue(
        self, name: str, arguments: dict[str, Any], answer: Callable[[Any], None]
    ) -> None:
        self._channel.queue_declare(name, durable=True, arguments=arguments, callback=answer)


def _lanes(pending: Iterable[Stored]) -> list[Lane]:
    """Put the events of a key into one lane, in their order, and each message into its own."""
    lanes: list[Lane] = []
    lane_of: dict[str, Lane] = {}
    for stored in pending:
        if isinstance(stored, StoredEvent) and stored.key in lane_of:
            lane_of[stored.key].append(stored)
            continue
        lanes.append(deque([stored]))
        if isinstance(stored, StoredEvent):
            lane_of[stored.key] = lanes[-1]
    return lanes


def _message_properties(message: StoredMessage) -> pika.BasicProperties:
    return pika.BasicProperties(
        delivery_mode=pika.DeliveryMode.Persistent.value,
        message_id=message.message_id,
        priority=message.priority,
    )


def _event_properties(event: StoredEvent) -> pika.BasicProperties:
    return pika.BasicProperties(
        delivery_mode=pika.DeliveryMode.Persistent.value,
        message_id=str(event.id),
        content_type="application/json",
        headers={
            "key": event.key,
            "created_at": f"{event.created_at:%Y-%m-%dT%H:%M:%S.%fZ}",
        },
    )
