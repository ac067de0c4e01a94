"""What the ledger and the schedule tell, as plain data and as tables for a terminal."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import dramatiq
from rich.table import Table
from rich.text import Text
from sqlalchemy import select
from sqlalchemy.orm import aliased

from workers.database import Database
from workers.models import JobRun
from workers.periodic import Ticker, utc_now

RUN_COLUMNS = (
    "id",
    "run_key",
    "job",
    "slot",
    "message_id",
    "queue",
    "status",
    "attempt",
    "enqueued_at",
    "started_at",
    "finished_at",
    "result",
    "error",
    "worker",
)
STYLES = {"succeeded": "green", "running": "cyan", "retrying": "yellow", "dead": "red"}

Report = dict[str, Any]


def list_runs(
    database: Database, *, job: str | None = None, status: str | None = None, limit: int = 20
) -> list[Report]:
    """Return the newest runs, newest first; each with the ledger's columns, times in ISO 8601."""
    query = select(JobRun).order_by(JobRun.id.desc()).limit(limit)
    if job is not None:
        query = query.where(JobRun.job == job)
    if status is not None:
        query = query.where(JobRun.status == status)
    with database.transaction() as session:
        return [run_report(run) for run in session.scalars(query)]


def list_jobs(database: Database, actors: Mapping[str, dramatiq.Actor[Any, Any]]) -> list[Report]:
    """Return each job's queue, schedule, next due time and last run (None if it never ran)."""
    newest = (
        select(JobRun)
        .where(JobRun.status != "skipped")
        .distinct(JobRun.job)
        .order_by(JobRun.job, JobRun.id.desc())
        .subquery()
    )
    with database.transaction() as session:
        last_runs = {run.job: run for run in session.scalars(select(aliased(JobRun, newest)))}
    now = utc_now()
    return [_job_report(actor, last_runs.get(name), now) for name, actor in actors.items()]


def run_report(run: JobRun) -> Report:
    """Return one run as JSON can carry it."""
    return {name: json_ready(getattr(run, name)) for name in RUN_COLUMNS}


def _job_report(actor: dramatiq.Actor[Any, Any], last_run: JobRun | None, now: datetime) -> Report:
    ticker: Ticker | None = actor.options.get("periodic")
    return {
        "job": actor.actor_name,
        "queue": actor.queue_name,
        "schedule": str(ticker) if ticker else None,
        "next_due": json_ready(ticker.spec.next_after(now)) if ticker else None,
        "last_run": run_report(last_run) if last_run else None,
    }


def json_ready(value: Any) -> Any:
    """Return a time in ISO 8601, and anything else as it is."""
    return (
        f"{value:%Y-%m-%dT%H:%M:%S.%f}Z".replace(".000000Z", "Z")
        if isinstance(value, datetime)
        else value
    )


def jobs_table(jobs: Iterable[Report]) -> Table:
    """Lay out `list_jobs` for people."""
    table = _table("Job", "Queue", "Schedule", "Next due (UTC)", "Last run", "Result")
    for job in jobs:
        last = job["last_run"] or {}
        table.add_row(
            job["job"],
            job["queue"],
            job["schedule"] or "on demand",
            _clock(job["next_due"]),
            _status(last),
            _outcome(last),
        )
    return table


def runs_table(runs: Iterable[Report]) -> Table:
    """Lay out `list_runs` for people."""
    table = _table("Job", "Slot (UTC)", "Status", "Attempt", "Started", "Took", "Result")
    for run in runs:
        table.add_row(
            run["job"],
            _clock(run["slot"]) or "on demand",
            Text(run["status"], STYLES.get(run["status"], "")),
            str(run["attempt"]),
            _clock(run["started_at"]),
            _duration(run),
            _outcome(run),
        )
    return table


def letters_table(letters: Iterable[Report]) -> Table:
    """Lay out dead letters for people."""
    table = _table("Job", "Slot (UTC)", "Attempts", "Dead for", "Queue", "Id", "Error")
    for letter in letters:
        table.add_row(
            Text(letter["job"] or "unknown"),
            _clock(letter["slot"]) or ("on demand" if letter["run_key"] else ""),
            "" if letter["attempt"] is None else str(letter["attempt"]),
            _age(letter["age_seconds"]),
            letter["queue"],
            Text(letter["id"]),
            Text(letter["error"]),
        )
    return table


def _age(seconds: float | None) -> str:
    if seconds is None:
        return ""
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit}"
    return f"{seconds:.0f} s"


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _clock(iso: str | None) -> str:
    """Shorten a time to what tells it apart: the time of day, and the date unless it is today's."""
    if iso is None:
        return ""
    day, _, time = iso.partition("T")
    return time[:8] if day == f"{utc_now():%Y-%m-%d}" else f"{day} {time[:8]}"


def _status(run: Report) -> Text:
    if not run:
        return Text("never")
    return Text(f"{run['status']} {_clock(run['started_at'])}", STYLES.get(run["status"], ""))


def _duration(run: Report) -> str:
    if not run["started_at"] or not run["finished_at"]:
        return ""
    took = datetime.fromisoformat(run["finished_at"]) - datetime.fromisoformat(run["started_at"])
    seconds = took.total_seconds()
    return f"{seconds * 1000:.0f} ms" if seconds < 10 else f"{seconds:.0f} s"


def _outcome(run: Report) -> Text:
    # As text, lest square brackets be taken for markup, by which some errors could not be shown.
    if run.get("error"):
        return Text(str(run["error"]).splitlines()[0])
    return Text(", ".join(f"{name} {count}" for name, count in (run.get("result") or {}).items()))
