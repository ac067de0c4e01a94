"""What a worker process tells Prometheus of itself, on ``METRICS_PORT``.

Each process has a registry and a port of its own: the first free one from ``METRICS_PORT`` on, of
`PORTS`. There is no folder shared by processes, so that whoever is killed or renewed leaves no
files, and no shared port, on which each scrape would meet another process. A process that finds
all of them taken runs without; what alerts need is in the ledger (`workers.metrics`).

The names begin with ``jobs_worker_``, lest anybody add them to the ledger's.
"""

import errno
import threading
import time
from typing import Any

import dramatiq
import structlog
from dramatiq.broker import MessageProxy
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    start_http_server,
)

from workers.middleware.transaction import last_claim
from workers.models import DURATION_BOUNDS_SECONDS
from workers.runs import Claim, Verdict

log = structlog.stdlib.get_logger(__name__)

PORTS = 10
"""How many ports, from ``METRICS_PORT`` on, the processes of one machine share out."""

LABELS = ("job", "queue")


class _Server:
    """Serves a registry on a port, in threads.

    Raises:
        OSError: if the port cannot be had.
    """

    def __init__(self, port: int, registry: CollectorRegistry) -> None:
        self._server, self._thread = start_http_server(port, registry=registry)

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class WorkerMetrics(dramatiq.Middleware):
    """Counts and times deliveries, and serves what it counted while workers run here.

    Args:
        first_port: the first port to try; None: serve nothing.
    """

    def __init__(self, first_port: int | None) -> None:
        self._first_port = first_port
        self._server: _Server | None = None
        self._began = threading.local()
        self.registry = CollectorRegistry()
        self._deliveries = Counter(
            "jobs_worker_deliveries",
            "Messages delivered to this process, by what became of them",
            (*LABELS, "outcome"),
            registry=self.registry,
        )
        self._in_progress = Gauge(
            "jobs_worker_deliveries_in_progress",
            "Messages in the hands of this process's threads",
            LABELS,
            registry=self.registry,
        )
        self._duration = Histogram(
            "jobs_worker_run_duration_seconds",
            "Time that an attempt took here, claim and commit included",
            (*LABELS, "outcome"),
            buckets=DURATION_BOUNDS_SECONDS,
            registry=self.registry,
        )
        self._wait = Histogram(
            "jobs_worker_queue_wait_seconds",
            "Time from a run's message to its first attempt here",
            LABELS,
            buckets=DURATION_BOUNDS_SECONDS,
            registry=self.registry,
        )
        self._threads = Gauge(
            "jobs_worker_threads", "Threads of this process that run jobs", registry=self.registry
        )
        ProcessCollector(registry=self.registry)

    # --- Serving ----------------------------------------------------------------------------------

    def after_worker_boot(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        self._threads.set(worker.worker_threads)
        if self._first_port is not None:
            self._serve(self._first_port)

    def after_worker_shutdown(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        if self._server is not None:
            self._server.stop()
            self._server = None

    def _serve(self, first_port: int) -> None:
        last_port = min(first_port + PORTS - 1, 65535)
        for port in range(first_port, last_port + 1):
            try:
                self._server = _Server(port, self.registry)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    log.warning("No metrics are served here", port=port, reason=str(error))
                    return
            else:
                log.info("Serving metrics", port=port)
                return
        log.warning(
            "No metrics are served here: METRICS_PORT and the ports after it are taken",
            first_port=first_port,
            last_port=last_port,
        )

    # --- Counting ---------------------------------------------------------------------------------

    def before_process_message(self, broker: dramatiq.Broker, message: MessageProxy) -> None:
        last_claim.set(None)
        self._in_progress.labels(*_labels(message)).inc()
        self._began.at = time.time(), time.monotonic()

    def after_process_message(
        self,
        broker: dramatiq.Broker,
        message: MessageProxy,
        *,
        result: Any = None,
        exception: BaseException | None = None,
    ) -> None:
        labels = _labels(message)
        began_at, began = self._began.at
        self._in_progress.labels(*labels).dec()
        claim = last_claim.get()
        outcome = _outcome(message, claim, exception)
        self._deliveries.labels(*labels, outcome).inc()
        if claim is not None and claim.verdict is Verdict.RUN:
            self._duration.labels(*labels, outcome).observe(time.monotonic() - began)
            # A later attempt's message is as old as the first, and was meant to wait.
            if claim.attempt == 1:
                waited_seconds = began_at - message.message_timestamp / 1000
                self._wait.labels(*labels).observe(max(0.0, waited_seconds))

    after_skip_message = after_process_message


def _labels(message: MessageProxy) -> tuple[str, str]:
    return message.actor_name, message.queue_name


def _outcome(message: MessageProxy, claim: Claim | None, exception: BaseException | None) -> str:
    if message.failed:
        return "dead"
    was_run = claim is not None and claim.verdict is Verdict.RUN
    if exception is not None:
        return "retrying" if was_run else "postponed"
    return "succeeded" if claim is None or was_run else claim.verdict.value
