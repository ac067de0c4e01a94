"""Background jobs of the task marketplace.

This is the composition root, which ``dramatiq workers`` and ``periodiq workers`` import: it reads
the settings, builds the broker, and declares every actor on it. It opens no connection and starts
no thread. Nothing below imports from it.
"""

from dataclasses import dataclass

import dramatiq

from workers import broker as _broker
from workers import logs as _logs
from workers import redaction as _redaction
from workers.database import Database
from workers.local_postgres import check_installed
from workers.periodic import SCHEDULE, Entry, ScheduleError, check_schedule
from workers.settings import ConfigurationError, Settings, get_settings, refuse_to_start

__all__ = ["App", "app"]


@dataclass(frozen=True)
class App:
    """The parts of the service, put together for this process."""

    settings: Settings
    database: Database
    broker: dramatiq.Broker
    schedule: tuple[Entry, ...]


def _compose() -> App:
    settings = get_settings()
    _redaction.hide(settings.secrets)
    _logs.configure(settings.log_format_in_use, settings.log_level)
    if settings.database_url is None:
        check_installed()
    database = Database(
        settings.database_url, statement_timeout_seconds=settings.soft_time_limit_seconds
    )
    broker = _broker.build_broker(settings, database, SCHEDULE)
    dramatiq.set_broker(broker)
    # Only now: an actor is bound to the broker that is current where it is declared.
    from workers import actors  # noqa: F401, PLC0415

    check_schedule(SCHEDULE, broker.actors)
    _broker.check_actors(broker)
    return App(settings, database, broker, SCHEDULE)


try:
    app = _compose()
except (ConfigurationError, ScheduleError) as error:
    raise refuse_to_start(error) from None
