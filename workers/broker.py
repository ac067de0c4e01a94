"""The broker: RabbitMQ, or one inside this process, with the same middleware around every job."""

import importlib.util
from collections.abc import Iterable
from functools import partial
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import dramatiq
from dramatiq.brokers.stub import StubBroker
from dramatiq.middleware import CurrentMessage, TimeLimit

from workers import dead_runs, outbox, runs
from workers.database import Database
from workers.job import QUEUES
from workers.middleware.logs import LogContext
from workers.middleware.metrics import WorkerMetrics
from workers.middleware.presence import Presence
from workers.middleware.processes import FairPrefetch, PatientSignals, SchemaGuard
from workers.middleware.relay import OutboxRelay
from workers.middleware.retries import Retries
from workers.middleware.slots import Slots
from workers.middleware.transaction import Transaction, is_wrapped
from workers.models import BrokerName
from workers.periodic import Entry
from workers.presence import forget_silent
from workers.publishers.in_process import InProcessPublisher
from workers.relay import Relay
from workers.settings import ConfigurationError, Settings, refuse_to_start

CONNECTION_PARAMETERS = {
    "heartbeat": "30",
    # Under a memory alarm a confirmed publish would hang without end; dramatiq tries six times.
    "blocked_connection_timeout": "5",
    "socket_timeout": "5",
    "stack_timeout": "10",
    "connection_attempts": "1",
}
"""Defaults of pika's URL parameters; what the URL itself says wins."""


def build_broker(
    settings: Settings, database: Database, schedule: Iterable[Entry], *, in_process: bool = False
) -> dramatiq.Broker:
    """Make the broker that the settings name; nothing connects yet.

    Args:
        settings: the configuration.
        database: where runs take place.
        schedule: when which job is due.
        in_process: take the in-process broker, whatever the settings name.

    Without pika, RabbitMQ's client library, it is the in-process one too, so that
    ``python -m workers run`` goes on; a worker process then refuses to start.
    """
    if in_process or settings.rabbitmq_url is None or not is_pika_installed():
        return InProcessBroker(middleware=_middleware(settings, database, schedule, "in-process"))
    from workers.rabbitmq import Rabbitmq  # noqa: PLC0415 - pika may be missing

    return Rabbitmq(
        urls=[_with_defaults(url) for url in settings.rabbitmq_url.split(";")],
        queue_type=settings.rabbitmq_queue_type,
        middleware=_middleware(settings, database, schedule, "rabbitmq"),
        record_refusal=partial(dead_runs.record_refusal, database),
    )


def is_pika_installed() -> bool:
    """Tell whether RabbitMQ can be spoken to at all."""
    return importlib.util.find_spec("pika") is not None


def _middleware(
    settings: Settings, database: Database, schedule: Iterable[Entry], broker_name: BrokerName
) -> list[dramatiq.Middleware]:
    """List the middleware: "before" hooks run in this order, "after" hooks in reverse."""
    presence = Presence(database)
    return [
        # First, so that every other line about a message is logged with its names.
        LogContext(),
        # Before all that settles a message, and so told of it afterwards, when it is settled.
        WorkerMetrics(settings.metrics_port),
        # Before whatever asks for the current message.
        CurrentMessage(),
        Slots(schedule, on_look=presence.scheduler_looked),
        # Outside the time limit, which must be off when a failure is being recorded.
        Retries(database),
        TimeLimit(time_limit=settings.soft_time_limit_seconds * 1000),
        # Innermost: wraps the actor's function itself.
        Transaction(database, settings, broker_name=broker_name),
        # The rest looks at worker processes, not at messages.
        StartChecks(),
        SchemaGuard(database),
        FairPrefetch(),
        PatientSignals(settings.shutdown_grace_seconds),
        presence,
        # Last, and so the first to be told that the workers have stopped, while there are still
        # connections to publish with.
        OutboxRelay(lambda broker: make_relay(settings, database, broker)),
    ]


