"""Time limits: a soft one, which a job may notice, and a hard one, which it cannot escape.

At the soft limit the run is interrupted (`workers.middleware.in_progress`) and fails like any
other: rolled back, and tried again after its delay. A thread that sits in a call of C does not
notice. At the hard limit, therefore, its process ends: a thread cannot be ended alone.

Not at once, though. Other runs of the process, and those of its sibling processes (dramatiq's main
process stops all when one dies), are none of this one's fault. The main process is asked to renew
its worker processes, so all get the grace of a stop signal, and what is not done by then is given
back without losing an attempt. Only the run beyond its limit loses one. As soon as no other runs in
its process, or when the grace is over, it is killed; its message comes back, and the ledger counts.
"""

import os
import threading
from typing import Any

import dramatiq
import structlog
from dramatiq.middleware import TimeLimitExceeded

from workers.database import Database
from workers.middleware import main_process
from workers.middleware.in_progress import RunInProgress, RunsInProgress, TimeLimits
from workers.middleware.shutdown import give_back_all
from workers.settings import ConfigurationError, Settings

log = structlog.stdlib.get_logger(__name__)

LOOK_SECONDS = 0.5
RENEWAL_SECONDS = 5
"""How long the main process has to answer, before the process ends without it."""


def limits_of(actor: dramatiq.Actor[Any, Any], settings: Settings) -> TimeLimits:
    """Return an actor's own limits, or those of the settings.

    Raises:
        ConfigurationError: naming the actor, if the soft limit is not the lower one.
    """
    limits = TimeLimits(
        actor.options.get("soft_time_limit_seconds", settings.soft_time_limit_seconds),
        actor.options.get("hard_time_limit_seconds", settings.hard_time_limit_seconds),
    )
    if not 0 < limits.soft_seconds < limits.hard_seconds:
        raise ConfigurationError(
            f"{actor}: soft_time_limit_seconds ({limits.soft_seconds}) must be more than 0, and "
            f"less than hard_time_limit_seconds ({limits.hard_seconds})"
        )
    return limits


class Limits(dramatiq.Middleware):
    """Watches over the runs in progress.

    Actor options: ``soft_time_limit_seconds`` and ``hard_time_limit_seconds``; where one is not
    given, the setting counts.
    """

    def __init__(self, database: Database, settings: Settings, in_progress: RunsInProgress) -> None:
        self._database = database
        self._settings = settings
        self._in_progress = in_progress
        self._has_stopped = threading.Event()

    @property
    def actor_options(self) -> set[str]:
        return {"soft_time_limit_seconds", "hard_time_limit_seconds"}

    def check(self, actor: dramatiq.Actor[Any, Any]) -> None:
        """Make sure that an actor's limits are in order; raises as `limits_of` does."""
        limits_of(actor, self._settings)

    def before_worker_boot(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        self._has_stopped.clear()
        threading.Thread(target=self._watch, name="time limits", daemon=True).start()

    def after_worker_shutdown(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        self._has_stopped.set()

    def _watch(self) -> None:
        while not self._has_stopped.wait(LOOK_SECONDS):
            for run in self._in_progress.all():
                if run.seconds >= run.limits.hard_seconds and not run.is_beyond_hard_limit:
                    run.is_beyond_hard_limit = True
                    self._end_process(run)
                elif run.seconds >= run.limits.soft_seconds:
                    run.interrupt(TimeLimitExceeded)

    def _end_process(self, run: RunInProgress) -> None:
        log.critical(
            "A run is beyond its hard time limit; its process ends",
            job=run.delivery.job,
            slot=f"{run.delivery.slot:%Y-%m-%dT%H:%M:%SZ}" if run.delivery.slot else None,
            message_id=run.delivery.message_id,
            attempt=run.claim.attempt,
            hard_time_limit_seconds=run.limits.hard_seconds,
        )
        if main_process.is_ours():
            if not self._in_progress.is_stopping.is_set():
                main_process.ask_for_renewal()
            if self._in_progress.is_stopping.wait(RENEWAL_SECONDS):
                return  # see Shutdown, which ends such a process, and no other
        try:
            give_back_all(self._database, self._in_progress)
        finally:
            os._exit(1)
