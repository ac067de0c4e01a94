"""RabbitMQ as this service uses it: dramatiq's broker, with durable and confirmed everything."""

import threading
from collections.abc import Callable
from copy import copy
from functools import partial
from typing import Any

import dramatiq
import pika
from dramatiq.brokers.rabbitmq import DEAD_MESSAGE_TTL, RabbitmqBroker
from dramatiq.common import dq_name, xq_name
from dramatiq.errors import ConnectionClosed
from pika.adapters.utils.connection_workflow import (
    AMQPConnectionWorkflowFailed,
    AMQPConnectorException,
    AMQPConnectorPhaseErrorBase,
)

from workers.consumer import Consumer, RecordRefusal

EXCHANGE = "marketplace.events"
"""The durable topic exchange that events go to; the routing key is the event's type."""

MAX_PRIORITY = 10
"""``x-max-priority`` of the queues. RabbitMQ keeps a queue for each level, so not more."""

QUORUM_ARGUMENTS = {
    "x-queue-type": "quorum",
    # RabbitMQ 4 gives up on what it has delivered 20 times. How often is enough, the ledger knows;
    # and to a dead letter, being looked at is a delivery. (Not -1, which 3.10 does not take.)
    "x-delivery-limit": 2**31 - 1,
}

NOT_FOUND = 404

UNWRAPPED = (OSError, AMQPConnectorException)
"""The failures to connect that pika does not wrap: a host name that does not resolve, and a node
that takes the connection but does not answer. dramatiq expects neither; a scheduler would end."""

FAILURES = (pika.exceptions.AMQPError, *UNWRAPPED)
"""All that a connection to RabbitMQ may raise."""

ADVICE = {
    # Access refused.
    403: "whoever sends to a queue declares it too: give the user the right to configure, write "
    "and read it (rabbitmqctl set_permissions)",
    # Precondition failed.
    406: "let workers empty the queue, delete it, and the next start declares it anew",
}
"""What to do when RabbitMQ does not have a queue declared as it should be, by its reply's code."""


class Rabbitmq(RabbitmqBroker):
    """dramatiq's RabbitMQ broker, for classic queues with priorities or for quorum queues.

    Publishing waits for RabbitMQ's confirm: without, a message can vanish on its way and nobody is
    told; with it, a queue that somebody deleted is declared anew. Quorum queues are replicated
    over a cluster, and have no priorities of this kind.
    """

    def __init__(
        self,
        *,
        urls: list[str],
        queue_type: str,
        middleware: list[dramatiq.Middleware],
        record_refusal: RecordRefusal = lambda **_: None,
        is_stopping: threading.Event | None = None,
    ) -> None:
        self.is_quorum = queue_type == "quorum"
        self._record_refusal = record_refusal
        self._is_stopping = is_stopping or threading.Event()
        super().__init__(
            url=urls,
            confirm_delivery=True,
            max_priority=None if self.is_quorum else MAX_PRIORITY,
            middleware=middleware,
        )

    @property
    def consumer_class(self) -> Callable[..., Consumer]:
        return partial(Consumer, record_refusal=self._record_refusal, is_stopping=self._is_stopping)

    def enqueue(
        self, message: dramatiq.Message[Any], *, delay: int | None = None
    ) -> dramatiq.Message[Any]:
        """Publish a message, and wait until RabbitMQ has it.

        Raises:
            ConnectionClosed: if it cannot be reached, also by name, or does not answer.
        """
        try:
            return super().enqueue(message, delay=delay)
        except UNWRAPPED as error:
            raise ConnectionClosed(error) from None

    def queue_arguments(self, queue_name: str) -> dict[str, dict[str, Any]]:
        """Return the arguments of a queue, its delay queue and its dead-letter queue, by name."""
        shared = QUORUM_ARGUMENTS if self.is_quorum else {}
        arguments = self._build_queue_arguments(queue_name)
        return {
            queue_name: arguments,
            dq_name(queue_name): arguments,
            xq_name(queue_name): {"x-message-ttl": DEAD_MESSAGE_TTL, **shared},
        }

    def _build_queue_arguments(self, queue_name: str) -> dict[str, Any]:
        arguments: dict[str, Any]
        arguments = super()._build_queue_arguments(queue_name)  # type: ignore[no-untyped-call]
        return {**arguments, **QUORUM_ARGUMENTS} if self.is_quorum else arguments

    def _declare_xq_queue(self, queue_name: str) -> Any:
        name = xq_name(queue_name)
        arguments = self.queue_arguments(queue_name)[name]
        return self.channel.queue_declare(queue=name, durable=True, arguments=arguments)


def find_problems(broker: Rabbitmq, queue_names: tuple[str, ...]) -> list[str]:
    """Compare the queues on the server with what this broker would declare.

    Nothing is created: a queue that does not exist yet is none of the problems.

    Returns:
        one line for each queue whose arguments differ, or that may not be declared.

    Raises:
        pika.exceptions.AMQPError: if RabbitMQ cannot be reached or refuses.
    """
    problems = []
    connection = pika.BlockingConnection(broker.parameters)
    try:
        for queue_name in queue_names:
            for name, arguments in broker.queue_arguments(queue_name).items():
                try:
                    connection.channel().queue_declare(name, passive=True)
                    connection.channel().queue_declare(name, durable=True, arguments=arguments)
                except pika.exceptions.ChannelClosedByBroker as error:
                    if error.reply_code in ADVICE:
                        advice = ADVICE[error.reply_code]
                        problems.append(f"{name}: {error.reply_text}; {advice}")
                    elif error.reply_code != NOT_FOUND:
                        raise
    finally:
        connection.close()
    return problems


def why_unreachable(broker: Rabbitmq, *, timeout_seconds: float | None = None) -> str | None:
    """Try to connect, and to be let in, to one node after the other.

    Args:
        broker: names the nodes.
        timeout_seconds: how long a node may take to answer, also one that has taken the
            connection; unless given, what its URL says.

    Returns:
        None if RabbitMQ answers, else the reason in one line.
    """
    nodes = [copy(parameters) for parameters in broker.parameters]
    if timeout_seconds is not None:
        for parameters in nodes:
            parameters.socket_timeout = parameters.stack_timeout = timeout_seconds
    try:
        pika.BlockingConnection(nodes).close()
    except FAILURES as error:
        return reason_of(error)
    return None


def reason_of(error: BaseException) -> str:
    """Put pika's errors, which nest and are often silent, into words."""
    while inner := _inner(error):
        error = inner
    return str(error) or type(error).__name__


def _inner(error: BaseException) -> BaseException | None:
    inner: Any = None
    if isinstance(error, AMQPConnectionWorkflowFailed):
        inner = error.exceptions[-1]
    elif isinstance(error, AMQPConnectorPhaseErrorBase):
        inner = error.exception
    elif isinstance(error, pika.exceptions.AMQPConnectionError) and error.args:
        inner = error.args[0]
    return inner if isinstance(inner, BaseException) else None
