"""What every request passes before any page sees it, outermost first. Each is plain ASGI.

1. `Headers`: what browsers are told, on every answer.
2. `Limits`: sizes, before anybody reads.
3. `Hosts`: on loopback, the name by which we were called.
4. `Gate`: who it is; and for what acts, that it was meant.
"""

import asyncio
from collections.abc import Callable
from urllib.parse import parse_qsl, quote, urlsplit

from starlette.datastructures import Headers as HeaderMap
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from workers.web.access import SESSION_SECONDS, Keys, Throttle

MAX_TARGET_BYTES = 4096
"""Path and query string. The longest that the page itself makes names a run: 255 characters."""

MAX_BODY_BYTES = 16 * 1024
MAX_DRAINED_BYTES = 16 * 1024 * 1024
BODY_SECONDS = 10

SESSION_COOKIE = "ops_session"

OPEN_PATHS = ("/healthz", "/readyz", "/login")
"""What is answered without a token, beside `/static/`."""

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


Complain = Callable[[Request, int, str], Response]
"""Makes an answer of a status and a line, for people or for programs."""


class Gate:
    """Lets in whoever has the token or a session, and lets act only who meant to.

    A request that acts (anything but GET and HEAD) must come from a page of ours: the browser says
    so itself (`Sec-Fetch-Site`, `Origin`), and the form carries a token that only our pages know.
    A program that shows the token in a header needs neither: no other site can make a browser do
    that.
    """

    def __init__(self, app: ASGIApp, keys: Keys, throttle: Throttle, complain: Complain) -> None:
        self._app = app
        self._keys = keys
        self._throttle = throttle
        self._complain = complain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        refusal = self._judge(request)
        await (refusal or self._app)(scope, receive, send)

    def _judge(self, request: Request) -> Response | None:
        """Return the refusal, or None. Whoever passes has `session` and `form` in its state."""
        request.state.session = session = self._session(request)
        request.state.form_token = self._keys.form_token(session)
        request.state.form = {}
        is_program = False
        if not _is_open(request.url.path):
            scheme, _, token = request.headers.get("authorization", "").partition(" ")
            if scheme.lower() == "bearer":
                if refusal := self._judge_token(request, token.strip()):
                    return refusal
                is_program = True
            elif not self._keys.is_open and not session:
                return self._ask_for_token(request)
        if request.method in ("GET", "HEAD"):
            return None
        return self._judge_act(request, is_program=is_program)

    def _session(self, request: Request) -> str:
        given = request.cookies.get(SESSION_COOKIE, "")
        is_ours = not self._keys.is_open and self._keys.is_session(given)
        return given if is_ours else ""

    def _judge_token(self, request: Request, token: str) -> Response | None:
        address = client_address(request)
        if wait_seconds := self._throttle.wait_seconds(address):
            refusal = self._complain(request, 429, "Too many wrong tokens; wait a minute.")
            refusal.headers["Retry-After"] = str(wait_seconds)
            return refusal
        if self._keys.is_token(token):
            return None
        self._throttle.note_wrong_token(address)
        refusal = self._complain(request, 401, "The token is wrong: it is that of OPS_TOKEN.")
        refusal.headers["WWW-Authenticate"] = "Bearer"
        return refusal

    def _ask_for_token(self, request: Request) -> Response:
        if request.method == "GET" and "text/html" in request.headers.get("accept", ""):
            target = request.url.path + (f"?{request.url.query}" if request.url.query else "")
            return RedirectResponse(f"/login?next={quote(target)}", 303)
        refusal = self._complain(request, 401, "Send 'Authorization: Bearer' with OPS_TOKEN.")
        refusal.headers["WWW-Authenticate"] = "Bearer"
        return refusal

    def _judge_act(self, request: Request, *, is_program: bool) -> Response | None:
        if not is_program and _is_from_another_site(request):
            return self._complain(request, 403, "This was sent by another site, and is refused.")
        content_type = request.headers.get("content-type", "").partition(";")[0]
        body: bytes = request.state.body
        if body and content_type != "application/x-www-form-urlencoded":
            return self._complain(request, 415, "Send a form (application/x-www-form-urlencoded).")
        request.state.form = _parse_form(body)
        # Logging in has no session yet whose token a form could carry, and gives nothing that
        # its sender does not have.
        needs_token = not is_program and request.url.path != "/login"
        given = request.state.form.get("form_token", "")
        if needs_token and not self._keys.is_form_token(given, request.state.session):
            return self._complain(
                request, 403, "This page is older than its session: reload it, and try again."
            )
        return None


def log_in(request: Request, keys: Keys, throttle: Throttle) -> tuple[str | None, int]:
    """Try the token of the login form.

    Returns:
        a session, None if the token is wrong; and for how many seconds no token may be tried.
    """
    address = client_address(request)
    if wait_seconds := throttle.wait_seconds(address):
        return None, wait_seconds
    if keys.is_token(request.state.form.get("token", "").strip()):
        return keys.new_session(), 0
    throttle.note_wrong_token(address)
    return None, 0


def set_session_cookie(request: Request, response: Response, session: str) -> None:
    """Give a browser its session; an empty one takes it away."""
    response.set_cookie(
        SESSION_COOKIE,
        session,
        max_age=SESSION_SECONDS if session else 0,
        httponly=True,
        samesite="strict",
        # The one thing for which a proxy is believed. Whoever lies here makes their own browser
        # keep their own cookie from an unencrypted connection.
        secure="https" in (request.url.scheme, request.headers.get("x-forwarded-proto")),
    )


def client_address(request: Request) -> str:
    """Return the address that the connection comes from.

    Not what `X-Forwarded-For` says: without a proxy, anybody could write anything there.
    """
    return request.client.host if request.client else ""


def safe_target(target: str) -> str:
    """Return a path of this site to go to; anything else becomes the front page."""
    parts = urlsplit(target)
    is_ours = target.startswith("/") and not parts.scheme and not parts.netloc
    # Browsers take "\" for "/", and drop what does not print.
    return target if is_ours and "\\" not in target and target.isprintable() else "/"


def _is_open(path: str) -> bool:
    return path in OPEN_PATHS or path.startswith("/static/")


def _is_from_another_site(request: Request) -> bool:
    site = request.headers.get("sec-fetch-site")
    if site is not None and site != "same-origin":
        return True
    origin = request.headers.get("origin")
    # The scheme is not compared: behind a proxy, browsers see https where we see http.
    return origin is not None and urlsplit(origin).netloc != request.headers.get("host")


def _host_name(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


def _parse_form(body: bytes) -> dict[str, str]:
    try:
        return dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=20))
    except ValueError:
        return {}


def _refuse(code: int, line: str) -> PlainTextResponse:
    return PlainTextResponse(f"{line}\n", code, headers={"Connection": "close"})
