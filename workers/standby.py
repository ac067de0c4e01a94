"""Runs the schedule in this process while RabbitMQ cannot be reached.

A standby *watches*: every few seconds it connects to RabbitMQ, and is let in or not. Once that has
failed for ``STANDBY_AFTER_SECONDS`` it takes over and is *active*: a scheduler and worker threads
on a broker inside this process, with the middleware, the claims and the ledger of all others, so
that a job cannot tell. When RabbitMQ has been back for a while, it hands over and watches again.

No slot is done twice, since nobody has to be right about who is in charge. A standby that only
thinks RabbitMQ away, two standbys at once, a worker that still runs what it had begun, messages
that RabbitMQ kept and delivers later: all of them meet at the claim, and one goes on. So there is
no election, and the switch needs no exact moment. It can rather be made with an overlap:

- *Taking over*, each job's current slot is offered, as by every scheduler that starts. So of the
  slots that fell due in between, each job's latest is run.
- *Handing over* waits until schedulers and workers have had the time to find RabbitMQ again
  (`HAND_OVER_AFTER_SECONDS`); until then both offer each slot. Then this shift stops as every
  process does (`workers.middleware.shutdown`): no new run begins, what runs may finish for a while,
  and the rest gives its attempt back. The watch goes on meanwhile. What was queued here but has
  not begun needs no trace: it was offered to RabbitMQ too, or is out of date.
- *Giving back*: runs that did not end here, or failed and wait in memory to be retried, are in the
  ledger. While RabbitMQ is there, all that in-process brokers left unfinished, this one or one that
  was killed, is written into the outbox, which leads to RabbitMQ. See `workers.leftovers`.

Messages in RabbitMQ itself, runs on demand among them, wait for it to return. Those in the outbox
do not: the relay of an active standby takes them. Its events wait, since others receive them.

A RabbitMQ that answers but takes no messages (a memory or disk alarm) is not unreachable: workers
go on with what it has, and schedulers offer again what it refused.
"""

import threading
import time
from collections.abc import Callable
from typing import Literal

import structlog
from sqlalchemy.exc import SQLAlchemyError

from workers import leftovers
from workers.broker import build_broker, rebind
from workers.database import Database
from workers.embedded import GIVE_BACK_SECONDS, Scheduler, Workers
from workers.periodic import Entry
from workers.rabbitmq import Rabbitmq, why_unreachable
from workers.settings import Settings

log = structlog.stdlib.get_logger(__name__)

State = Literal["watching", "active"]

LOOK_SECONDS = 5
"""How often it looks at most; more often if it is to take over sooner."""

ANSWER_SECONDS = 5
"""How long RabbitMQ may take to let us in."""

HAND_OVER_AFTER_SECONDS = 10
"""For so long RabbitMQ must be back. Schedulers offer again within 5 s, consumers return in 3."""


class Shift:
    """Scheduler and workers within this process, from a take-over to the end of the last run.

    Each has a broker of its own, so that a run which takes long to finish is in nobody's way.
    """

    def __init__(
        self,
        rabbitmq: Rabbitmq,
        database: Database,
        settings: Settings,
        schedule: tuple[Entry, ...],
    ) -> None:
        self._database = database
        self._broker = build_broker(settings, database, schedule, in_process=True)
        rebind(rabbitmq.actors.values(), self._broker)
        self._workers = Workers(self._broker, grace_seconds=settings.shutdown_grace_seconds)
        self._scheduler = Scheduler(self._broker)
        self._has_resumed = False

    def begin(self) -> None:
        self._workers.start()
        self._scheduler.start()

    def resume(self) -> None:
        """Take up, once, what other in-process brokers left unfinished.

        Raises:
            SQLAlchemyError: if the database is away; call again then.
        """
        if not self._has_resumed:
            count = leftovers.resume(self._broker, self._database)
            self._has_resumed = True
            if count:
                log.info("Sent runs again that another process left unfinished", count=count)

    def end(self) -> None:
        """Offer no more slots, begin no more runs, and see those in progress to their end."""
        self._scheduler.stop()
        self._workers.stop()


