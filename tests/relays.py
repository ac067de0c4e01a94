"""What the outbox's tests share: relays within the test's process, and somebody who subscribes."""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pika
from sqlalchemy import text

from tests.rig.rabbitmq import RabbitMQ
from tests.rig.waiting import eventually
from workers.broker import build_broker, make_relay
from workers.database import Database
from workers.outbox import record_events
from workers.rabbitmq import EXCHANGE
from workers.relay import Relay
from workers.settings import Settings

PATIENCE_SECONDS = 60
EVENT_TYPE = "tests.counted"


@dataclass(frozen=True)
class Received:
    """An event as a subscriber gets it."""

    routing_key: str
    key: str
    id: int
    payload: Any
    properties: pika.BasicProperties


def take_all(rabbitmq: RabbitMQ, queue: str) -> Iterator[tuple[Any, Any, bytes]]:
    """Take all messages off a queue: method, properties and body of each."""
    with rabbitmq.channel() as channel:
        while (message := channel.basic_get(queue, auto_ack=True))[0] is not None:
            yield message


class Subscriber:
    """A durable queue that is bound to the exchange of events."""

    def __init__(self, rabbitmq: RabbitMQ, name: str) -> None:
        self.rabbitmq = rabbitmq
        self.name = name

    def bind(self, *binding_keys: str, **arguments: Any) -> None:
        """Declare queue and exchange as docs/events.md tells subscribers to, and bind them."""
        with self.rabbitmq.channel() as channel:
            channel.exchange_declare(EXCHANGE, exchange_type="topic", durable=True)
            channel.queue_declare(self.name, durable=True, arguments=arguments)
            for binding_key in binding_keys:
                channel.queue_bind(self.name, EXCHANGE, binding_key)

    def count(self) -> int:
        return self.rabbitmq.queue_counts(self.name).ready

    def take(self) -> list[Received]:
        """Take all that is there, in its order."""
        return [
            Received(
                method.routing_key,
                properties.headers["key"],
                int(properties.message_id),
                json.loads(body),
                properties,
            )
            for method, properties, body in take_all(self.rabbitmq, self.name)
        ]

    def wait_for(self, count: int) -> list[Received]:
        """Wait until that many are there, and take them."""
        eventually(
            lambda: self.count() >= count,
            timeout_seconds=PATIENCE_SECONDS,
            message=f"{self.name} did not get {count} events",
        )
        return self.take()

    def delete(self) -> None:
        with self.rabbitmq.channel() as channel:
            channel.queue_delete(self.name)


class Outbox:
    """The outbox of a database, and relays for it that are threads of this process."""

    def __init__(self, database: Database, rabbitmq_url: str) -> None:
        self.database = database
        self.settings = Settings(rabbitmq_url=rabbitmq_url)
        self.broker = build_broker(self.settings, database, ())
        self._relays: list[Relay] = []

    def start_relay(self) -> Relay:
        relay = make_relay(self.settings, self.database, self.broker)
        self._relays.append(relay)
        relay.start()
        return relay

    def record(self, key: str, numbers: Iterable[int], *, event_type: str = EVENT_TYPE) -> None:
        """Commit events of one key whose payloads count."""
        with self.database.transaction() as session:
            record_events(session, event_type, [(key, {"number": number}) for number in numbers])

    def fill(self, *, keys: int, each: int) -> int:
        """Commit many events at once, those of the keys mixed; return their number."""
        events = [
            (f"key {key}", {"number": number}) for number in range(each) for key in range(keys)
        ]
        with self.database.transaction() as session:
            record_events(session, EVENT_TYPE, events)
        return len(events)

    def published(self, table: str = "outbox_events") -> set[int]:
        """Return the ids of what is marked as published."""
        with self.database.transaction() as session:
            return set(
                session.scalars(text(f"SELECT id FROM {table} WHERE published_at IS NOT NULL"))
            )

    def unpublished(self) -> int:
        """Count what is not, of both tables."""
        with self.database.transaction() as session:
            return sum(
                session.scalar(text(f"SELECT count(*) FROM {table} WHERE published_at IS NULL"))
                or 0
                for table in ("outbox_events", "outbox_messages")
            )

    def wait_until_published(self) -> None:
        eventually(
            lambda: self.unpublished() == 0,
            timeout_seconds=PATIENCE_SECONDS,
            message="Not everything is published",
        )

    def close(self) -> None:
        for relay in self._relays:
            relay.stop()
        self.broker.close()


def numbers_of(received: Sequence[Received]) -> dict[str, list[int]]:
    """Return the numbers that came for each key, in the order of their first reception."""
    numbers: dict[str, dict[int, None]] = defaultdict(dict)
    for each in received:
        numbers[each.key].setdefault(each.payload["number"])
    return {key: list(seen) for key, seen in numbers.items()}
