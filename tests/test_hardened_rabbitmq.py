"""RabbitMQ as ``infra/rabbitmq`` sets it up: the service works on it, and nobody may do more.

One node serves all these tests. It has exactly the files of that folder; see `tests.rig.hardened`.
"""

import json
import socket
import ssl
import struct
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.error import HTTPError
from urllib.parse import unquote, urlsplit

import pika
import psutil
import pytest
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import AMQPConnectionError, ChannelClosedByBroker

from tests.conftest import EXTERNAL_RABBITMQ_URL
from tests.probes import PATIENCE_SECONDS, Service
from tests.rig.hardened import USERS, HardenedRabbitMQ
from tests.rig.processes import Processes
from tests.rig.rabbitmq import is_server_installed
from tests.rig.waiting import eventually
from workers.database import Database
from workers.job import QUEUES
from workers.outbox import record_events
from workers.rabbitmq import EXCHANGE, MAX_PRIORITY

pytest_plugins = ["tests.probe_fixtures"]

ACCESS_REFUSED = 403

WAYS: dict[str, Callable[[BlockingChannel], Any]] = {
    "take a message": lambda channel: channel.basic_get("default"),
    "take a dead letter": lambda channel: channel.basic_get("default.XQ"),
    "empty a queue": lambda channel: channel.queue_purge("default"),
    "declare a queue": lambda channel: channel.queue_declare("default", durable=True),
    "declare another queue": lambda channel: channel.queue_declare("another", durable=True),
    "send": lambda channel: publish(channel, "", "default"),
    "send an event": lambda channel: publish(channel, EXCHANGE, "tests.counted"),
    "bind a queue of the service": lambda channel: channel.queue_bind("default", EXCHANGE),
    "listen to events": lambda channel: channel.queue_bind("events.mailer", EXCHANGE),
    "read the events of others": lambda channel: channel.basic_get("events.mailer"),
    "delete the exchange": lambda channel: channel.exchange_delete(EXCHANGE),
    "make an exchange": lambda channel: channel.exchange_declare("another"),
}


@pytest.fixture(scope="module")
def node() -> Iterator[HardenedRabbitMQ]:
    if EXTERNAL_RABBITMQ_URL and not is_server_installed():
        pytest.skip("needs a RabbitMQ that it can start, and RABBITMQ_URL is set")
    node = HardenedRabbitMQ()
    try:
        node.start()
        yield node
    finally:
        node.close()


@pytest.fixture(params=["classic", "quorum"])
def hardened(
    request: pytest.FixtureRequest,
    node: HardenedRabbitMQ,
    probe_database: Database,
    database_url: str,
    processes: Processes,
) -> Iterator[Service]:
    """The service on the node without queues; unless told, its programs are the user ``worker``."""
    node.delete_queues(QUEUES)
    service = Service(probe_database, database_url, node, processes, queue_type=str(request.param))
    yield service
    processes.kill_all()
    service.close()


class TestTheService:
    def test_works_as_users_that_may_do_no_more_than_they_need(
        self, hardened: Service, node: HardenedRabbitMQ
    ) -> None:
        as_scheduler = {"RABBITMQ_URL": node.urls["scheduler"]}

        # Given somebody who wants the events, on a queue of their own
        with as_user(node, "subscriber") as channel:
            channel.queue_declare("events.mailer", durable=True)
            channel.queue_purge("events.mailer")
            channel.queue_bind("events.mailer", EXCHANGE, "tests.#")

        # And a scheduler that comes before anybody has made the queues
        scheduler = hardened.start_scheduler(env=as_scheduler)
        scheduler.wait_for_output("The broker refused a slot", timeout_seconds=PATIENCE_SECONDS)

        # When workers come, then the slots are done
        hardened.start_worker("default", "low")
        eventually(
            lambda: any(run.status == "succeeded" for run in hardened.runs("probe_every_second")),
            timeout_seconds=PATIENCE_SECONDS,
            message="No slot was done",
        )

        # A run that fails is tried again, and is then a dead letter that can be sent again
        key = hardened.send("probe_last_statement_fails")
        hardened.wait_for_dead_letters(key)
        assert workers(hardened, "dead-letters", "requeue", "--id", key) == f"Sent {key} again.\n"
        eventually(
            lambda: hardened.run(key).attempt == 4 and hardened.run(key).status == "dead",
            timeout_seconds=PATIENCE_SECONDS,
            message="It was not tried again",
        )

        # Events go to who has asked for them
        with hardened.database.transaction() as session:
            record_events(session, "tests.counted", [("key", {"number": 1})])
        with as_user(node, "subscriber") as channel:
            eventually(
                lambda: channel.basic_get("events.mailer", auto_ack=True)[2] == b'{"number": 1}',
                timeout_seconds=PATIENCE_SECONDS,
                message="The event did not come",
            )

        # And `check` is content, whoever asks
        for url in (node.urls["worker"], node.urls["scheduler"]):
            report = workers(hardened, "check", env={"RABBITMQ_URL": url})
            assert "ok    queues" in report

    def test_is_told_what_to_do_when_queues_of_the_other_type_are_there(
        self, hardened: Service
    ) -> None:
        # Given queues of one type
        hardened.declare("default")

        # When the setting is changed
        is_quorum = hardened.env["RABBITMQ_QUEUE_TYPE"] == "quorum"
        env = {"RABBITMQ_QUEUE_TYPE": "classic" if is_quorum else "quorum"}
        report = workers(hardened, "check", env=env, code=1)

        # Then `check` names each, and the way out
        refused = [line for line in report.splitlines() if line.startswith("FAIL")]
        assert [line.split()[2] for line in refused] == ["default:", "default.DQ:", "default.XQ:"]
        assert all("PRECONDITION_FAILED" in line and "delete it" in line for line in refused)

        # And once it is done, the queues are made anew
        hardened.rabbitmq.delete_queues(["default"])
        hardened.env.update(env)
        hardened.start_worker()
        assert "ok    queues" in workers(hardened, "check")


