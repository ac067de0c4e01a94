"""A server behind a wire that a test can cut, stop up, and mend."""

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from sqlalchemy import make_url

from tests.rig.ports import free_ports

CHUNK_BYTES = 65_536
POLL_SECONDS = 0.1


class Proxy:
    """Passes TCP connections on to a server.

    Args:
        target: host and port of the server, or the path of its Unix socket.
    """

    def __init__(self, target: tuple[str, int] | Path) -> None:
        self._target = target
        (self.port,) = free_ports(1)
        self._lock = threading.Lock()
        self._ends: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._is_flowing = threading.Event()
        self._is_cut = threading.Event()
        self._is_cut.set()
        self.restore()

    def cut(self) -> None:
        """Break all connections, and refuse new ones."""
        with self._lock:
            self._is_cut.set()
            self._is_flowing.set()
            for end in self._ends:
                with suppress(OSError):  # the other side was quicker
                    end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._threads = []

    def pause(self) -> None:
        """Take connections, but let nothing through, as a host does that stands still."""
        self._is_flowing.clear()

    def restore(self) -> None:
        """Let everything through (again)."""
        self._is_flowing.set()
        if self._is_cut.is_set():
            self._is_cut.clear()
            self._start(self._listen, socket.create_server(("127.0.0.1", self.port)))

    def close(self) -> None:
        """End it."""
        self.cut()

    def _start(self, work: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=work, args=arguments, name="proxy", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _listen(self, listener: socket.socket) -> None:
        with listener:
            listener.settimeout(POLL_SECONDS)
            while not self._is_cut.is_set():
                with suppress(TimeoutError):
                    client, _ = listener.accept()
                    self._start(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        self._is_flowing.wait()
        with client, suppress(OSError), self._connect() as server:
            with self._lock:
                if self._is_cut.is_set():
                    return
                self._ends |= {client, server}
            back = threading.Thread(target=self._pump, args=(server, client), daemon=True)
            back.start()
            self._pump(client, server)
            back.join()
            with self._lock:
                self._ends -= {client, server}

    def _connect(self) -> socket.socket:
        if isinstance(self._target, Path):
            server = socket.socket(socket.AF_UNIX)
            try:
                server.connect(str(self._target))
            except OSError:
                server.close()
                raise
            return server
        return socket.create_connection(self._target)

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(CHUNK_BYTES):
                self._is_flowing.wait()
                sink.sendall(data)
        # One side has ended, and so does the other.
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def proxy_to_postgres(url: str) -> tuple[Proxy, str]:
    """Return a proxy to the server of a database, and the database's URL by way of it."""
    parsed = make_url(url)
    folder = parsed.query.get("host")
    if isinstance(folder, str):
        target: tuple[str, int] | Path = Path(folder) / f".s.PGSQL.{parsed.port or 5432}"
    else:
        target = (parsed.host or "127.0.0.1", parsed.port or 5432)
    proxy = Proxy(target)
    through = parsed.set(host="127.0.0.1", port=proxy.port, query={})
    return proxy, through.render_as_string(hide_password=False)


def proxy_to_rabbitmq(url: str) -> tuple[Proxy, str]:
    """Return a proxy to a broker, and the broker's URL by way of it."""
    parsed = make_url(url)
    proxy = Proxy((parsed.host or "127.0.0.1", parsed.port or 5672))
    through = parsed.set(host="127.0.0.1", port=proxy.port)
    return proxy, through.render_as_string(hide_password=False)
