"""The gate: who it is, and for what acts, that it was meant.

Whoever shows the token, or has a session, may read. A request that acts (anything but GET and HEAD)
must come from a page of ours: the browser says so itself (`Sec-Fetch-Site`, `Origin`), and the form
carries a token that only our pages know. A program that shows the token in a header needs neither:
no other site can make a browser do that.
"""

from collections.abc import Callable
from urllib.parse import parse_qsl, quote, urlsplit

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from workers.web.access import SESSION_SECONDS, Keys, Throttle

SESSION_COOKIE = "ops_session"

OPEN_PATHS = ("/healthz", "/readyz", "/login")
"""What is answered without a token, beside `/static/`."""

Complain = Callable[[Request, int, str], Response]
"""Makes an answer of a status and a line, for people or for programs."""


class Gate:
    """Lets in whoever may read, and lets act only who meant to."""

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
        if not _is_open(request.scope["path"]):
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
            target = request.scope["path"] + (f"?{request.url.query}" if request.url.query else "")
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
        needs_token = not is_program and request.scope["path"] != "/login"
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
    # "//" begins another site's name, and more slashes do so for a browser too.
    is_ours = is_ours and not target.startswith("//")
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


def _parse_form(body: bytes) -> dict[str, str]:
    try:
        return dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=20))
    except ValueError:
        return {}
