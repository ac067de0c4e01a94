"""Takes messages from RabbitMQ: only ours go on, and each is settled where it came from."""

import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Any

import dramatiq
import pika
import structlog
from dramatiq.broker import MessageProxy
from dramatiq.brokers.rabbitmq import RabbitmqBroker, _RabbitmqConsumer, _RabbitmqMessage
from dramatiq.common import dq_name, q_name
from dramatiq.errors import ConnectionClosed

from workers import messages
from workers.headers import tolerate_odd_times
from workers.messages import Identity, Refused
from workers.periodic import EPOCH, utc_now

log = structlog.stdlib.get_logger(__name__)

tolerate_odd_times()

RecordRefusal = Callable[..., None]
"""`workers.dead_runs.record_refusal`, on the database of this process."""


class Delivered(_RabbitmqMessage):
    """A message that remembers the consumer, and so the channel, that it came from."""

    def __init__(
        self, consumer: "Consumer", method: pika.spec.Basic.Deliver, message: dramatiq.Message[Any]
    ) -> None:
        super().__init__(method.redelivered, method.delivery_tag, message)  # type: ignore[no-untyped-call]
        self.consumer = consumer

    def give_back(self) -> None:
        """Return it to its queue, to be delivered again at once."""
        self.consumer.give_back(self)


class Consumer(_RabbitmqConsumer):
    """dramatiq's consumer of one queue, on a connection of its own, with three differences.

    Each message is looked at (`workers.messages`) before dramatiq handles it, and what is not ours
    is dead-lettered.

    And what came through another consumer is not acknowledged through this one. When a connection
    breaks, dramatiq makes a new consumer and asks that one to acknowledge what was in flight, by
    delivery tags that count the messages of a channel: it would be another message that is
    acknowledged away. RabbitMQ has delivered those in flight again, anyway.

    When the process stops, it takes no more messages. dramatiq's goes on fetching for as long as
    the last runs take, and keeps from other processes what it will not begin.
    """

    def __init__(
        self,
        broker: RabbitmqBroker,
        queue_name: str,
        prefetch: int,
        timeout: int,
        *,
        record_refusal: RecordRefusal,
        is_stopping: threading.Event,
    ) -> None:
        super().__init__(broker, queue_name, prefetch, timeout)  # type: ignore[no-untyped-call]
        self._record_refusal = record_refusal
        self._is_stopping = is_stopping
        self._is_cancelled = False

    def __next__(self) -> Delivered | None:
        """Return the next message that is ours, None if there is none just now, or it was not ours.

        Raises:
            ConnectionClosed: if RabbitMQ cannot be reached any more.
        """
        try:
            if self._is_stopping.is_set():
                self._cancel()
            method, _, body = next(self.iterator)
            if method is None:
                return None
            if self._is_stopping.is_set():
                self.channel.basic_nack(method.delivery_tag, requeue=True)
                return None
            return self._accept(method, body)
        except (
            AssertionError,  # pika's answer to a channel that closed in between
            pika.exceptions.AMQPConnectionError,
            pika.exceptions.AMQPChannelError,
        ) as error:
            if getattr(error, "reply_code", None) == 404:
                # Somebody deleted the queue: the next consumer declares it anew.
                self.broker.queues_pending.add(q_name(self.queue_name))
            raise ConnectionClosed(error) from None

    def ack(self, message: MessageProxy) -> None:
        if self._has_delivered(message) and not self._has_given_back(message):
            super().ack(message)  # type: ignore[no-untyped-call]

    def nack(self, message: MessageProxy) -> None:
        if self._has_delivered(message):
            super().nack(message)  # type: ignore[no-untyped-call]

    def give_back(self, message: Delivered) -> None:
        """Return a message to its queue, from any thread; without a connection, it is there."""
        if self._has_delivered(message):
            self.known_tags.discard(message._tag)
            with suppress(pika.exceptions.AMQPError):
                self.connection.add_callback_threadsafe(
                    partial(self.channel.basic_nack, message._tag, requeue=True)
                )

    def requeue(self, messages: Iterable[MessageProxy]) -> None:
        """Forget messages that RabbitMQ will deliver again, now that their connection is closed.

        dramatiq hands over its delayed ones as they are taken from its memory. It is not enough to
        do nothing: left there, each would be sent twice.
        """
        for _ in messages:
            pass

    def close(self) -> None:
        """Close the connection, also if its channel was closed already; dramatiq would leave it."""
        try:
            super().close()  # type: ignore[no-untyped-call]
        finally:
            if self.connection.is_open:
                self.connection.close()

    def _accept(self, method: pika.spec.Basic.Deliver, body: bytes) -> Delivered | None:
        now = utc_now()
        try:
            message = messages.read(
                body, queue_name=self.queue_name, actors=self.broker.actors, now=now
            )
        except Refused as refused:
            identity = messages.identify(body, self.broker.actors)
            self._refuse(method.delivery_tag, body, str(refused), identity)
            return None
        except Exception as error:
            # A fault of ours, which must not stop the queue either.
            log.exception("A message could not be looked at")
            reason = f"it cannot be read: {type(error).__name__}"
            self._refuse(method.delivery_tag, body, reason, Identity())
            return None
        wait_milliseconds = (message.options.get("eta") or 0) - (now - EPOCH).total_seconds() * 1000
        if wait_milliseconds > 0 and self.queue_name != dq_name(self.queue_name):
            # Here it would keep one of the few places until its time has come.
            self.broker.enqueue(message, delay=round(wait_milliseconds))
            self.channel.basic_ack(method.delivery_tag)
            return None
        self.known_tags.add(method.delivery_tag)
        return Delivered(self, method, message)

    def _refuse(self, tag: int, body: bytes, reason: str, identity: Identity) -> None:
        log.error(
            "Dead-lettered a message that is not ours",
            reason=reason,
            queue=self.queue_name,
            job=identity.job,
            message_id=identity.message_id,
            # What it carries may be secret; if it has a name, that is enough to find it.
            starts_with=None if identity.message_id else messages.excerpt(body),
        )
        if identity.message_id:
            self._tell_the_ledger(identity, reason)
        self.channel.basic_nack(tag, requeue=False)

    def _tell_the_ledger(self, identity: Identity, reason: str) -> None:
        try:
            self._record_refusal(
                message_id=identity.message_id,
                run_key=identity.run_key,
                # Only of jobs that exist: anybody may make up names.
                job=identity.job if identity.job in self.broker.actors else None,
                slot=identity.slot,
                queue=q_name(self.queue_name),
                reason=reason,
            )
        except Exception as error:  # noqa: BLE001 - the dead letter itself is what counts
            log.warning("The ledger was not told of a dead letter", reason=type(error).__name__)

    def _cancel(self) -> None:
        """Take no more messages, but keep the connection, which others are to be settled on."""
        if not self._is_cancelled:
            self._is_cancelled = True
            for consumer_tag in self.channel.consumer_tags:
                self.channel.basic_cancel(consumer_tag)

    def _has_given_back(self, message: MessageProxy) -> bool:
        return message._tag not in self.known_tags

    def _has_delivered(self, message: MessageProxy) -> bool:
        if getattr(message, "consumer", None) is self:
            return True
        log.info(
            "Left a message to its next delivery: the connection that it came through is gone",
            message_id=message.message_id,
        )
        return False
