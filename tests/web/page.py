"""The page as a test drives it: a real process, and plain requests to it."""

import socket
from collections.abc import Mapping
from contextlib import closing
from http.client import HTTPConnection
from typing import Any

import httpx

from tests.rig.ports import free_ports
from tests.rig.processes import Process, Processes
from tests.rig.waiting import eventually
from workers.database import Database

BOOT_SECONDS = 30
TOKEN = "correct-horse-battery-staple"


class Page:
    """``python -m workers web``, or ``run``, on a free port of this machine.

    Args:
        processes: starts it.
        env: its settings; `PORT` is given.
        arguments: of ``python -m workers``.
    """

    def __init__(self, processes: Processes, env: Mapping[str, str], *arguments: str) -> None:
        self.port = free_ports(1)[0]
        self.url = f"http://127.0.0.1:{self.port}"
        self._processes = processes
        self._env = {**env, "PORT": str(self.port)}
        self._arguments = arguments or ("web",)
        self.process: Process = self._start()
        self.client = httpx.Client(base_url=self.url, timeout=30)

    def wait(self) -> "Page":
        """Wait until it answers."""
        eventually(self._answers, timeout_seconds=BOOT_SECONDS, message="The page does not answer")
        return self

    def restart(self) -> None:
        """Start it again on its port, after its end."""
        self.process = self._start()
        self.wait()

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.client.get(path, **options)

    def get_at_any_length(self, path: str) -> int:
        """Return the status of an address that httpx itself would refuse."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request("GET", path)
        with closing(connection):
            return connection.getresponse().status

    def send_all_then_read(self, head: str, body: bytes) -> str:
        """Send a request to its end, as simple clients do, and return the first line of the answer.

        Raises:
            OSError: if the connection is closed before.
        """
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as connection:
            length = f"Content-Length: {len(body)}"
            lines = (head, f"Host: 127.0.0.1:{self.port}", length, "", "")
            connection.sendall("\r\n".join(lines).encode() + body)
            return connection.recv(1000).decode().partition("\r\n")[0]

    def post(self, path: str, form: Mapping[str, str], **options: Any) -> httpx.Response:
        return self.client.post(path, data=form, **options)

    def form_token(self, path: str = "/", **options: Any) -> str:
        """Return the token that the forms of a page carry."""
        text = self.get(path, **options).text
        return text.partition('name="form_token" value="')[2].partition('"')[0]

    def close(self) -> None:
        self.client.close()

    def _start(self) -> Process:
        return self._processes.start("python", "-m", "workers", *self._arguments, env=self._env)

    def _answers(self) -> bool:
        assert self.process.returncode is None, self.process.output
        try:
            return self.get("/healthz").status_code == 200
        except httpx.TransportError:
            return False


class Pages:
    """Pages on one database; those with the same settings are one, unless a test wants its own."""

    def __init__(self, processes: Processes, database: Database) -> None:
        self._processes = processes
        self._url = database.engine.url.render_as_string(hide_password=False)
        self._shared: dict[tuple[object, ...], Page] = {}
        self._opened: list[Page] = []

    def __call__(self, *arguments: str, **env: str) -> Page:
        """Return the page with these settings, shared by the module's tests."""
        key = (*arguments, *sorted(env.items()))
        if key not in self._shared:
            self._shared[key] = self.open(*arguments, **env)
        return self._shared[key]

    def open(self, *arguments: str, **env: str) -> Page:
        """Start a page with these settings, as a command (`web` unless told)."""
        page = Page(self._processes, {"DATABASE_URL": self._url, **env}, *arguments)
        self._opened.append(page)
        return page.wait()

    def forget_sessions(self) -> None:
        for page in self._opened:
            page.client.cookies.clear()

    def close(self) -> None:
        for page in self._opened:
            page.close()
