"""What the broker says of its queues."""

import copy
from collections.abc import Sequence
from contextlib import suppress

import pika
from dramatiq.common import dq_name, xq_name
from pika.adapters.blocking_connection import BlockingConnection
from pika.adapters.utils.connection_workflow import AMQPConnectorException

from workers.rabbitmq import NOT_FOUND, Rabbitmq, reason_of
from workers.status.snapshot import QueueStatus


class BrokerAway(Exception):  # noqa: N818 - it names a state
    """RabbitMQ cannot be reached; the message says why, in one line."""


def ask_rabbitmq(
    broker: Rabbitmq, queues: Sequence[str], *, patience_seconds: float
) -> tuple[QueueStatus, ...]:
    """Ask RabbitMQ for the depth of each queue. Nothing is created or changed.

    The connection is new and short-lived: it says whether RabbitMQ lets anybody in, and one that
    was kept would be in the way of nobody noticing that it is dead.

    Raises:
        BrokerAway: if it cannot be reached, or refuses.
    """
    parameters = [_impatient(each, patience_seconds) for each in broker.parameters]
    try:
        connection = pika.BlockingConnection(parameters)
        try:
            return tuple(_ask(connection, queue) for queue in queues)
        finally:
            with suppress(pika.exceptions.AMQPError):
                connection.close()
    # The second is what pika raises if nobody answers its greeting, and it is none of the first.
    except (pika.exceptions.AMQPError, AMQPConnectorException, OSError) as error:
        raise BrokerAway(reason_of(error)) from None


def _impatient(parameters: pika.ConnectionParameters, seconds: float) -> pika.ConnectionParameters:
    parameters = copy.copy(parameters)
    parameters.socket_timeout = seconds / 2
    parameters.stack_timeout = seconds
    parameters.blocked_connection_timeout = seconds
    # Whoever asks waits no longer; by this, one that hangs ends by itself soon after.
    parameters.heartbeat = 1
    return parameters


def _ask(connection: BlockingConnection, queue: str) -> QueueStatus:
    ready, consumers = _count(connection, queue)
    return QueueStatus(
        name=queue,
        ready=ready,
        consumers=consumers,
        delayed=_count(connection, dq_name(queue))[0],
        dead_letters=_count(connection, xq_name(queue))[0],
    )


def _count(connection: BlockingConnection, queue: str) -> tuple[int, int]:
    channel = connection.channel()
    try:
        declared = channel.queue_declare(queue, passive=True)
    except pika.exceptions.ChannelClosedByBroker as error:
        if error.reply_code == NOT_FOUND:
            return 0, 0  # nobody has declared it yet
        raise
    channel.close()
    return declared.method.message_count, declared.method.consumer_count
