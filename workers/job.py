"""What a job is: the class of its actor, and what its function is called with."""

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import dramatiq
from dramatiq.errors import BrokerConnectionError
from sqlalchemy.orm import Session

from workers.settings import ConfigurationError, Settings, refuse_to_start

log = logging.getLogger(__name__)

QUEUES = ("customer_service", "default", "low")
"""The queues, the most urgent first."""

ON_DEMAND_PRIORITY = 5
"""RabbitMQ's priority (higher is served first) of a run that a person or the web app asked for.

Scheduled runs have none, which counts as 0. Not to be confused with an actor's ``priority``, where
*lower* is served first, and which only orders what one process has already fetched.
"""

DEFAULT_MAX_RETRIES = 3
DEFAULT_RETRY_DELAY_SECONDS = 60


@dataclass(frozen=True)
class Run:
    """What a job's function is called with.

    Its transaction is begun, and is committed or rolled back, by the middleware; `now` is the one
    instant of the run, and no rule reads the clock.
    """

    session: Session
    now: datetime
    settings: Settings
    key: str
    """The run's name in the ledger, the same in every attempt: what to give to a system outside
    that can drop duplicates."""

    @property
    def chat_timeout(self) -> timedelta:
        return timedelta(seconds=self.settings.chat_timeout_seconds)

    @property
    def chat_warning(self) -> timedelta:
        return timedelta(seconds=self.settings.chat_warning_seconds)

    @property
    def chat_retention(self) -> timedelta:
        return timedelta(days=self.settings.chat_retention_days)

    @property
    def batch_size(self) -> int:
        return self.settings.batch_size


class Job(dramatiq.Actor[Any, Any]):
    """An actor that the scheduler can send to without dying, and people ahead of the scheduler.

    Options: ``queue_name``; ``priority``; ``max_retries`` (default 3), how often a failed run is
    tried again; ``retry_delay_seconds`` (default 60), the fixed delay before each.
    """

    def message_with_options(self, **options: Any) -> dramatiq.Message[Any]:
        """Build a message; unless it is for a slot, it outranks those that are."""
        if "scheduled_at" not in options:
            options.setdefault("broker_priority", ON_DEMAND_PRIORITY)
        return super().message_with_options(**options)

    def send_with_options(self, **options: Any) -> dramatiq.Message[Any]:
        """Send a message.

        Raises:
            BrokerConnectionError: if the broker does not take it. Not for a slot: periodiq exits
                when a send raises, and the ticker offers the slot again.
            ConfigurationError: if there is no broker that others could take it from. For a slot,
                that ends the scheduler.
        """
        try:
            return super().send_with_options(**options)
        except ConfigurationError as error:
            if "scheduled_at" not in options:
                raise
            raise refuse_to_start(error) from None
        except BrokerConnectionError as error:
            if "scheduled_at" not in options:
                raise
            log.warning("The broker refused a slot of %s; it is offered again: %s", self, error)
            options.pop("delay", None)
            return self.message_with_options(**options)
