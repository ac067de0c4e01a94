"""The scheduler and the workers in one process, on whatever broker there is."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import dramatiq
import structlog

from workers import leftovers
from workers.broker import InProcessBroker, build_broker, rebind
from workers.database import Database
from workers.periodic import Entry, Ticker, utc_now
from workers.settings import Settings

log = structlog.stdlib.get_logger(__name__)

THREADS = 4

GIVE_BACK_SECONDS = 4
"""How long it takes at most, after the grace period, to give back what did not end in it."""


class Scheduler(threading.Thread):
    """Does what periodiq does, in a thread: asks each job's ticker, sends, sleeps till the next."""

    def __init__(self, broker: dramatiq.Broker) -> None:
        super().__init__(name="scheduler", daemon=True)
        self._actors = [actor for actor in broker.actors.values() if "periodic" in actor.options]
        self._is_stopping = threading.Event()

    def run(self) -> None:
        while not self._is_stopping.is_set():
            moment = utc_now()
            tickers: list[Ticker] = []
            for actor in self._actors:
                # A broker that refuses takes its time for each, and a stop is not to wait for it.
                if self._is_stopping.is_set():
                    return
                ticker: Ticker = actor.options["periodic"]
                tickers.append(ticker)
                if ticker.validate(moment):
                    actor.send_with_options(scheduled_at=moment.isoformat())
            next_date = min(ticker.next_valid_date(moment) for ticker in tickers)
            self._is_stopping.wait(max(0, (next_date - utc_now()).total_seconds()))

    def stop(self) -> None:
        self._is_stopping.set()
        self.join()


class Workers:
    """Worker threads for all queues of a broker, in this process.

    Args:
        broker: where messages come from; of the in-process kind, it accepts messages from now on.
        grace_seconds: how long `stop` waits for the runs in progress. What is not done by then is
            interrupted, rolled back and given back (`workers.middleware.shutdown`).
    """

    def __init__(self, broker: dramatiq.Broker, *, grace_seconds: float) -> None:
        self._broker = broker
        self._grace_seconds = grace_seconds
        if isinstance(broker, InProcessBroker):
            broker.is_embedded = True
        self._worker = dramatiq.Worker(broker, worker_threads=THREADS, worker_timeout=200)

    def start(self) -> None:
        # What dramatiq's own command does in each worker process; the time limit starts here.
        self._broker.emit_after("process_boot")
        self._worker.start()

    def stop(self) -> None:
        self._worker.stop(timeout=round((self._grace_seconds + GIVE_BACK_SECONDS) * 1000))
        self._broker.close()


def choose_broker(
    settings: Settings, database: Database, broker: dramatiq.Broker, schedule: tuple[Entry, ...]
) -> tuple[dramatiq.Broker, str | None]:
    """Fall back to the in-process broker if RabbitMQ is wanted and cannot be had.

    The choice holds for the life of the process. The actors move to the broker returned.

    Returns:
        the broker to use, and why it is not the one that was wanted, if so.
    """
    if settings.rabbitmq_url is None:
        return broker, None
    if isinstance(broker, InProcessBroker):
        return broker, "pika cannot be imported"
    from workers.rabbitmq import Rabbitmq, why_unreachable  # noqa: PLC0415 - pika may be missing

    reason = why_unreachable(broker) if isinstance(broker, Rabbitmq) else None
    if reason is None:
        return broker, None
    substitute = build_broker(settings, database, schedule, in_process=True)
    rebind(broker.actors.values(), substitute)
    return substitute, f"RabbitMQ cannot be reached: {reason}"


@contextmanager
def serving(
    broker: dramatiq.Broker, database: Database, *, grace_seconds: float, with_schedule: bool
) -> Iterator[None]:
    """Serve all queues, and the schedule too if wanted, while the block lasts."""
    workers = Workers(broker, grace_seconds=grace_seconds)
    workers.start()
    scheduler = Scheduler(broker) if with_schedule else None
    try:
        if scheduler is not None:
            if isinstance(broker, InProcessBroker) and (
                count := leftovers.resume(broker, database)
            ):
                log.info("Sent runs again that an earlier process left unfinished", count=count)
            scheduler.start()
        yield
    finally:
        if scheduler is not None:
            scheduler.stop()
        workers.stop()
