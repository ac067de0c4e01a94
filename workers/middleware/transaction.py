"""Each run is one database transaction: begin, claim, call, record the result, commit.

All of it happens inside the actor's call. What dramatiq calls *after* an actor may fail unseen: it
logs the error and acknowledges the message, so a commit there could be lost. A commit in here that
fails is an ordinary failure of the job.
"""

import functools
import inspect
import time
from collections.abc import Callable, Generator
from contextlib import closing
from contextvars import ContextVar
from typing import Any

import dramatiq
import structlog
from dramatiq.middleware import CurrentMessage

from workers import runs
from workers.batches import Batches, Counts
from workers.database import Database, Lease
from workers.job import DEFAULT_MAX_RETRIES, DEFAULT_RETRY_DELAY_SECONDS, Run
from workers.models import BrokerName
from workers.periodic import Ticker, utc_now
from workers.runs import Claim, Delivery, Verdict
from workers.settings import Settings

log = structlog.stdlib.get_logger(__name__)

claim_in_progress: ContextVar[Claim | None] = ContextVar("claim_in_progress", default=None)
"""The claim of the run in this thread, for whoever settles its failure."""

last_claim: ContextVar[Claim | None] = ContextVar("last_claim", default=None)
"""What the ledger answered to the delivery in this thread, for whoever counts deliveries."""

# dramatiq logs no stack trace for a Retry, and nothing went wrong in these two.


class Postponed(dramatiq.Retry):
    """The message is to be delivered again soon; no attempt was used."""


class DeadLettered(dramatiq.Retry):
    """The message is to be dead-lettered; the job did not run."""


class Transaction(dramatiq.Middleware):
    """Wraps every actor's function, which is then called with a `Run` before its own arguments."""

    def __init__(self, database: Database, settings: Settings, *, broker_name: BrokerName) -> None:
        self.database = database
        self.settings = settings
        self.broker_name = broker_name

    def after_declare_actor(self, broker: dramatiq.Broker, actor: dramatiq.Actor[Any, Any]) -> None:
        # An actor that moves to another broker is declared again: wrap its own function, once.
        job = inspect.unwrap(actor.fn, stop=lambda function: not is_wrapped(function))

        @functools.wraps(job)
        def run_in_transaction(*args: Any, **kwargs: Any) -> None:
            message = CurrentMessage.get_current_message()
            if message is None:
                raise RuntimeError(f"{actor} has no message: send it, or call its rule directly")
            self._deliver(actor, message, lambda run: job(run, *args, **kwargs))

        run_in_transaction.is_transactional = True  # type: ignore[attr-defined]
        actor.fn = run_in_transaction

    def _deliver(
        self,
        actor: dramatiq.Actor[Any, Any],
        message: dramatiq.Message[Any],
        job: Callable[[Run], Any],
    ) -> None:
        started = time.monotonic()
        now = utc_now()
        claim_in_progress.set(None)
        ticker: Ticker | None = actor.options.get("periodic")
        delivery = self._read(actor, message, ticker)
        current_slot = ticker.spec.slot_at(now) if ticker and delivery.slot else None
        with self.database.lease() as lease:
            claim = runs.claim(lease, delivery, now=now, current_slot=current_slot)
            structlog.contextvars.bind_contextvars(attempt=claim.attempt)
            last_claim.set(claim)
            if claim.verdict is Verdict.RUN:
                claim_in_progress.set(claim)
                run = Run(lease.session, claim.started_at or now, self.settings, delivery.run_key)
                counts = _run(lease, claim, lambda: job(run))
                claim_in_progress.set(None)
        if claim.verdict is Verdict.RUN:
            duration_seconds = round(time.monotonic() - started, 6)
            log.info("run", outcome="succeeded", result=counts, duration_seconds=duration_seconds)
        elif claim.verdict is Verdict.POSTPONED:
            raise Postponed(claim.reason, delay=round(claim.delay_seconds * 1000))
        elif claim.verdict is Verdict.DEAD:
            raise DeadLettered(claim.reason)
        else:
            log.info("run", outcome=claim.verdict, reason=claim.reason)

    def _read(
        self,
        actor: dramatiq.Actor[Any, Any],
        message: dramatiq.Message[Any],
        ticker: Ticker | None,
    ) -> Delivery:
        slot = ticker.slot_of(message.options) if ticker else None
        if slot is not None:
            structlog.contextvars.bind_contextvars(slot=f"{slot:%Y-%m-%dT%H:%M:%SZ}")
        return Delivery(
            job=actor.actor_name,
            slot=slot,
            message_id=message.message_id,
            queue=actor.queue_name,
            enqueued_at=message.message_datetime,
            max_retries=actor.options.get("max_retries", DEFAULT_MAX_RETRIES),
            retry_delay_seconds=actor.options.get(
                "retry_delay_seconds", DEFAULT_RETRY_DELAY_SECONDS
            ),
            broker=self.broker_name,
        )


def is_wrapped(function: Callable[..., Any]) -> bool:
    """Tell whether a function is an actor's that runs in a transaction."""
    return hasattr(function, "is_transactional")


def _run(lease: Lease, claim: Claim, job: Callable[[], Any]) -> Counts:
    counts = dict(claim.counts or {})
    is_finished = False
    with closing(_batches(job)) as batches:
        while not is_finished:
            with lease.transaction() as session:
                runs.hold(session, claim)
                try:
                    batch = next(batches)
                except StopIteration as stop:
                    batch, is_finished = stop.value, True
                for name, count in (batch or {}).items():
                    counts[name] = counts.get(name, 0) + count
                if is_finished:
                    runs.record_success(session, claim, counts)
                else:
                    runs.record_progress(session, claim, counts)
    return counts


def _batches(job: Callable[[], Any]) -> Batches:
    """Give a plain job the form of one with batches: none, and then its result."""
    returned: Batches | Counts | None = job()
    if isinstance(returned, Generator):
        return (yield from returned)
    return returned