class TestEachUser:
    """What the real minimum is, shown from the other side: what is refused."""

    @pytest.fixture(autouse=True)
    def _queues(self, node: HardenedRabbitMQ) -> None:
        node.delete_queues(QUEUES)
        with as_user(node, "worker") as channel:
            for name in ("default", "default.XQ"):
                channel.queue_declare(name, durable=True)
        with as_user(node, "subscriber") as channel:
            channel.queue_declare("events.mailer", durable=True)

    @pytest.mark.parametrize(
        ("user", "allowed"),
        [
            (
                "worker",
                {
                    "take a message",
                    "take a dead letter",
                    "empty a queue",
                    "declare a queue",
                    "send",
                    "send an event",
                    "delete the exchange",
                },
            ),
            ("scheduler", {"declare a queue", "send"}),
            ("subscriber", {"listen to events", "read the events of others"}),
            ("monitoring", set()),
        ],
    )
    def test_may_do_what_it_needs_and_nothing_else(
        self, node: HardenedRabbitMQ, user: str, allowed: set[str]
    ) -> None:
        try:
            assert {way for way in WAYS if self.may(node, user, way)} == allowed
        finally:
            # Whoever may declare something may delete it.
            node.ctl("import_definitions", str(node.definitions_path))

    def may(self, node: HardenedRabbitMQ, user: str, way: str) -> bool:
        with as_user(node, user) as channel:
            try:
                WAYS[way](channel)
            except ChannelClosedByBroker as error:
                if error.reply_code != ACCESS_REFUSED:
                    raise
                return False
            return True

    @pytest.mark.parametrize("user", [user for user in USERS if user != "monitoring"])
    def test_but_monitoring_may_not_use_the_management_page(
        self, node: HardenedRabbitMQ, user: str
    ) -> None:
        with pytest.raises(HTTPError, match="401"):
            manage(node, "/overview", user=user)

    def test_is_let_in_to_no_other_virtual_host(self, node: HardenedRabbitMQ) -> None:
        assert node.ctl("list_vhosts", "--quiet").split() == ["name", "marketplace"]


class TestStrangers:
    @pytest.mark.parametrize("credentials", ["guest:guest", "worker:", "worker:worker"])
    def test_are_not_let_in(self, node: HardenedRabbitMQ, credentials: str) -> None:
        url = f"amqp://{credentials}@127.0.0.1:{node.plain_port}/marketplace"

        with pytest.raises(AMQPConnectionError):
            pika.BlockingConnection(pika.URLParameters(url))

    def test_are_offered_no_way_in_but_name_and_password(self, node: HardenedRabbitMQ) -> None:
        # Given what RabbitMQ says first: among other things, which ways there are
        with socket.create_connection(("127.0.0.1", node.plain_port), timeout=10) as stranger:
            stranger.sendall(b"AMQP\x00\x00\x09\x01")
            type_, _, size = struct.unpack(">BHI", stranger.recv(7, socket.MSG_WAITALL))
            start = stranger.recv(size, socket.MSG_WAITALL)
        assert type_ == 1
        # … as the last but one of its fields; the last is the language.
        assert start.endswith(pack("PLAIN") + pack("en_US"))

    def test_nobody_is_called_guest(self, node: HardenedRabbitMQ) -> None:
        users = json.loads(node.ctl("list_users", "--formatter", "json", "--quiet"))
        assert sorted(user["user"] for user in users) == sorted(USERS)

    def test_find_no_port_open_to_other_machines(self, node: HardenedRabbitMQ) -> None:
        # Given the ports of the files, but that of conf.d/20-tls.conf, which is there to be open
        listening = {
            connection.laddr
            for pid in node.pids
            for connection in psutil.Process(pid).net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN
        }
        ports = {node.plain_port, node.management_port, node.prometheus_port}
        assert {address.port for address in listening} > ports
        # epmd also takes the loopback address of version 6.
        assert {address.ip for address in listening} <= {"127.0.0.1", "::1"}

    def test_with_a_certificate_of_their_own_are_not_taken_for_the_server(
        self, node: HardenedRabbitMQ
    ) -> None:
        # Given a client that does not know the CA, and one that calls the server something else
        without_ca = node.url.partition("?")[0]
        by_another_name = node.url.replace("localhost", "127.0.0.1")

        # Then both refuse to talk to it
        for url in (without_ca, by_another_name):
            with pytest.raises(ssl.SSLCertVerificationError):
                pika.BlockingConnection(pika.URLParameters(url))


