"""Logging in and out."""

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from workers.web import gate
from workers.web.site import Site


async def show(site: Site, request: Request) -> Response:
    """Ask for the token."""
    target = gate.safe_target(request.query_params.get("next", "/"))
    if site.keys.is_open or request.state.session:
        return RedirectResponse(target, 303)
    return site.render(request, "login.html", target=target, complaint="")


async def log_in(site: Site, request: Request) -> Response:
    """Give a session to whoever knows the token."""
    target = gate.safe_target(request.state.form.get("next", "/"))
    session, wait_seconds = gate.log_in(request, site.keys, site.throttle)
    if session is None:
        complaint = (
            f"Too many wrong tokens. Try again in {wait_seconds} s."
            if wait_seconds
            else "That is not the token. It is the value of OPS_TOKEN."
        )
        code = 429 if wait_seconds else 401
        answer: Response = site.render(
            request, "login.html", code=code, target=target, complaint=complaint
        )
        if wait_seconds:
            answer.headers["Retry-After"] = str(wait_seconds)
        return answer
    answer = RedirectResponse(target, 303)
    gate.set_session_cookie(request, answer, session)
    return answer


async def log_out(_site: Site, request: Request) -> Response:
    """Take the session away from this browser."""
    answer = RedirectResponse("/login", 303)
    gate.set_session_cookie(request, answer, "")
    return answer
