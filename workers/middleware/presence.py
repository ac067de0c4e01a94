"""Lets operators see that this process lives: as a worker, as a scheduler, or as both."""

import threading

import dramatiq

from workers.database import Database
from workers.presence import Heartbeat


class Presence(dramatiq.Middleware):
    """Beats while workers run here, and from the first time that a scheduler looks here."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._worker: Heartbeat | None = None
        self._scheduler: Heartbeat | None = None
        self._lock = threading.Lock()

    def scheduler_looked(self) -> None:
        """Note that a scheduler of this process is awake. One that hangs gives no sign."""
        with self._lock:
            if self._scheduler is None:
                self._scheduler = Heartbeat(self._database, "scheduler")
                self._scheduler.start()
        self._scheduler.give_sign()

    def after_worker_boot(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        queues = worker.consumer_whitelist or broker.get_declared_queues()
        self._worker = Heartbeat(self._database, "worker", queues=sorted(queues))
        self._worker.start()

    def after_worker_shutdown(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        with self._lock:
            ended = [beat for beat in (self._worker, self._scheduler) if beat is not None]
            self._worker = self._scheduler = None
        for heartbeat in ended:
            heartbeat.stop()
