"""What every page is made of: the parts of the service, and how an answer is rendered."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import dramatiq
import jinja2
from sqlalchemy.exc import SQLAlchemyError
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response

from workers.database import Database
from workers.periodic import utc_now
from workers.settings import Settings
from workers.web import words
from workers.web.access import Keys, Throttle
from workers.web.threads import Busy, Threads

T = TypeVar("T")

ANSWER_SECONDS = 8.0
"""Longer than a connection to the database may take to fail."""

FRAGMENT_HEADER = "x-live"
"""With it, a page of ours asks for what may have changed only."""


@dataclass
class Site:
    """The parts of the service that the pages look at and act on."""

    settings: Settings
    database: Database
    broker: dramatiq.Broker
    keys: Keys
    throttle: Throttle = field(default_factory=Throttle)
    threads: Threads = field(default_factory=Threads)

    @cached_property
    def jobs(self) -> tuple[str, ...]:
        """The names of all jobs."""
        return tuple(self.broker.actors)

    @cached_property
    def templates(self) -> jinja2.Environment:
        templates = jinja2.Environment(
            loader=jinja2.PackageLoader("workers.web"),
            # All of them: what people and libraries write into errors is only ever text here.
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        templates.filters.update(words.FILTERS)
        templates.globals["now"] = utc_now
        templates.globals["STATUSES"] = words.STATUSES
        return templates

    def render(
        self, request: Request, template: str, *, code: int = 200, **context: Any
    ) -> HTMLResponse:
        """Render a page; or, for a page of ours that keeps itself up to date, its live part."""
        is_fragment = FRAGMENT_HEADER in request.headers
        html = self.templates.get_template(template).render(
            layout="fragment.html" if is_fragment else "page.html",
            path=request.url.path,
            form_token=request.state.form_token,
            can_log_out=bool(request.state.session),
            **context,
        )
        return HTMLResponse(html, code)

    def complain(self, request: Request, code: int, line: str) -> Response:
        """Answer that something is wrong: a page for people, a line for programs."""
        if wants_json(request):
            return JSONResponse({"error": line}, code)
        if "text/html" in request.headers.get("accept", ""):
            is_passing = code == 503 and request.method == "GET"
            return self.render(
                request, "complaint.html", code=code, line=line, is_passing=is_passing
            )
        return PlainTextResponse(f"{line}\n", code)

    async def ask(self, function: Any, *arguments: Any, seconds: float = ANSWER_SECONDS) -> Any:
        """Call ``function(session, …)`` in a transaction, in a thread.

        Raises:
            SQLAlchemyError: if the database fails.
            Busy: if it does not answer in time.
        """

        def call() -> Any:
            with self.database.transaction() as session:
                return function(session, *arguments)

        return await self.threads.call(call, seconds=seconds)


UNANSWERED = (SQLAlchemyError, Busy)
"""What `Site.ask` raises when there is no answer."""


def wants_json(request: Request) -> bool:
    """Tell whether a program asks, for data."""
    return "application/json" in request.headers.get("accept", "")


def is_program(request: Request) -> bool:
    """Tell whether the token came in a header."""
    return "authorization" in request.headers