class Standby:
    """Watches RabbitMQ, and takes over while it is away.

    Args:
        rabbitmq: what to watch; its actors move to the brokers of this process.
        database: where the runs take place.
        settings: the configuration.
        schedule: when which job is due.
        on_change: called with each new state.
    """

    def __init__(
        self,
        rabbitmq: Rabbitmq,
        database: Database,
        settings: Settings,
        schedule: tuple[Entry, ...],
        *,
        on_change: Callable[[State], None] = lambda _state: None,
    ) -> None:
        self._rabbitmq = rabbitmq
        self._database = database
        self._settings = settings
        self._schedule = schedule
        self._on_change = on_change
        self._shift: Shift | None = None
        self._endings: list[threading.Thread] = []
        self._is_reachable: bool | None = None
        self._since = 0.0
        self._complaint: str | None = None

    @property
    def state(self) -> State:
        """``active`` while this process runs the schedule."""
        return "active" if self._shift else "watching"

    def watch_until(self, stop: threading.Event) -> None:
        """Watch, and do what is to be done, until `stop`; then let runs finish for a while."""
        after_seconds = self._settings.standby_after_seconds
        interval_seconds = min(LOOK_SECONDS, after_seconds / 3)
        log.info("Watching RabbitMQ", takes_over_after_seconds=after_seconds)
        try:
            while not stop.is_set():
                self._look()
                stop.wait(interval_seconds)
        finally:
            self._stop()

    def _look(self) -> None:
        looked_at = time.monotonic()
        reason = why_unreachable(self._rabbitmq, timeout_seconds=ANSWER_SECONDS)
        if self._is_reachable is not (reason is None):
            self._is_reachable, self._since = reason is None, looked_at
            self._tell_of_rabbitmq(reason)
        lasted_seconds = time.monotonic() - self._since
        if reason and not self._shift and lasted_seconds >= self._settings.standby_after_seconds:
            self._take_over(reason)
        elif not reason and self._shift and lasted_seconds >= HAND_OVER_AFTER_SECONDS:
            self._hand_over(self._shift)
        self._care_for_leftovers()

    def _tell_of_rabbitmq(self, reason: str | None) -> None:
        if reason:
            log.warning("RabbitMQ cannot be reached", reason=reason, state=self.state)
        else:
            log.info("RabbitMQ answers", state=self.state)

    def _take_over(self, reason: str) -> None:
        shift = Shift(self._rabbitmq, self._database, self._settings, self._schedule)
        shift.begin()
        self._shift = shift
        log.warning(
            "RabbitMQ stays away: this process takes over the schedule",
            reason=reason,
            state=self.state,
        )
        self._on_change(self.state)

    def _hand_over(self, shift: Shift) -> None:
        self._shift = None
        self._end_in_background(shift)
        log.warning("RabbitMQ is back: this process hands the schedule over", state=self.state)
        self._on_change(self.state)

    def _care_for_leftovers(self) -> None:
        try:
            if self._shift is not None:
                self._shift.resume()
            elif self._is_reachable and (
                count := leftovers.give_back(self._rabbitmq, self._database)
            ):
                log.warning("Gave runs back to RabbitMQ that were not finished here", count=count)
            self._complaint = None
        except SQLAlchemyError as error:
            reason = str(error).partition("\n")[0]
            if reason != self._complaint:
                log.warning("The database cannot be reached; trying again", reason=reason)
            self._complaint = reason

    def _stop(self) -> None:
        if self._shift is not None:
            self._end_in_background(self._shift)
            self._shift = None
            self._on_change(self.state)
        grace_seconds = self._settings.shutdown_grace_seconds
        deadline = time.monotonic() + grace_seconds + GIVE_BACK_SECONDS
        for thread in self._endings:
            thread.join(max(0.0, deadline - time.monotonic()))
        # What failed meanwhile shall not have to wait for the next standby.
        self._care_for_leftovers()

    def _end_in_background(self, shift: Shift) -> None:
        # RabbitMQ may go away again before the last run has ended.
        thread = threading.Thread(target=shift.end, name="hand-over", daemon=True)
        thread.start()
        self._endings = [each for each in self._endings if each.is_alive()] + [thread]