KEEP_PUBLISHED_SECONDS = 24 * 3600
"""How long published rows stay, for whoever wants to know what became of them."""


def make_relay(settings: Settings, database: Database, broker: dramatiq.Broker) -> Relay:
    """Make the thread that publishes the outbox to `broker`; it connects when it is chosen.

    If RabbitMQ is only away, events wait for it; without any RabbitMQ there is no such hope.
    """
    chores = (
        partial(outbox.clear_published, age_seconds=KEEP_PUBLISHED_SECONDS),
        partial(runs.clear_ended, age_days=settings.run_retention_days),
        forget_silent,
    )
    if isinstance(broker, InProcessBroker):
        return Relay(
            database,
            lambda: InProcessPublisher(broker, database),
            with_events=settings.rabbitmq_url is None,
            chores=chores,
        )
    from workers.publishers.rabbitmq import RabbitmqPublisher  # noqa: PLC0415 - pika may be missing
    from workers.rabbitmq import Rabbitmq  # noqa: PLC0415

    assert isinstance(broker, Rabbitmq)  # noqa: S101 - there are two kinds
    return Relay(database, lambda: RabbitmqPublisher(broker), with_events=True, chores=chores)


NO_QUEUE_TO_SHARE = (
    "RABBITMQ_URL: is not set (or pika is not installed), so this process shares no queue with "
    "others; set it, or use 'python -m workers run'"
)


class StartChecks(dramatiq.Middleware):
    """Keeps workers from starting that could do no good, or harm.

    ``dramatiq workers`` without RabbitMQ would wait for ever on queues that nobody else can reach.
    Actors of modules that it imports besides this package have not been checked before.
    """

    def before_worker_boot(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        if isinstance(broker, InProcessBroker) and not broker.is_embedded:
            raise refuse_to_start(ConfigurationError(NO_QUEUE_TO_SHARE))
        try:
            check_actors(broker)
        except ConfigurationError as error:
            raise refuse_to_start(error) from None


class InProcessBroker(StubBroker):
    """A broker without a network: its queues are in this process, so its workers must be too."""

    is_embedded = False
    """Whether workers of this process serve the queues (`workers.embedded` does that)."""

    def enqueue(
        self, message: dramatiq.Message[Any], *, delay: int | None = None
    ) -> dramatiq.Message[Any]:
        """Put a message on its queue.

        Raises:
            ConfigurationError: if nobody in this process would ever take it.
        """
        if not self.is_embedded:
            raise ConfigurationError(NO_QUEUE_TO_SHARE)
        return super().enqueue(message, delay=delay)

    def close(self) -> None:
        """Forget what is queued; the ledger knows what has begun."""
        self.flush_all()


def rebind(actors: Iterable[dramatiq.Actor[Any, Any]], broker: dramatiq.Broker) -> None:
    """Move actors, which are bound to a broker where they are declared, to another one."""
    for actor in actors:
        actor.broker = broker
        broker.declare_actor(actor)
    dramatiq.set_broker(broker)


def check_actors(broker: dramatiq.Broker) -> None:
    """Make sure that every actor runs in a transaction, and on a queue that a worker serves.

    dramatiq logs and swallows errors of middleware, also those of wrapping an actor.

    Raises:
        ConfigurationError: naming the actor.
    """
    for actor in broker.actors.values():
        if not is_wrapped(actor.fn):
            raise ConfigurationError(f"{actor}: does not run in a transaction")
        if actor.queue_name not in QUEUES:
            known = ", ".join(QUEUES)
            raise ConfigurationError(
                f"{actor}: no worker serves the queue {actor.queue_name!r}; take one of {known}"
            )


def _with_defaults(url: str) -> str:
    parts = urlsplit(url)
    query = CONNECTION_PARAMETERS | dict(parse_qsl(parts.query))
    return urlunsplit(parts._replace(query=urlencode(query)))
