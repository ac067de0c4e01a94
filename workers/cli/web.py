"""``python -m workers web``, and the page within ``run``."""

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import click
import dramatiq

from workers import app, logs
from workers.cli.signals import stop_signal
from workers.web import page
from workers.web.server import PortTaken

LOOK_SECONDS = 1.0
"""How often it is looked whether the page still lives."""


@click.command("web")
def web() -> None:
    """Serve the operations page, /metrics, /healthz and /readyz on $PORT.

    With OPS_TOKEN it listens on all addresses, and asks for the token; without, on 127.0.0.1 only.
    """
    logs.configure(app.settings.log_format_in_use, app.settings.log_level)
    keep_server_quiet()
    stop = stop_signal()
    try:
        with page.serving(app.settings, app.database, app.broker) as server:
            click.echo(f"Operations page: {page.address(app.settings)}", err=True)
            while not stop.wait(LOOK_SECONDS):
                if not server.is_alive():
                    raise click.ClickException("the page has failed; the log says why")
    except PortTaken as error:
        raise click.ClickException(str(error)) from None


@contextmanager
def page_beside(broker: dramatiq.Broker) -> Iterator[None]:
    """Serve the page while the block lasts; without a port for it, go on without."""
    keep_server_quiet()
    with ExitStack() as stack:
        try:
            stack.enter_context(page.serving(app.settings, app.database, broker))
        except PortTaken as error:
            click.echo(f"No operations page: {error}", err=True)
        else:
            click.echo(f"Operations page: {page.address(app.settings)}", err=True)
        yield


def keep_server_quiet() -> None:
    """Leave out what the server says of its own coming and going."""
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
