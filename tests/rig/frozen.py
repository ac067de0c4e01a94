"""A server that lets people in and then falls silent, as a machine does whose network is cut."""

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Self

CHUNK_BYTES = 65536


class FrozenServer:
    """Passes all on to another server, until `is_last` says so of something; nothing after that.

    Args:
        target: address of the other server: host and port, or the path of a Unix socket; None:
            nothing is passed on from the start.
        is_last: told what the client sends, says whether it is what freezes the server.
    """

    def __init__(
        self,
        target: tuple[str, int] | str | None = None,
        is_last: Callable[[bytes], bool] = lambda _data: False,
    ) -> None:
        self._target = target
        self._is_last = is_last
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = []
        self.has_frozen = threading.Event()
        self.was_hung_up = threading.Event()
        """Set when a client of the frozen server has given up."""
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def port(self) -> int:
        port: int = self._listener.getsockname()[1]
        return port

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for each in (self._listener, *self._sockets):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._sockets.append(client)
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        server = self._connect() if self._target else None
        if server is not None:
            threading.Thread(target=self._pass_back, args=(server, client), daemon=True).start()
        with suppress(OSError):
            while data := client.recv(CHUNK_BYTES):
                if server is None or self._is_last(data):
                    self.has_frozen.set()
                if not self.has_frozen.is_set() and server is not None:
                    server.sendall(data)
        if self.has_frozen.is_set():
            self.was_hung_up.set()

    def _pass_back(self, server: socket.socket, client: socket.socket) -> None:
        with suppress(OSError):
            while data := server.recv(CHUNK_BYTES):
                if not self.has_frozen.is_set():
                    client.sendall(data)

    def _connect(self) -> socket.socket:
        if isinstance(self._target, str):
            server = socket.socket(socket.AF_UNIX)
            server.connect(self._target)
        else:
            assert self._target is not None
            server = socket.create_connection(self._target)
        self._sockets.append(server)
        return server
