"""Lets every worker process relay the outbox, should it be chosen."""

from collections.abc import Callable

import dramatiq

from workers.relay import Relay


class OutboxRelay(dramatiq.Middleware):
    """Runs a relay's thread for as long as workers run.

    It stops after them, so that the events of runs which finish in the grace period leave too.

    Args:
        make_relay: makes the thread for a broker.
    """

    def __init__(self, make_relay: Callable[[dramatiq.Broker], Relay]) -> None:
        self._make_relay = make_relay
        self._relay: Relay | None = None

    def after_worker_boot(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        self._relay = self._make_relay(broker)
        self._relay.start()

    def after_worker_shutdown(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        if self._relay is not None:
            self._relay.stop()
            self._relay = None
