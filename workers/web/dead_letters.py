"""The dead letters: look at them, send them again, drop them."""

from collections.abc import Callable, Iterable
from contextlib import closing
from functools import partial
from itertools import islice
from typing import TypeVar

from dramatiq.errors import ConnectionClosed
from sqlalchemy.exc import SQLAlchemyError
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from workers.dead_letters.cabinets import open_cabinet
from workers.dead_letters.letters import Cabinet, Letter
from workers.job import QUEUES
from workers.settings import ConfigurationError
from workers.web.site import Site, is_program
from workers.web.threads import Busy
from workers.web.words import plural

T = TypeVar("T")

SHOWN = 100
AT_ONCE = 500
"""So many are sent again by one request, which is to be answered while somebody waits."""

SECONDS = 20.0

ACTIONS = {"requeue": "Sent {} again.", "drop": "Dropped {}."}


async def show_all(site: Site, request: Request) -> Response:
    """List them, oldest first. Not live: looking at them hides them from others for a moment."""

    def look(cabinet: Cabinet) -> tuple[list[Letter], int]:
        with closing(cabinet.look(QUEUES)) as letters:
            return list(islice(letters, SHOWN)), cabinet.count(QUEUES)

    found = await _in_cabinet(site, request, look)
    if isinstance(found, Response):
        return found
    letters, count = found
    queues = [queue for queue in QUEUES if any(each.queue == queue for each in letters)]
    return site.render(
        request,
        "dead_letters.html",
        letters=letters,
        count=count,
        queues=queues,
        shown=SHOWN,
        notice=_notice(request),
    )


async def show_one(site: Site, request: Request) -> Response:
    """Show all of one: its error, its stack trace, its message."""
    queue, letter_id = request.path_params["queue"], request.query_params.get("id", "")
    if queue not in QUEUES:
        return site.complain(request, 404, "There is no such queue.")

    def look(cabinet: Cabinet) -> Letter | None:
        with closing(cabinet.look((queue,), letter_id)) as letters:
            return next(letters, None)

    found = await _in_cabinet(site, request, look)
    if isinstance(found, Response):
        return found
    if found is None:
        return site.complain(
            request, 404, "There is no such dead letter any more: it was sent again, or dropped."
        )
    return site.render(request, "dead_letter.html", letter=found)


async def act(site: Site, request: Request) -> Response:
    """Send again, or drop: the one that the form names, or, to send again, all of the queue."""
    queue, action = request.path_params["queue"], request.path_params["action"]
    letter_id = request.state.form.get("id", "")
    is_all = action == "requeue" and request.state.form.get("all") == "yes"
    if queue not in QUEUES or action not in ACTIONS:
        return site.complain(request, 404, "There is no such queue, or action.")
    if not letter_id and not is_all:
        return site.complain(request, 400, "Say which: id=…, or all=yes to send all again.")

    def do(cabinet: Cabinet) -> int:
        method = cabinet.requeue if action == "requeue" else cabinet.drop
        with closing(method((queue,), letter_id or None)) as ids:
            return _count(islice(ids, AT_ONCE))

    count = await _in_cabinet(site, request, do)
    if isinstance(count, Response):
        return count
    if letter_id and not count:
        return site.complain(
            request, 404, "There is no such dead letter any more: it was sent again, or dropped."
        )
    if is_program(request):
        return JSONResponse({action: count})
    return RedirectResponse(f"/dead-letters?done={action}&count={count}", 303)


def _notice(request: Request) -> str:
    """Say what the request before this one did. Not in its own words: anybody can make a link."""
    done, count = request.query_params.get("done", ""), request.query_params.get("count", "")
    if done not in ACTIONS or not (count.isascii() and count.isdigit() and len(count) < 10):
        return ""
    return ACTIONS[done].format(plural(int(count), "dead letter"))


async def _in_cabinet(
    site: Site, request: Request, function: Callable[[Cabinet], T]
) -> T | Response:
    """Call `function` with the open cabinet, in a thread; whatever fails becomes an answer."""
    try:
        return await site.threads.call(partial(_open_and_call, site, function), seconds=SECONDS)
    except ConnectionClosed as error:
        return site.complain(
            request,
            503,
            f"RabbitMQ, which keeps the dead letters, cannot be reached: {error}. "
            "They are safe; the ledger has their errors, under Runs.",
        )
    except (SQLAlchemyError, Busy):
        return site.complain(request, 503, "No answer in time. Reload to see what was done.")
    except ConfigurationError as error:
        return site.complain(request, 409, str(error))


def _open_and_call(site: Site, function: Callable[[Cabinet], T]) -> T:
    with open_cabinet(site.broker, site.database) as cabinet:
        return function(cabinet)


def _count(items: Iterable[object]) -> int:
    return sum(1 for _ in items)
