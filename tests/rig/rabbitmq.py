"""A RabbitMQ for the tests: the one of ``RABBITMQ_URL``, or a private node of our own.

The private node is the installed server, run with ports, data, cookie and name server (epmd) of its
own, so that it neither meets nor disturbs another node of this machine, and stops without a trace.
"""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import AMQPError, ChannelClosedByBroker

from tests.rig.environment import REPOSITORY, process_environment
from tests.rig.ports import free_ports
from tests.rig.waiting import eventually

START_SECONDS = 60
STOP_SECONDS = 30


@dataclass(frozen=True)
class Counts:
    """What a queue holds. Messages that a consumer has not acknowledged yet are not told."""

    ready: int
    consumers: int


@dataclass(frozen=True)
class Message:
    """A message as it lies on its queue."""

    body: bytes
    properties: pika.BasicProperties
    is_redelivered: bool


class RabbitMQ:
    """A broker, looked at and tampered with over a connection of its own for each call."""

    def __init__(self, url: str) -> None:
        self.url = url

    def queue_counts(self, queue: str) -> Counts:
        """Count a queue's ready messages and its consumers; a missing queue has none."""
        with self.channel() as channel:
            try:
                found = channel.queue_declare(queue, passive=True)
            except ChannelClosedByBroker:
                return Counts(ready=0, consumers=0)
            return Counts(ready=found.method.message_count, consumers=found.method.consumer_count)

    def peek(self, queue: str, *, limit: int = 100) -> list[Message]:
        """Look at the first ready messages of a queue; they stay there, marked as redelivered."""
        messages = []
        with self.channel() as channel:
            for _ in range(limit):
                method, properties, body = channel.basic_get(queue)
                if method is None:
                    break
                messages.append(Message(body, properties, method.redelivered))
            channel.basic_nack(multiple=True, requeue=True)
            # A nack has no answer; but the queue hears it before this question.
            channel.queue_declare(queue, passive=True)
        return messages

    def publish(self, queue: str, body: bytes, *, priority: int | None = None) -> None:
        """Put a persistent message on a queue that exists, and wait until the broker has it."""
        with self.channel() as channel:
            channel.confirm_delivery()
            channel.basic_publish(
                exchange="",
                routing_key=queue,
                body=body,
                properties=pika.BasicProperties(delivery_mode=2, priority=priority),
                mandatory=True,
            )

    def delete_queues(self, queues: Iterable[str]) -> None:
        """Delete queues with their delay queues (``.DQ``) and dead letters (``.XQ``), if any."""
        with self.channel() as channel:
            for queue in queues:
                for suffix in ("", ".DQ", ".XQ"):
                    channel.queue_delete(queue + suffix)

    def stop(self) -> None:
        """Shut the broker down in good order. Skips the test if the broker is not ours."""
        pytest.skip("needs a RabbitMQ that it can stop, and RABBITMQ_URL is set")

    def kill(self) -> None:
        """Kill the broker (``kill -9``). Skips the test if the broker is not ours."""
        self.stop()

    def start(self) -> None:
        """Start the broker on its old data, at its old URL, and wait until it answers."""

    def restart(self) -> None:
        """Stop and start."""
        self.stop()
        self.start()

    def ctl(self, *arguments: str) -> str:
        """Run ``rabbitmqctl`` and return what it printed. Skips if the broker is not ours."""
        pytest.skip(f"needs a RabbitMQ for {arguments[:1]}, and RABBITMQ_URL is set")

    @contextmanager
    def channel(self) -> Iterator[BlockingChannel]:
        """Open a connection with one channel, and close it after the block."""
        # Of several nodes, separated by ";", the first.
        connection = pika.BlockingConnection(pika.URLParameters(self.url.split(";")[0]))
        try:
            yield connection.channel()
        finally:
            # The test may have stopped the broker meanwhile.
            with suppress(AMQPError):
                connection.close()


