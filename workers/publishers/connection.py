"""A connection to RabbitMQ on which much is in flight, and one thread waits for the answers.

pika's blocking connection waits for each publish. Its asynchronous one does not, but wants a loop
that runs for ever. This pumps that loop by hand, and only while there is something to wait for.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from copy import copy
from typing import Any

from pika.adapters.select_connection import IOLoop, SelectConnection
from pika.exceptions import AMQPError

from workers.rabbitmq import reason_of
from workers.relay import PublisherError

ANSWER_SECONDS = 30
"""How long RabbitMQ may take to answer. One that confirms nothing for so long (a quorum queue that
has lost its majority does that) must not hold up all other queues for ever."""

CLOSE_SECONDS = 5


class Connection:
    """One connection with one channel, in confirm mode. After a failure it is of no more use.

    Args:
        nodes: pika's parameters of each node; the first that answers is taken.
        name: what the management page, and ``rabbitmqctl``, call the connection.
        on_confirm: called with each ``basic.ack`` and ``basic.nack``.
        on_return: called with method and properties of each message that found no queue.

    Raises:
        PublisherError: if RabbitMQ cannot be reached, or refuses.
    """

    def __init__(
        self,
        nodes: Sequence[Any],
        *,
        name: str,
        on_confirm: Callable[[Any], None],
        on_return: Callable[[Any, Any], None],
    ) -> None:
        self._is_closing = False
        self._failure: str | None = None
        self._connection: Any = None
        self._loop = IOLoop()
        self._loop.activate_poller()
        try:
            self._connection = self._connect(nodes, name)
            self.channel = self._open_channel(on_confirm, on_return)
        except BaseException:
            self.close()
            raise

    def answer_to(self, request: Callable[[Callable[[Any], None]], Any]) -> Any:
        """Make a request, which takes a callback, and return what this is called with.

        Raises:
            PublisherError: if the connection is lost, RabbitMQ refuses, or takes too long.
        """
        answers: list[Any] = []
        request(answers.append)
        self.wait_until(lambda: bool(answers))
        return answers[0]

    def wait_until(
        self, is_over: Callable[[], bool], *, timeout_seconds: float = ANSWER_SECONDS
    ) -> None:
        """Send, and receive, until `is_over`.

        Raises:
            PublisherError: if the connection is lost, or that takes too long.
        """
        deadline = time.monotonic() + timeout_seconds
        self._loop.call_later(timeout_seconds, lambda: None)
        while not is_over():
            self.require_alive()
            if time.monotonic() >= deadline:
                self._fail(f"no answer within {timeout_seconds} s")
            self._poll()

    def require_alive(self) -> None:
        """Make sure that nothing has gone wrong so far.

        Raises:
            PublisherError: if something has.
        """
        if self._failure is not None:
            raise PublisherError(self._failure)

    def keep_alive(self) -> None:
        """Exchange heartbeats, if they are due; see `require_alive`."""
        self._loop.call_later(0, lambda: None)
        self._poll()
        self.require_alive()

    def close(self) -> None:
        """Take leave if possible; never raises."""
        self._is_closing, self._failure = True, None
        if self._connection is not None:
            with suppress(PublisherError, AMQPError):
                if self._connection.is_open:
                    self._connection.close()
                # Also one that is lost has a socket to close.
                self.wait_until(lambda: self._connection.is_closed, timeout_seconds=CLOSE_SECONDS)
        self._loop.deactivate_poller()
        self._loop.close()

    def _connect(self, nodes: Sequence[Any], name: str) -> Any:
        nodes = [copy(parameters) for parameters in nodes]
        for parameters in nodes:
            parameters.client_properties = {"connection_name": name}
        result = self.answer_to(
            lambda answer: SelectConnection.create_connection(
                nodes, on_done=answer, custom_ioloop=self._loop
            )
        )
        if isinstance(result, Exception):
            raise PublisherError(f"RabbitMQ cannot be reached: {reason_of(result)}")
        result.add_on_close_callback(lambda _, reason: self._fail(reason_of(reason)))
        return result

    def _open_channel(
        self, on_confirm: Callable[[Any], None], on_return: Callable[[Any, Any], None]
    ) -> Any:
        channel = self.answer_to(lambda answer: self._connection.channel(on_open_callback=answer))
        channel.add_on_close_callback(lambda _, reason: self._fail(reason_of(reason)))
        channel.add_on_return_callback(
            lambda _channel, method, properties, _body: on_return(method, properties)
        )
        self.answer_to(lambda answer: channel.confirm_delivery(on_confirm, answer))
        return channel

    def _poll(self) -> None:
        self._loop.poll()
        self._loop.process_timeouts()

    def _fail(self, reason: str) -> None:
        if not self._is_closing:
            self._failure = self._failure or f"RabbitMQ: {reason}"
