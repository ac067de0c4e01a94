"""``python -m workers standby``: takes over the schedule while RabbitMQ cannot be reached."""

import importlib

import click
from sqlalchemy.exc import SQLAlchemyError

from workers import app, logs, schema
from workers.broker import InProcessBroker, is_pika_installed
from workers.checks import first_line
from workers.cli.signals import stop_signal
from workers.presence import Heartbeat
from workers.settings import ConfigurationError


@click.command("standby")
@click.argument("modules", nargs=-1, metavar="[MODULE]...")
def standby(*, modules: tuple[str, ...]) -> None:
    """Take over the schedule while RabbitMQ cannot be reached.

    After STANDBY_AFTER_SECONDS the jobs run in this process, until RabbitMQ is back. Any number of
    standbys may run. Name the MODULEs with further actors that workers and schedulers are given.
    """
    logs.configure(app.settings.log_format_in_use, app.settings.log_level)
    stop = stop_signal()
    _require_rabbitmq()
    for module in modules:
        _import(module)
    _check_schema()
    from workers.rabbitmq import Rabbitmq  # noqa: PLC0415 - pika may be missing
    from workers.standby import Standby  # noqa: PLC0415

    assert isinstance(app.broker, Rabbitmq)  # noqa: S101 - there are two kinds
    watcher = Standby(app.broker, app.database, app.settings, app.schedule)
    heartbeat = Heartbeat(app.database, "standby", state=lambda: watcher.state)
    heartbeat.start()
    try:
        watcher.watch_until(stop)
    finally:
        heartbeat.stop()
    app.database.close()


def _require_rabbitmq() -> None:
    if app.settings.rabbitmq_url is None:
        raise ConfigurationError(
            "RABBITMQ_URL: is not set, so there is nothing to stand by for; set it, or use "
            "'python -m workers run'"
        )
    if isinstance(app.broker, InProcessBroker) or not is_pika_installed():
        raise ConfigurationError(
            "RABBITMQ_URL: is set, but RabbitMQ's client library, pika, cannot be imported"
        )


def _import(module: str) -> None:
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise click.BadParameter(
            f"cannot import {module!r}: {error}", param_hint="'MODULE'"
        ) from None


def _check_schema() -> None:
    try:
        schema.require_current(app.database.engine)
    except SQLAlchemyError as error:
        click.echo(f"The database cannot be reached yet: {first_line(error)}", err=True)
