"""The routes, behind the guards."""

from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from workers.web import actions, dead_letters, gate, guards, health, ledger, login, overview
from workers.web.live import Live
from workers.web.site import FRAGMENT_HEADER, Site

STATIC = Path(__file__).parent / "static"


def build(site: Site, live: Live) -> Starlette:
    """Put the pages of `site` together as one application."""
    guarding = [
        Middleware(guards.Headers),
        Middleware(guards.Limits),
        # With a token, other names lead nowhere: a browser sends no cookie there.
        *([Middleware(guards.Hosts)] if site.keys.is_open else []),
        Middleware(gate.Gate, keys=site.keys, throttle=site.throttle, complain=site.complain),
        Middleware(CompressFragments),
    ]
    return Starlette(
        routes=_routes(site, live),
        middleware=guarding,
        exception_handlers={
            HTTPException: partial(_complain, site),
            Exception: partial(_complain, site),
        },
    )


def _routes(site: Site, live: Live) -> list[Route | Mount]:
    return [
        Route("/", partial(overview.overview, site, live)),
        Route("/events", partial(overview.events, site, live)),
        Route("/runs", partial(ledger.runs, site)),
        Route("/run", partial(ledger.run, site)),
        Route("/jobs/{job}", partial(ledger.job, site, live)),
        Route("/jobs/{job}/run", partial(actions.run_now, site), methods=["POST"]),
        Route("/dead-letters", partial(dead_letters.show_all, site)),
        Route("/dead-letters/{queue}", partial(dead_letters.show_one, site)),
        Route("/dead-letters/{queue}/{action}", partial(dead_letters.act, site), methods=["POST"]),
        Route("/login", partial(login.show, site)),
        Route("/login", partial(login.log_in, site), methods=["POST"]),
        Route("/logout", partial(login.log_out, site), methods=["POST"]),
        Route("/healthz", partial(health.healthz, site)),
        Route("/readyz", partial(health.readyz, site, live)),
        Route("/metrics", partial(health.metrics, site, live)),
        Mount("/static", Static(directory=STATIC)),
    ]


class Static(StaticFiles):
    """Style and script; asked for again with each page, and answered with "not modified"."""

    def file_response(self, *args: object, **kwargs: object) -> Response:
        response = super().file_response(*args, **kwargs)  # type: ignore[arg-type]
        response.headers["Cache-Control"] = "no-cache"
        return response


class CompressFragments:
    """Compresses what the live page asks for again and again.

    Whole pages are sent as they are: they hold the form's token, and the length of a compressed
    page can give away what is in it.
    """

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        self._plain = app
        self._compressed = GZipMiddleware(app, minimum_size=1000, compresslevel=5)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope.get("headers") or [])
        is_fragment = FRAGMENT_HEADER.encode() in headers
        await (self._compressed if is_fragment else self._plain)(scope, receive, send)


async def _complain(site: Site, request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        lines = {404: "There is no such page.", 405: "That cannot be done here."}
        answer = site.complain(request, error.status_code, lines.get(error.status_code, "Refused."))
        answer.headers.update(error.headers or {})
        return answer
    # Starlette logs it, with its stack trace, after this.
    return site.complain(request, 500, "This page has failed; the log of its process says why.")
