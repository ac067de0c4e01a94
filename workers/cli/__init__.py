"""The commands of ``python -m workers``. Tables for people, ``--json`` for programs.

Those with more to them have a file of their own.
"""

import time
from contextlib import nullcontext
from typing import cast, get_args

import click

from workers import app, checks, embedded, logs, reports, runs, sample_data, schema
from workers.broker import InProcessBroker
from workers.cli.dead_letters import dead_letters
from workers.cli.printing import as_json_option, print_json, print_table
from workers.cli.signals import stop_signal
from workers.cli.standby import standby
from workers.cli.web import page_beside, web
from workers.job import Job
from workers.models import JobRun, RunStatus
from workers.periodic import utc_now
from workers.simulate import simulate

POLL_SECONDS = 0.1
ENDED = ("succeeded", "dead", "skipped")


class JobName(click.ParamType[str]):
    """The name of a job, written with ``_`` or ``-``."""

    name = "job"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        job = value.replace("-", "_")
        if job not in app.broker.actors:
            self.fail(f"there is no job {value!r}; 'python -m workers jobs' lists them", param, ctx)
        return job


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Background jobs of the task marketplace."""
    # A command's output is what it prints; of the log, only what goes wrong belongs beside it.
    logs.configure("console", "WARNING")


cli.add_command(dead_letters)
cli.add_command(standby)
cli.add_command(web)


@cli.command("run")
@click.option(
    "--sample-data", is_flag=True, help="Fill an empty database with a small marketplace."
)
def run_everything(*, sample_data: bool) -> None:
    """Run scheduler, workers and operations page in one process, on whatever is configured."""
    # This one is a service: its log is what it has to show.
    logs.configure(app.settings.log_format or "console", app.settings.log_level)
    stop = stop_signal()
    broker, why_not = embedded.choose_broker(app.settings, app.database, app.broker, app.schedule)
    _prepare_database(with_sample_data=sample_data)
    _introduce(in_process=isinstance(broker, InProcessBroker), why_not=why_not)
    with (
        page_beside(broker),
        embedded.serving(
            broker,
            app.database,
            grace_seconds=app.settings.shutdown_grace_seconds,
            with_schedule=True,
        ),
    ):
        stop.wait()
        click.echo("Stopping; what runs may finish.", err=True)
    app.database.close()


def _prepare_database(*, with_sample_data: bool) -> None:
    """Migrate an empty database, or the embedded one; any other is its owner's to migrate."""
    engine = app.database.engine
    if app.settings.database_url is None or schema.current_revision(engine) is None:
        schema.migrate(engine)
    schema.require_current(engine)
    if with_sample_data:
        with app.database.transaction() as session:
            rows = sample_data.fill(session, utc_now())
        if rows:
            click.echo(
                f"Filled the database with {sum(rows.values())} rows of sample data.", err=True
            )


def _introduce(*, in_process: bool, why_not: str | None) -> None:
    if why_not:
        warning = f" {why_not}. Falling back to the in-process broker. "
        click.secho("!" * len(warning), fg="yellow", err=True)
        click.secho(warning, fg="yellow", bold=True, err=True)
        click.secho("!" * len(warning), fg="yellow", err=True)
    database = (
        "DATABASE_URL" if app.settings.database_url else "embedded PostgreSQL (.local/postgres)"
    )
    broker = "in this process" if in_process else "RabbitMQ"
    click.echo(
        f"Database: {database}   Broker: {broker}   Jobs: {len(app.broker.actors)}", err=True
    )
    click.echo("Stop with Ctrl+C. In another terminal: python -m workers runs", err=True)


@cli.command()
def migrate() -> None:
    """Bring the database's schema up to date; safe to run from many machines at once."""
    applied = schema.migrate(app.database.engine)
    revision = schema.head_revision()
    click.echo(f"Applied {', '.join(applied)}." if applied else f"Up to date at {revision}.")