class PrivateRabbitMQ(RabbitMQ):
    """A node of our own. `launch` returns at once; `start` also waits until it answers."""

    def __init__(self) -> None:
        # Not pytest's own temporary folder, whose old ones pytest removes while a node may run.
        self._folder = Path(tempfile.mkdtemp(prefix="workers-rabbitmq-"))
        self._port, self._distribution_port, self._epmd_port = free_ports(3)
        super().__init__(f"amqp://guest:guest@127.0.0.1:{self._port}")
        self._write_configuration()
        self._node: subprocess.Popen[bytes] | None = None
        self._epmd: subprocess.Popen[bytes] | None = None

    def launch(self) -> None:
        """Begin to start the node, unless it runs."""
        if self._node is not None:
            return
        if self._epmd is None:
            self._epmd = self._popen(*self._epmd_command())
        self._node = self._popen(str(find_server()))

    def start(self) -> None:
        self.launch()
        eventually(self._answers, timeout_seconds=START_SECONDS, message="RabbitMQ did not start")

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def ctl(self, *arguments: str) -> str:
        completed = subprocess.run(
            [find_server().with_name("rabbitmqctl"), *arguments],
            env=self._environment(),
            capture_output=True,
            text=True,
            timeout=START_SECONDS,
            check=False,
        )
        assert completed.returncode == 0, completed.stdout + completed.stderr
        return completed.stdout

    def freeze(self) -> None:
        """Let the node stand still: it takes connections and does not answer."""
        assert self._node is not None
        os.killpg(self._node.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        assert self._node is not None
        os.killpg(self._node.pid, signal.SIGCONT)

    def close(self) -> None:
        """End the node and all that belongs to it."""
        self.kill()
        if self._epmd is not None:
            self._epmd.kill()
            self._epmd.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _epmd_command(self) -> tuple[str, ...]:
        return ("epmd", "-port", str(self._epmd_port))

    def _write_configuration(self) -> None:
        (self._folder / "enabled_plugins").write_text("[].\n")
        (self._folder / "rabbitmq.conf").write_text(
            f"""
            listeners.tcp.1 = 127.0.0.1:{self._port}
            log.console = true
            log.console.level = info
            # A laptop with a full disk would block every publisher without a word.
            disk_free_limit.absolute = 1MB
            """
        )

    def _environment(self) -> dict[str, str]:
        inherited = process_environment()
        return {
            # Not what configures another node of this machine.
            **{name: inherited[name] for name in inherited if not name.startswith("RABBITMQ_")},
            # The cookie, by which a node knows its friends, lies in the home directory.
            "HOME": str(self._folder),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(self._epmd_port),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_CONFIG_FILE": str(self._folder / "rabbitmq.conf"),
            "RABBITMQ_DIST_PORT": str(self._distribution_port),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self._folder / "enabled_plugins"),
            "RABBITMQ_LOG_BASE": str(self._folder / "log"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_MNESIA_BASE": str(self._folder / "mnesia"),
            "RABBITMQ_NODENAME": f"tests-{self._port}@127.0.0.1",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            # What a name that contains dots is called; an address needs no name server, and in
            # some containers not even "localhost" has one.
            "RABBITMQ_USE_LONGNAME": "true",
            # Replaces the starting shell by the node, so that signals reach it at first hand.
            "RUNNING_UNDER_SYSTEMD": "true",
        }

    def _popen(self, *command: str) -> subprocess.Popen[bytes]:
        with self._log_path.open("ab") as log:
            return subprocess.Popen(
                command,
                cwd=self._folder,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ctrl-C in the terminal is for pytest, which then ends this too.
                start_new_session=True,
            )

    @property
    def _log_path(self) -> Path:
        return self._folder / "node.log"

    def _answers(self) -> bool:
        assert self._node is not None
        assert self._node.poll() is None, "RabbitMQ ended:\n" + self._log_path.read_text()
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", self._port), timeout=1).close()
            with self.channel():
                return True
        return False

    def _end(self, number: signal.Signals) -> None:
        if self._node is None:
            return
        # The node's helper processes are of its group.
        with suppress(ProcessLookupError):
            if number == signal.SIGKILL:
                os.killpg(self._node.pid, number)
            else:
                self._node.send_signal(number)
        self._node.wait(STOP_SECONDS)
        self._node = None


def find_server() -> Path:
    """Return the path of the installed ``rabbitmq-server``.

    Raises:
        AssertionError: if there is none.
    """
    found = _find_server()
    assert found.returncode == 0, "RabbitMQ is not installed: run 'make test', or set RABBITMQ_URL"
    return Path(found.stdout.strip())


def is_server_installed() -> bool:
    """Tell whether a private node can be started."""
    return _find_server().returncode == 0


def _find_server() -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [REPOSITORY / "scripts" / "find-rabbitmq-server"],
        capture_output=True,
        text=True,
        check=False,
    )
