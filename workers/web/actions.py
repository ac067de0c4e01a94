"""What can be done about jobs: a run now."""

from urllib.parse import quote

import dramatiq
from sqlalchemy.orm import Session
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from workers import outbox
from workers.job import Job
from workers.web.ledger import NO_ANSWER
from workers.web.site import UNANSWERED, Site, is_program


async def run_now(site: Site, request: Request) -> Response:
    """Ask for one run of a job, ahead of scheduled ones, and go to see what becomes of it.

    Through the outbox: so it needs no connection to RabbitMQ, it waits if RabbitMQ is away, and it
    reaches the workers of ``python -m workers run`` in another process, too.
    """
    actor = site.broker.actors.get(request.path_params["job"].replace("-", "_"))
    if not isinstance(actor, Job):
        return site.complain(request, 404, "There is no such job.")

    def enqueue(session: Session) -> dramatiq.Message[object]:
        message = actor.message_with_options()
        outbox.enqueue_many(session, [message])
        return message

    try:
        message = await site.ask(enqueue)
    except UNANSWERED:
        return site.complain(request, 503, NO_ANSWER)
    if is_program(request):
        return JSONResponse({"job": actor.actor_name, "run_key": message.message_id}, 202)
    key = quote(message.message_id)
    return RedirectResponse(f"/run?key={key}&asked={actor.actor_name}", 303)
