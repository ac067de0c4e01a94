"""What every request passes before any page sees it, outermost first. Each is plain ASGI.

1. `Headers`: what browsers are told, on every answer.
2. `Limits`: sizes, before anybody reads.
3. `Hosts`: on loopback, the name by which we were called.

Then comes the gate (`workers.web.gate`).
"""

import asyncio
from urllib.parse import urlsplit

from starlette.datastructures import Headers as HeaderMap
from starlette.datastructures import MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_TARGET_BYTES = 4096
"""Path and query string. The longest that the page itself makes names a run: 255 characters."""

MAX_BODY_BYTES = 16 * 1024
MAX_DRAINED_BYTES = 16 * 1024 * 1024
BODY_SECONDS = 10

HEADERS = {
    # No inline style or script, and nothing from anywhere else: an error text that got through the
    # escaping of the templates would still not run.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Headers:
    """Adds the security headers; answers are not to be kept, unless they say so themselves."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        await self._app(scope, receive, send_with_headers)


class Limits:
    """Refuses what is too large; else hands the body on, whole, as ``scope["state"]["body"]``.

    Whoever sends too much is read to the end, within reason: many clients look at the answer only
    then.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if len(scope.get("raw_path") or b"") + len(scope["query_string"]) > MAX_TARGET_BYTES:
            await _refuse(414, "The address is too long.")(scope, receive, send)
            return
        try:
            async with asyncio.timeout(BODY_SECONDS):
                body = await _read(receive)
        except TimeoutError:
            await _refuse(408, "The request did not arrive in time.")(scope, receive, send)
            return
        if body is None:
            await _refuse(413, f"More than {MAX_BODY_BYTES} bytes.")(scope, receive, send)
            return
        scope.setdefault("state", {})["body"] = body
        await self._app(scope, receive, send)


async def _read(receive: Receive) -> bytes | None:
    """Read a body; None: too large, and read to its end if that is not too far."""
    body, length = bytearray(), 0
    while True:
        message = await receive()
        chunk: bytes = message.get("body", b"")
        length += len(chunk)
        if length <= MAX_BODY_BYTES:
            body += chunk
        has_ended = message["type"] != "http.request" or not message.get("more_body", False)
        if has_ended or length > MAX_DRAINED_BYTES:
            return bytes(body) if length <= MAX_BODY_BYTES else None


class Hosts:
    """On loopback, answers to the names of this machine only.

    Else a web page of anybody could have its own name point at 127.0.0.1, and read and act here
    from the browser of whoever visits it.
    """

    NAMES = frozenset({"localhost", "127.0.0.1", "::1"})

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            host = HeaderMap(scope=scope).get("host", "")
            if _host_name(host) not in self.NAMES:
                refusal = _refuse(
                    421,
                    "Without OPS_TOKEN this page is for its own machine only: open it as "
                    "http://localhost, or set OPS_TOKEN.",
                )
                await refusal(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _host_name(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


def _refuse(code: int, line: str) -> PlainTextResponse:
    return PlainTextResponse(f"{line}\n", code, headers={"Connection": "close"})
