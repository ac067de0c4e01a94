"""Publishes the outbox without RabbitMQ: to the queues of this process."""

import logging
from collections.abc import Sequence

import dramatiq
from dramatiq.errors import DramatiqError

from workers import runs
from workers.database import Database
from workers.outbox import Stored, StoredEvent, StoredMessage
from workers.periodic import Ticker

log = logging.getLogger(__name__)


class InProcessPublisher:
    """Puts messages on the broker's queues, which nobody else can reach and nothing keeps.

    So a message counts as published only when its run has ended: until then the row in the outbox
    is what remains of it, should the process die. Each is put on its queue once in the life of the
    publisher. Events have no exchange to go to; they count as published once they are logged.
    """

    def __init__(self, broker: dramatiq.Broker, database: Database) -> None:
        self._broker = broker
        self._database = database
        self._in_hand: dict[str, str] = {}
        """The run keys of the messages that were handed over, by message id."""

    def publish(self, pending: Sequence[Stored]) -> Sequence[Stored]:
        """Hand over what is new, and return what has ended, with the events."""
        for stored in pending:
            if isinstance(stored, StoredEvent):
                log.debug("Event %s, key %s: %s", stored.type, stored.key, stored.body)
            elif stored.message_id not in self._in_hand:
                self._hand_over(stored)
        ended_keys = runs.ended(self._database, self._in_hand.values())
        ended = {id_ for id_, run_key in self._in_hand.items() if run_key in ended_keys}
        for message_id in ended:
            del self._in_hand[message_id]
        return [
            stored
            for stored in pending
            if isinstance(stored, StoredEvent) or stored.message_id in ended
        ]

    def _hand_over(self, stored: StoredMessage) -> None:
        # Once only, also if nobody can ever take it: it says so once, and stays in the outbox.
        self._in_hand[stored.message_id] = stored.message_id
        try:
            message = dramatiq.Message.decode(stored.body.encode())
            actor = self._broker.get_actor(message.actor_name)
            ticker: Ticker | None = actor.options.get("periodic")
            slot = ticker.slot_of(message.options) if ticker else None
            run_key = runs.run_key(message.actor_name, slot, message.message_id)
            self._in_hand[stored.message_id] = run_key
            self._broker.enqueue(message)
        except (DramatiqError, ValueError):
            log.exception("Message %s of the outbox cannot be enqueued", stored.message_id)

    def keep_alive(self) -> None:
        """There is no connection that could be lost."""

    def close(self) -> None:
        """There is none to end."""
