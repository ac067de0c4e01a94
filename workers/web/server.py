"""Where the page listens, and the thread that serves it.

With ``OPS_TOKEN`` it listens on all addresses, as platforms want that hand out ``$PORT``. Without,
it listens on 127.0.0.1 only, and nobody else can reach it.

The port is taken before anything is served, so that a port in use is one clear line. The server
runs in a thread of its own: ``run`` has its main thread for signals and its worker threads for
jobs. When it stops, streams end first, as they would otherwise never.
"""

import errno
import logging
import socket
import threading
from collections.abc import Callable

import uvicorn
from starlette.types import ASGIApp

log = logging.getLogger(__name__)

START_SECONDS = 10
STOP_SECONDS = 3
"""How long answers that are under way may take when the page stops."""

MAX_REQUEST_HEAD_BYTES = 2 * 1024 * 1024
"""So much is read of a request line and its headers, so that what is too long gets an answer, not
a broken connection (`workers.web.guards.Limits`). Beyond, the connection is closed."""

MAX_CONNECTIONS = 250


class PortTaken(Exception):  # noqa: N818 - it names a state
    """Nothing can listen there; the message says why, and what to do."""


def listen(port: int, *, is_local: bool) -> socket.socket:
    """Take the port, on this machine's own address or on all.

    Raises:
        PortTaken: if another process has it, or it may not be had.
    """
    host = "127.0.0.1" if is_local else "0.0.0.0"  # noqa: S104 - the token guards it
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        reason = "is in use" if error.errno == errno.EADDRINUSE else f"({error.strerror})"
        raise PortTaken(
            f"PORT: cannot listen on {host}:{port}, which {reason}; stop the other, or set PORT"
            if error.errno == errno.EADDRINUSE
            else f"PORT: cannot listen on {host}:{port} {reason}; set PORT to another"
        ) from None
    return listener


class PageServer(threading.Thread):
    """Serves an application on a listening socket until it is stopped.

    Args:
        app: what to serve.
        listener: where.
        end_streams: called in the server's thread when it is to stop, before it waits for the
            answers under way.
    """

    def __init__(
        self, app: ASGIApp, listener: socket.socket, *, end_streams: Callable[[], None]
    ) -> None:
        super().__init__(name="page", daemon=True)
        self._listener = listener
        self._server = _Server(
            uvicorn.Config(
                app,
                http="h11",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                # Nothing that a client can write into a header changes whom we take it for.
                proxy_headers=False,
                h11_max_incomplete_event_size=MAX_REQUEST_HEAD_BYTES,
                limit_concurrency=MAX_CONNECTIONS,
                timeout_keep_alive=10,
                timeout_graceful_shutdown=STOP_SECONDS,
            ),
            end_streams,
        )

    def run(self) -> None:
        try:
            self._server.run(sockets=[self._listener])
        except Exception:
            # Whatever becomes of the page, the jobs of this process go on.
            log.exception("The operations page has failed")
        finally:
            self._listener.close()

    def stop(self) -> None:
        """End the streams, let answers that are under way finish, and close."""
        self._server.should_exit = True
        self.join(STOP_SECONDS + 2)


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, end_streams: Callable[[], None]) -> None:
        super().__init__(config)
        self._end_streams = end_streams

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._end_streams()
        await super().shutdown(sockets)
