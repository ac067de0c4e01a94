"""A message in the hand of a command: what it says, and what RabbitMQ wrote on it."""

import hashlib
from datetime import datetime, timedelta
from typing import Any

import dramatiq
import pika
from dramatiq.brokers.rabbitmq import DEAD_MESSAGE_TTL
from dramatiq.common import dq_name
from pika.adapters.blocking_connection import BlockingChannel

from workers import messages
from workers.dead_letters.letters import Letter
from workers.messages import Actors, Refused
from workers.periodic import utc_now


class Taken:
    """A message that was taken from a dead-letter queue, and belongs there until `remove`.

    Args:
        queue: the queue that it was to be served from.
        channel: the one that it came through.
        tag: its number on that channel.
        properties: what is written on it.
        body: what is in it.
        actors: those that this process knows, by name.
    """

    def __init__(
        self,
        queue: str,
        channel: BlockingChannel,
        *,
        tag: int,
        properties: pika.BasicProperties,
        body: bytes,
        actors: Actors,
    ) -> None:
        self.queue = queue
        self.properties = properties
        self.body = body
        self.identity = messages.identify(body, actors)
        self._channel = channel
        self._tag = tag
        self._actors = actors

    @property
    def id(self) -> str:
        """The message's id, or one made of its body, the same each time."""
        return self.identity.message_id or f"body-{hashlib.sha256(self.body).hexdigest()[:16]}"

    @property
    def origin(self) -> str:
        """The queue that it was rejected from: its queue, or the delay queue of that."""
        delay_queue = dq_name(self.queue)
        return delay_queue if self._death.get("queue") == delay_queue else self.queue

    def remove(self) -> None:
        """Remove it from the dead letters for good."""
        self._channel.basic_ack(self._tag)

    def read(self) -> dramatiq.Message[Any]:
        """Return it as the message of its queue.

        Raises:
            Refused: if it is not ours.
        """
        return messages.read(self.body, queue_name=self.queue, actors=self._actors, now=utc_now())

    def describe(self, *, with_body: bool) -> Letter:
        """Tell what can be told without the ledger."""
        died_at = self._death.get("time")
        dead_since = died_at if isinstance(died_at, datetime) else None
        return Letter(
            id=self.id,
            queue=self.queue,
            job=self.identity.job,
            slot=self.identity.slot,
            run_key=self.identity.run_key,
            error=self._why(),
            dead_since=dead_since,
            expires_at=dead_since and dead_since + timedelta(milliseconds=DEAD_MESSAGE_TTL),
            body=self.body.decode(errors="backslashreplace") if with_body else None,
        )

    @property
    def _death(self) -> dict[str, Any]:
        """What RabbitMQ wrote down when it last became a dead letter."""
        deaths = (self.properties.headers or {}).get("x-death")
        # Somebody who put it there by hand may have left this out, or made it up.
        newest = deaths[0] if isinstance(deaths, list) and deaths else None
        return newest if isinstance(newest, dict) else {}

    def _why(self) -> str:
        try:
            self.read()
        except Refused as refused:
            return f"Its message was refused: {refused}"
        reason = self._death.get("reason", "nobody knows why")
        return f"The ledger does not know its run ({reason})."
