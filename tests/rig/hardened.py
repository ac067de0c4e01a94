"""A private RabbitMQ node with exactly the files of ``infra/rabbitmq``, set up as its docs say.

Only ports and paths are the tests' own: they come in one more file of ``conf.d``, as they would on
any other machine.
"""

import shutil
import subprocess
import sys
from pathlib import Path

from tests.rig.environment import REPOSITORY
from tests.rig.ports import free_ports
from tests.rig.rabbitmq import PrivateRabbitMQ

INFRA = REPOSITORY / "infra" / "rabbitmq"
USERS = ("worker", "scheduler", "subscriber", "monitoring")


class HardenedRabbitMQ(PrivateRabbitMQ):
    """The node. As a `RabbitMQ`, it is seen with the eyes of the user ``worker``."""

    def __init__(self) -> None:
        self._tls_port, self.management_port, self.prometheus_port = free_ports(3)
        super().__init__()
        self.urls = self._read_urls()
        """The URL of each user, over TLS."""
        self.url = self.urls["worker"]

    @property
    def pids(self) -> list[int]:
        """The processes that listen: the node, and its name server."""
        assert self._node is not None
        assert self._epmd is not None
        return [self._node.pid, self._epmd.pid]

    @property
    def plain_port(self) -> int:
        """The port without TLS, on the loopback address."""
        return self._port

    @property
    def ca_path(self) -> Path:
        return self._folder / "tls" / "ca.pem"

    @property
    def definitions_path(self) -> Path:
        return self._folder / "definitions.json"

    def create_users(self, *arguments: str) -> str:
        """Run ``create-users`` once more, and return what it printed."""
        done = subprocess.run(
            [
                *(sys.executable, str(INFRA / "create-users"), "--urls", str(self._urls_path)),
                *("--host", f"localhost:{self._tls_port}", "--ca", str(self.ca_path)),
                *(*arguments, str(self.definitions_path)),
            ],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        self.urls = self._read_urls()
        self.url = self.urls["worker"]
        return done.stdout

    def _epmd_command(self) -> tuple[str, ...]:
        # As a node starts it, where nobody has.
        script = '. "$RABBITMQ_CONF_ENV_FILE"; exec epmd -port "$ERL_EPMD_PORT"'
        return ("sh", "-c", script)

    def _write_configuration(self) -> None:
        tls = self._folder / "tls"
        subprocess.run(
            [INFRA / "create-certificates", tls, "localhost"], check=True, capture_output=True
        )
        self.create_users()
        folder = self._folder / "conf.d"
        folder.mkdir()
        shutil.copy(INFRA / "conf.d" / "20-tls.conf", folder)
        (folder / "99-tests.conf").write_text(
            f"""
            listeners.tcp.default = 127.0.0.1:{self._port}
            listeners.ssl.default = 127.0.0.1:{self._tls_port}
            management.tcp.port = {self.management_port}
            prometheus.tcp.port = {self.prometheus_port}
            load_definitions = {self.definitions_path}
            ssl_options.cacertfile = {self.ca_path}
            ssl_options.certfile = {tls / "server.pem"}
            ssl_options.keyfile = {tls / "server.key"}
            """
        )

    def _environment(self) -> dict[str, str]:
        environment = super()._environment()
        # The hardened node keeps these ports to the machine by itself.
        for name in ("ERL_EPMD_ADDRESS", "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS"):
            del environment[name]
        return {
            **environment,
            "RABBITMQ_CONF_ENV_FILE": str(INFRA / "rabbitmq-env.conf"),
            "RABBITMQ_CONFIG_FILE": str(INFRA / "rabbitmq.conf"),
            "RABBITMQ_CONFIG_FILES": str(self._folder / "conf.d"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(INFRA / "enabled_plugins"),
        }

    @property
    def _urls_path(self) -> Path:
        return self._folder / "urls.env"

    def _read_urls(self) -> dict[str, str]:
        lines = self._urls_path.read_text().splitlines()
        pairs = (line.split("=", 1) for line in lines)
        return {name.removeprefix("RABBITMQ_URL_").lower(): url for name, url in pairs}