class Scale(click.ParamType[tuple[str, int]]):
    """How many there are of a process: ``worker=2``."""

    name = "PROCESS=COUNT"

    def convert(
        self,
        value: str | tuple[str, int],
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> tuple[str, int]:
        if isinstance(value, tuple):
            return value
        name, _, count = value.partition("=")
        if not (name and count.isdecimal()):
            self.fail(f"{value!r} is not like worker=2", param, ctx)
        return name, int(count)


@cli.command()
@click.option("--scale", type=Scale(), multiple=True, help="How many there are; else one of each.")
@click.pass_context
def check(ctx: click.Context, *, scale: tuple[tuple[str, int], ...]) -> None:
    """Check configuration, database, schema, broker, queues, connections, schedule: a line each.

    Connections are counted from the Procfile in this folder.
    """
    is_all_well = True
    findings = checks.run_checks(app.settings, app.database, app.broker, app.schedule, dict(scale))
    for finding in findings:
        is_all_well = is_all_well and finding.is_ok
        mark = click.style("ok  ", "green") if finding.is_ok else click.style("FAIL", "red")
        click.echo(f"{mark}  {finding.subject:<14}{finding.text}")
    ctx.exit(0 if is_all_well else 1)


@cli.command("jobs")
@as_json_option
def list_jobs(*, as_json: bool) -> None:
    """List the jobs: queue, schedule, next due, last run."""
    jobs = reports.list_jobs(app.database, app.broker.actors)
    if as_json:
        print_json(jobs)
    else:
        print_table(reports.jobs_table(jobs))


@cli.command("runs")
@click.option("--job", type=JobName(), help="Only runs of this job.")
@click.option("--status", type=click.Choice(get_args(RunStatus)), help="Only runs in this status.")
@click.option(
    "--limit", type=click.IntRange(min=1), default=20, show_default=True, help="How many."
)
@as_json_option
def list_runs(*, job: str | None, status: str | None, limit: int, as_json: bool) -> None:
    """List the runs, newest first."""
    found = reports.list_runs(app.database, job=job, status=status, limit=limit)
    if as_json:
        print_json(found)
    elif found:
        print_table(reports.runs_table(found))
    else:
        click.echo("There are no such runs.")


@cli.command()
@click.argument("job", type=JobName())
@click.option("--wait", type=click.FloatRange(min=0), metavar="SECONDS", help="Wait for its end.")
@as_json_option
@click.pass_context
def trigger(ctx: click.Context, *, job: str, wait: float | None, as_json: bool) -> None:
    """Enqueue one run of JOB now, ahead of scheduled ones.

    With the in-process broker the run takes place in this process, which waits for its end.
    """
    schema.require_current(app.database.engine)
    in_process = isinstance(app.broker, InProcessBroker)
    service = (
        embedded.serving(
            app.broker,
            app.database,
            grace_seconds=app.settings.shutdown_grace_seconds,
            with_schedule=False,
        )
        if in_process
        else nullcontext()
    )
    with service:
        message = cast("Job", app.broker.actors[job]).send_with_options()
        if wait is None and not in_process:
            _print_enqueued(job, message.message_id, as_json=as_json)
            return
        run = _wait_for_run(message.message_id, wait)
    if run is not None:
        report = reports.run_report(run)
        print_json(report) if as_json else print_table(reports.runs_table([report]))
    if run is None or run.status != "succeeded":
        state = f"it is {run.status}" if run else "it has not started"
        click.echo(f"Error: the run did not succeed: {state}", err=True)
        ctx.exit(1)


def _print_enqueued(job: str, run_key: str, *, as_json: bool) -> None:
    if as_json:
        print_json({"job": job, "run_key": run_key})
    else:
        click.echo(f"Enqueued {job}; its run_key is {run_key}.")


def _wait_for_run(run_key: str, seconds: float | None) -> JobRun | None:
    deadline = time.monotonic() + (float("inf") if seconds is None else seconds)
    while True:
        run = runs.find_run(app.database, run_key)
        if (run and run.status in ENDED) or time.monotonic() >= deadline:
            return run
        time.sleep(POLL_SECONDS)


@cli.command("simulate")
@click.option("--seconds", type=click.FloatRange(min=0), help="How long; else until stopped.")
@click.option(
    "--people", type=click.IntRange(min=1), default=1000, show_default=True, help="How many arrive."
)
def simulate_marketplace(*, seconds: float | None, people: int) -> None:
    """Keep a sample marketplace busy: people arrive, write, fall silent, post and take tasks."""
    schema.require_current(app.database.engine)
    counts = simulate(
        app.database, seconds=seconds, people=people, on_event=click.echo, stop=stop_signal()
    )
    click.echo(", ".join(f"{name} {count}" for name, count in counts.items()))
