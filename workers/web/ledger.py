"""The pages of the ledger: all runs, the runs of a job, one run with its error and stack trace."""

from typing import Any, get_args

from sqlalchemy.orm import Session
from starlette.requests import Request
from starlette.responses import Response

from workers.models import JobRun, RunStatus
from workers.web import history, strip
from workers.web.live import Live, Unavailable
from workers.web.site import UNANSWERED, Site

NO_ANSWER = "The database does not answer. The page will when it does; nothing is lost."
MAX_ID = 2**63 - 1


async def runs(site: Site, request: Request) -> Response:
    """All runs, newest first, perhaps of one job or in one status."""
    job = request.query_params.get("job") or None
    if job is not None and job not in site.jobs:
        return site.complain(request, 404, "There is no such job.")
    return await _list(site, request, job=job, template="runs.html")


async def job(site: Site, live: Live, request: Request) -> Response:
    """One job: what it is, how it is doing, its runs."""
    name = request.path_params["job"].replace("-", "_")
    if name not in site.jobs:
        return site.complain(request, 404, "There is no such job.")
    try:
        snapshot = await live.latest()
    except Unavailable:
        return site.complain(request, 503, NO_ANSWER)
    status = next((each for each in snapshot.status.jobs if each.name == name), None)
    return await _list(
        site,
        request,
        job=name,
        template="job.html",
        status_of_job=status,
        problems=[each for each in snapshot.status.problems if each.subject == name],
        strip=snapshot.strips.get(name) or strip.draw(()),
        options=site.broker.actors[name].options if name in site.broker.actors else {},
        queue=site.broker.actors[name].queue_name if name in site.broker.actors else "",
    )


async def run(site: Site, request: Request) -> Response:
    """One run. One that has been asked for and has not begun is waited for."""
    # PostgreSQL knows no NUL, and would refuse the question.
    key = request.query_params.get("key", "").replace("\x00", "")
    try:
        found: JobRun | None = await site.ask(history.find_run, key)
    except UNANSWERED:
        return site.complain(request, 503, NO_ANSWER)
    asked_for = request.query_params.get("asked", "")
    if found is None and asked_for not in site.jobs:
        return site.complain(request, 404, "There is no such run, or it has been cleared away.")
    return site.render(request, "run.html", run=found, key=key, asked_for=asked_for)


async def _list(
    site: Site, request: Request, *, job: str | None, template: str, **context: Any
) -> Response:
    status = request.query_params.get("status") or None
    if status is not None and status not in get_args(RunStatus):
        return site.complain(request, 404, "There is no such status.")
    before = request.query_params.get("before") or None
    if before is not None and not (before.isascii() and before.isdigit() and int(before) < MAX_ID):
        return site.complain(request, 404, "There is no such page.")

    def read(session: Session) -> tuple[list[JobRun], bool]:
        return history.list_runs(
            session, job=job, status=status, before_id=int(before) if before else None
        )

    try:
        found, has_older = await site.ask(read)
    except UNANSWERED:
        return site.complain(request, 503, NO_ANSWER)
    return site.render(
        request,
        template,
        runs=found,
        has_older=has_older,
        job=job,
        status=status,
        before=before,
        jobs=site.jobs,
        **context,
    )
