"""The page as a part of a process: opened on its port, closed with the rest."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import dramatiq

from workers.database import KEPT_CONNECTIONS, Database
from workers.presence import Heartbeat
from workers.settings import Settings
from workers.web.access import Keys
from workers.web.application import build
from workers.web.live import Live
from workers.web.overview import take_snapshot
from workers.web.server import PageServer, listen
from workers.web.site import Site

STATEMENT_SECONDS = 10
"""No page has to wait longer for a statement."""


@contextmanager
def serving(
    settings: Settings, database: Database, broker: dramatiq.Broker
) -> Iterator[PageServer]:
    """Serve the page on ``$PORT`` while the block lasts.

    Args:
        settings: the configuration; its token decides where the page listens.
        database: whose server to look at, over connections of the page's own.
        broker: with the actors of all jobs.

    Raises:
        PortTaken: if nothing can listen there.
    """
    token = settings.ops_token.get_secret_value() if settings.ops_token else None
    listener = listen(settings.port, is_local=token is None)
    own_database = Database(
        database.engine.url.render_as_string(hide_password=False),
        statement_timeout_seconds=STATEMENT_SECONDS,
        max_connections=KEPT_CONNECTIONS,
    )
    site = Site(settings, own_database, broker, Keys(token))
    live = Live(site.threads, partial(take_snapshot, site))
    server = PageServer(build(site, live), listener, end_streams=live.close)
    heartbeat = Heartbeat(own_database, "web")
    server.start()
    heartbeat.start()
    try:
        yield server
    finally:
        server.stop()
        heartbeat.stop()
        own_database.close()


def address(settings: Settings) -> str:
    """Say where the page is, and for whom."""
    if settings.ops_token is None:
        return (
            f"http://127.0.0.1:{settings.port}, for this machine only "
            "(set OPS_TOKEN to open it to others)"
        )
    return f"port {settings.port} on all addresses, for whoever knows OPS_TOKEN"
