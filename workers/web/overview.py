"""The front page, and the stream by which it and the others keep up to date."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy.exc import SQLAlchemyError
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from workers.job import QUEUES
from workers.models import JobRun, ProcessKind
from workers.status import JobStatus, LastRun, ProcessStatus, QueueStatus, Status, collect
from workers.web import history, strip
from workers.web.live import Live, Snapshot, Unavailable, version_of, without_ages
from workers.web.site import Site

KINDS: tuple[tuple[ProcessKind, str], ...] = (
    ("scheduler", "Schedulers"),
    ("worker", "Workers"),
    ("standby", "Standby"),
)


def take_snapshot(site: Site) -> Snapshot:
    """Look at the service, and at the last runs of each job. Blocks."""
    status = collect(site.settings, site.database, site.broker)
    strips: Mapping[str, Sequence[history.Mark]] = {}
    in_hand: Sequence[JobRun] = ()
    if status.database.is_reachable and status.schema.is_current is not False:
        try:
            with site.database.transaction() as session:
                found = history.read(session, site.jobs)
        except SQLAlchemyError:
            # It has gone away in between; the next snapshot says so.
            pass
        else:
            strips, in_hand = found.strips, found.in_hand
    seen = [
        without_ages(status.report()),
        {
            job: [(mark.run_key, mark.status, mark.attempt) for mark in strips[job]]
            for job in strips
        },
        [(run.run_key, run.status, run.attempt, run.result) for run in in_hand],
    ]
    return Snapshot(
        status=status,
        strips={job: strip.draw(marks) for job, marks in strips.items()},
        in_hand=tuple(in_hand),
        version=version_of(*seen),
    )


async def overview(site: Site, live: Live, request: Request) -> Response:
    """Is anything wrong, what, and what is to be done; then all that runs."""
    try:
        snapshot = await live.latest()
    except Unavailable:
        return site.complain(request, 503, "The state of the service could not be read in time.")
    status = snapshot.status
    return site.render(
        request,
        "overview.html",
        snapshot=snapshot,
        status=status,
        problems=status.problems,
        verdict=_verdict(status),
        groups=_by_queue(status),
        vitals=_vitals(status),
        in_hand=snapshot.in_hand,
        processes=_by_name(status.processes or ()),
        newest=_newest(status),
    )


async def events(site: Site, live: Live, request: Request) -> Response:
    """Tell browsers that the page lives, and when there is something new to see."""
    if live.is_full:
        return site.complain(request, 503, "Too many are looking already.")
    return StreamingResponse(
        live.follow(),
        media_type="text/event-stream",
        # nginx would else keep events until there are enough of them.
        headers={"X-Accel-Buffering": "no"},
    )


def _verdict(status: Status) -> str:
    """Return how it all is, in a word: the name of a style and of an icon."""
    if not status.problems:
        return "well"
    is_wrong = any(problem.severity == "page" for problem in status.problems)
    return "wrong" if is_wrong else "warning"


def _by_queue(status: Status) -> list[tuple[QueueStatus, list[JobStatus]]]:
    """Return the queues, the most urgent first, each with its jobs in the schedule's order."""
    known = {queue.name: queue for queue in status.queues}
    names = list(dict.fromkeys((*QUEUES, *(job.queue for job in status.jobs))))
    groups = [
        (
            known.get(name) or QueueStatus(name=name),
            [job for job in status.jobs if job.queue == name],
        )
        for name in names
    ]
    return [(queue, jobs) for queue, jobs in groups if jobs]


def _by_name(processes: Sequence[ProcessStatus]) -> list[dict[str, Any]]:
    """Return each process once, whatever it lives as; those that fell silent first."""
    found: dict[str, list[ProcessStatus]] = {}
    for process in processes:
        found.setdefault(process.name, []).append(process)
    rows = [
        {
            "name": name,
            "roles": [f"{each.kind} ({each.state})" if each.state else each.kind for each in roles],
            "queues": sorted({queue for each in roles for queue in each.queues}),
            "started_at": min(each.started_at for each in roles),
            "silent_seconds": max(
                (each.seen_seconds_ago for each in roles if each.is_silent), default=None
            ),
        }
        for name, roles in found.items()
    ]
    return sorted(rows, key=lambda row: row["silent_seconds"] is None)


def _newest(status: Status) -> LastRun | None:
    """Return the last run of all that began."""
    began = [job.last_run for job in status.jobs if job.last_run and job.last_run.started_at]
    return max(began, key=lambda run: run.started_at, default=None)  # type: ignore[arg-type,return-value]


def _vitals(status: Status) -> list[dict[str, Any]]:
    """Return what the service stands on, a word each: name, value, and whether it is well."""
    broker = status.broker
    where = "RabbitMQ" if broker.kind == "rabbitmq" else "In this process"
    database = "PostgreSQL" if status.database.is_reachable else "away"
    if status.database.is_reachable and status.schema.is_current is False:
        database = "schema does not fit"
    vitals = [
        _vital(
            "Database",
            database,
            status.database.is_reachable and status.schema.is_current is not False,
        ),
        _vital("Broker", where if broker.is_reachable else f"{where}: away", broker.is_reachable),
    ]
    vitals += [_vital_of_processes(kind, name, status.processes) for kind, name in KINDS]
    vitals.append(_vital_of_outbox(status))
    counts = [queue.dead_letters for queue in status.queues if queue.dead_letters is not None]
    vitals.append(
        _vital(
            "Dead letters",
            str(sum(counts)) if counts else "unknown",
            not sum(counts) if counts else None,
            link="/dead-letters",
        )
    )
    return vitals


def _vital(name: str, value: str, is_well: bool | None, *, link: str = "") -> dict[str, Any]:  # noqa: FBT001 - the third word of a row
    return {"name": name, "value": value, "is_well": is_well, "link": link}


def _vital_of_processes(
    kind: ProcessKind, name: str, processes: Sequence[ProcessStatus] | None
) -> dict[str, Any]:
    if processes is None:
        return _vital(name, "unknown", None)
    those = [process for process in processes if process.kind == kind]
    alive = [process for process in those if not process.is_silent]
    if kind == "standby":
        states = sorted({process.state or "alive" for process in alive})
        return _vital(
            name, ", ".join(states) or "none", None if not alive else "active" not in states
        )
    value = f"{len(alive)} alive"
    if silent := len(those) - len(alive):
        value += f", {silent} silent"
    return _vital(name, value, bool(alive))


def _vital_of_outbox(status: Status) -> dict[str, Any]:
    outbox = status.outbox
    if outbox is None:
        return _vital("Outbox", "unknown", None)
    waiting = outbox.messages + outbox.events
    is_old = any(problem.code == "outbox_old" for problem in status.problems)
    return _vital("Outbox", f"{waiting} waiting" if waiting else "empty", not is_old)
