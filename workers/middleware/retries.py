"""What happens to a message whose run did not succeed: tried again, or dead-lettered.

dramatiq's own ``Retries`` waits a random time between 50 and 100 % of an ever longer delay, counts
in the message what only the ledger can count (a killed worker writes no message), and acknowledges
the message when its retry cannot be published. So this one.
"""

import logging
import random
import traceback
from typing import Any

import dramatiq
import structlog
from dramatiq.broker import MessageProxy
from sqlalchemy.exc import DataError

from workers import runs
from workers.database import Database
from workers.job import DEFAULT_MAX_RETRIES, DEFAULT_RETRY_DELAY_SECONDS
from workers.middleware.shutdown import Returnable
from workers.middleware.transaction import (
    DeadLettered,
    GivenBack,
    Postponed,
    claim_in_progress,
)

log = structlog.stdlib.get_logger(__name__)

JITTER = 0.1
"""Share of the delay by which it varies both ways, so that what failed together does not return
together."""

POSTPONED_JITTER = 0.5
"""The same for what met another run, and would otherwise meet again all that waited with it."""


class Retries(dramatiq.Middleware):
    """Settles failures: records them, and publishes the retry.

    Actor options: ``max_retries`` (default 3) and ``retry_delay_seconds`` (default 60, ±10 %).
    """

    @property
    def actor_options(self) -> set[str]:
        return {"max_retries", "retry_delay_seconds"}

    def __init__(self, database: Database) -> None:
        self.database = database

    def after_process_message(
        self,
        broker: dramatiq.Broker,
        message: MessageProxy,
        *,
        result: Any = None,
        exception: BaseException | None = None,
    ) -> None:
        claim = claim_in_progress.get()
        claim_in_progress.set(None)
        if exception is None:
            return
        reason = _summary(exception)
        if isinstance(exception, Postponed):
            delay_seconds = (exception.delay or 0) / 1000 * _varied(POSTPONED_JITTER)
            self._send_again(broker, message, "postponed", str(exception), delay_seconds)
        elif isinstance(exception, GivenBack):
            self._give_back(message, claim, str(exception))
        elif isinstance(exception, DeadLettered):
            self._dead_letter(message, str(exception))
        elif claim is not None:
            self._settle(broker, message, claim, exception)
        elif isinstance(exception, ValueError | DataError):
            # No row can be kept for such a message, and no later delivery would change that.
            self._dead_letter(message, reason)
        else:
            # The database was not to be had at the claim: no attempt was used.
            self._send_again(broker, message, "postponed", reason, _delay_seconds(broker, message))

    def _settle(
        self,
        broker: dramatiq.Broker,
        message: MessageProxy,
        claim: runs.Claim,
        exception: BaseException,
    ) -> None:
        options = broker.get_actor(message.actor_name).options
        max_retries = options.get("max_retries", DEFAULT_MAX_RETRIES)
        reason = _summary(exception)
        trace = "".join(traceback.format_exception(exception))
        try:
            status = runs.record_failure(self.database, claim, max_retries, f"{reason}\n\n{trace}")
        except Exception:
            # The row still says `running`; the next delivery finds out that nobody runs it.
            log.warning("The failure could not be recorded; its message comes back", exc_info=True)
            self._send_again(broker, message, "postponed", reason, _delay_seconds(broker, message))
            return
        if status == "dead":
            self._dead_letter(message, reason)
        elif status == "retrying":
            delay_seconds = _delay_seconds(broker, message)
            if not self._send_again(broker, message, "retrying", reason, delay_seconds):
                runs.record_dead(self.database, claim, "Its retry could not be published.")
        else:
            self._send_again(broker, message, "postponed", reason, _delay_seconds(broker, message))

    def _give_back(self, message: MessageProxy, claim: runs.Claim | None, reason: str) -> None:
        if claim is not None:
            try:
                runs.give_back(self.database, claim)
            except Exception:
                log.warning("The attempt could not be given back, so it counts", exc_info=True)
        # One that cannot be returned is in the memory of this process only; the ledger knows it.
        if isinstance(message, Returnable):
            message.give_back()
        log.info("run", outcome="given back", reason=reason)

    def _send_again(
        self,
        broker: dramatiq.Broker,
        message: MessageProxy,
        outcome: str,
        reason: str,
        delay_seconds: float,
    ) -> bool:
        try:
            broker.enqueue(message, delay=round(delay_seconds * 1000))  # type: ignore[arg-type]
        except Exception:
            # dramatiq would acknowledge it all the same. If the connection is gone altogether,
            # RabbitMQ does not get this answer either, and delivers the message again.
            if outcome == "postponed" and isinstance(message, Returnable):
                # It has not run, and so is no dead letter. Trying took long enough for a delay.
                log.warning(
                    "The message could not be published again; it is returned", exc_info=True
                )
                message.give_back()
            else:
                log.exception("The message could not be published again; it is dead-lettered")
                message.fail()
            return False
        level = logging.WARNING if outcome == "retrying" else logging.INFO
        log.log(level, "run", outcome=outcome, reason=reason, delay_seconds=round(delay_seconds, 1))
        return True

    def _dead_letter(self, message: MessageProxy, reason: str) -> None:
        log.error("run", outcome="dead", reason=reason)
        message.fail()


def _delay_seconds(broker: dramatiq.Broker, message: MessageProxy) -> float:
    options = broker.get_actor(message.actor_name).options
    delay_seconds: float = options.get("retry_delay_seconds", DEFAULT_RETRY_DELAY_SECONDS)
    return delay_seconds * _varied(JITTER)


def _varied(share: float) -> float:
    return random.uniform(1 - share, 1 + share)


def _summary(exception: BaseException) -> str:
    text = str(exception).strip()
    return f"{type(exception).__name__}: {text.splitlines()[0]}" if text else repr(exception)
