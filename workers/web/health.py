"""``/healthz``, ``/readyz`` and ``/metrics``: for platforms, balancers and monitors.

The first two are open, for what asks there has no token. What they say holds no secret: the
driver's words on why something is away are only for whoever may see the page.
"""

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from workers.metrics import CONTENT_TYPE, render
from workers.status import Problem
from workers.web.live import STALE_SECONDS, Live, Unavailable
from workers.web.site import Site, wants_json


async def healthz(_site: Site, _request: Request) -> Response:
    """Tell that this process answers, whatever becomes of the others."""
    return PlainTextResponse("ok\n")


async def readyz(_site: Site, live: Live, request: Request) -> Response:
    """Tell whether runs can take place: 200, or 503 with what keeps them from it, a line each."""
    try:
        snapshot = await live.latest()
    except Unavailable:
        return _answer(request, None, [])
    if snapshot.is_stale:
        return _answer(request, None, [])
    problems = [each for each in snapshot.status.problems if each.is_blocking]
    return _answer(request, snapshot.status.is_ready, problems)


async def metrics(site: Site, live: Live, request: Request) -> Response:
    """Tell Prometheus of the whole service. Rather nothing than what is no longer true."""
    try:
        snapshot = await live.latest()
    except Unavailable:
        snapshot = None
    if snapshot is None or snapshot.is_stale:
        return site.complain(request, 503, "The service could not be looked at in time.")
    return Response(render(snapshot.status), media_type=CONTENT_TYPE)


def _answer(request: Request, is_ready: bool | None, problems: list[Problem]) -> Response:  # noqa: FBT001 - None is the third answer
    code = 200 if is_ready else 503
    said: list[dict[str, Any]] = [
        {"code": each.code, "summary": _without_reason(each), "advice": each.advice}
        for each in problems
    ]
    if is_ready is None:
        said = [
            {
                "code": "unknown",
                "summary": f"The service could not be looked at for {STALE_SECONDS:g} s",
                "advice": "See the log of this process, and whether the database hangs.",
            }
        ]
    if wants_json(request):
        return JSONResponse({"is_ready": bool(is_ready), "problems": said}, code)
    lines = [f"{each['summary']}. {each['advice']}" for each in said] or ["ready"]
    return PlainTextResponse("\n".join(lines) + "\n", code)


def _without_reason(problem: Problem) -> str:
    """Return what is wrong without the driver's words, which tell hosts, ports and names."""
    return problem.summary.partition(": ")[0]