class TestWhatItShows:
    def test_the_management_page_tells_the_queues_and_what_they_can(
        self, hardened: Service, node: HardenedRabbitMQ
    ) -> None:
        hardened.declare(*QUEUES)

        queues = {queue["name"]: queue for queue in manage(node, "/queues/marketplace")}

        # Names say what a queue is for, and arguments what it does with what is rejected or urgent
        ours = {name: queues[name] for name in queues if not name.startswith("events.")}
        assert set(ours) == {queue + suffix for queue in QUEUES for suffix in ("", ".DQ", ".XQ")}
        is_quorum = hardened.env["RABBITMQ_QUEUE_TYPE"] == "quorum"
        for name, queue in ours.items():
            arguments = queue["arguments"]
            assert queue["durable"]
            assert arguments.get("x-queue-type") == ("quorum" if is_quorum else None)
            if name.endswith(".XQ"):
                assert arguments["x-message-ttl"] == 7 * 24 * 3600 * 1000
            else:
                dead_letters = name.removesuffix(".DQ") + ".XQ"
                assert arguments["x-dead-letter-routing-key"] == dead_letters
                assert arguments.get("x-max-priority") == (None if is_quorum else MAX_PRIORITY)

        # And no policy may drop anything of ours
        assert {queue.get("policy") for queue in ours.values()} == {None}

    def test_queues_of_subscribers_cannot_fill_the_disk(self, node: HardenedRabbitMQ) -> None:
        with as_user(node, "subscriber") as channel:
            channel.queue_declare("events.mailer", durable=True)

        def policy() -> Any:
            return manage(node, "/queues/marketplace/events.mailer").get("policy")

        assert eventually(policy, message="There is no policy") == "subscribers"

    def test_prometheus_finds_the_depth_of_each_queue(
        self, hardened: Service, node: HardenedRabbitMQ
    ) -> None:
        hardened.declare("default")
        hardened.send("probe_effect")
        series = 'rabbitmq_queue_messages_ready{vhost="marketplace",queue="default"} 1'

        url = f"http://127.0.0.1:{node.prometheus_port}/metrics"
        eventually(
            lambda: series in urllib.request.urlopen(url).read().decode(),
            timeout_seconds=PATIENCE_SECONDS,
            message=f"There is no {series}",
        )


def test_a_new_password_is_taken_over_by_a_running_node(node: HardenedRabbitMQ) -> None:
    # Given a connection, and a password that has become known
    old_url = node.urls["scheduler"]
    with as_user(node, "scheduler") as channel:
        node.create_users("--rotate", "scheduler")
        node.ctl("import_definitions", str(node.definitions_path))

        # Then the connection holds, the old password is worth nothing, and the new one works
        channel.exchange_declare(EXCHANGE, passive=True)
    with pytest.raises(AMQPConnectionError):
        pika.BlockingConnection(pika.URLParameters(old_url))
    for user in USERS:
        pika.BlockingConnection(pika.URLParameters(node.urls[user])).close()


@contextmanager
def as_user(node: HardenedRabbitMQ, user: str) -> Iterator[BlockingChannel]:
    """Open a channel as one of the users, for a block."""
    connection = pika.BlockingConnection(pika.URLParameters(node.urls[user]))
    try:
        yield connection.channel()
    finally:
        if connection.is_open:
            connection.close()


def pack(text: str) -> bytes:
    """Write a long string as AMQP does."""
    return struct.pack(">I", len(text)) + text.encode()


def publish(channel: BlockingChannel, exchange: str, routing_key: str) -> None:
    channel.confirm_delivery()
    channel.basic_publish(exchange, routing_key, b"")


def workers(
    service: Service, *arguments: str, env: dict[str, str] | None = None, code: int = 0
) -> str:
    """Run a command of the service, and return what it printed."""
    done = service.processes.run(
        "python", "-m", "workers", *arguments, env={**service.env, **(env or {})}
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def manage(node: HardenedRabbitMQ, path: str, *, user: str = "monitoring") -> Any:
    """Ask the management API."""
    password = unquote(urlsplit(node.urls[user]).password or "")
    authorization = b64encode(f"{user}:{password}".encode()).decode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{node.management_port}/api{path}",
        headers={"Authorization": f"Basic {authorization}"},
    )
    with urllib.request.urlopen(request) as answer:  # noqa: S310 - http
        return json.load(answer)
