"""The snapshot in Prometheus's words: what ``/metrics`` serves.

All of it comes from ledger and broker, so that one target tells of the whole service, also where
worker processes cannot be scraped. The counters live in the database and outlive every process;
what is not known has no sample. ``docs/metrics.md`` lists them. What a worker process tells of
itself is in `workers.middleware.metrics`, under names of its own: added to these, each run would
count twice.
"""

import platform
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from itertools import accumulate
from typing import get_args

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from workers.models import DURATION_BOUNDS_SECONDS, BrokerName, ProcessKind, RunEvent
from workers.status import JobStatus, Status, Total
from workers.status.problems import KINDS
from workers.version import VERSION

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4

OUTCOMES: tuple[RunEvent, ...] = ("succeeded", "retrying", "dead", "skipped", "lost")
MEASURED: tuple[RunEvent, ...] = ("succeeded", "retrying", "dead")

Value = float | datetime | None
Sample = tuple[Sequence[str], Value]


def render(status: Status) -> bytes:
    """Return the snapshot in Prometheus's text format, to be served as `CONTENT_TYPE`."""
    registry = CollectorRegistry()
    registry.register(_Snapshot(status))
    return generate_latest(registry)


class _Snapshot(Collector):
    def __init__(self, status: Status) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        status = self._status
        yield from _of_parts(status)
        yield from _of_queues(status)
        yield from _of_processes(status)
        yield from _of_slots(status.jobs)
        yield from _of_runs(status.jobs)
        yield from _of_totals(status.jobs)


def _build_info() -> Metric:
    return InfoMetricFamily(
        "jobs_build",
        "The version of the service that answers",
        {"version": VERSION, "python": platform.python_version()},
    )


def _of_parts(status: Status) -> Iterator[Metric]:
    yield _build_info()
    yield _gauge("jobs_database_up", "Whether PostgreSQL answers", status.database.is_reachable)
    yield _gauge(
        "jobs_schema_current",
        "Whether the database's tables are those that the code needs",
        status.schema.is_current,
    )
    yield _gauge("jobs_broker_up", "Whether the broker answers", status.broker.is_reachable)
    yield _gauges(
        "jobs_broker_in_use",
        "Which broker this process uses",
        ("broker",),
        [((kind,), kind == status.broker.kind) for kind in get_args(BrokerName)],
    )
    codes = [problem.code for problem in status.problems]
    yield _gauges(
        "jobs_problems",
        "Problems that the page shows now",
        ("code", "severity"),
        [((code, kind.severity), codes.count(code)) for code, kind in KINDS.items()],
    )
    outbox = status.outbox
    yield _gauges(
        "jobs_outbox_pending",
        "What waits in the outbox to be published, at most 10000",
        ("kind",),
        [
            (("message",), outbox.messages if outbox else None),
            (("event",), outbox.events if outbox else None),
        ],
    )
    yield _gauge(
        "jobs_outbox_oldest_age_seconds",
        "How long the oldest of it has waited; 0 if nothing waits",
        outbox.oldest_seconds if outbox else None,
    )


def _of_queues(status: Status) -> Iterator[Metric]:
    queues = status.queues
    yield _gauges(
        "jobs_queue_messages",
        "Messages that no worker has fetched yet: ready to run, or delayed",
        ("queue", "state"),
        [
            *(((queue.name, "ready"), queue.ready) for queue in queues),
            *(((queue.name, "delayed"), queue.delayed) for queue in queues),
        ],
    )
    yield _gauges(
        "jobs_queue_consumers",
        "Worker processes that serve the queue",
        ("queue",),
        [((queue.name,), queue.consumers) for queue in queues],
    )
    yield _gauges(
        "jobs_dead_letters",
        "Messages that nobody tries again",
        ("queue",),
        [((queue.name,), queue.dead_letters) for queue in queues],
    )


def _of_processes(status: Status) -> Iterator[Metric]:
    processes = status.processes
    if processes is None:
        return
    kinds: tuple[ProcessKind, ...] = get_args(ProcessKind)
    yield _gauges(
        "jobs_processes",
        "Processes of the service, alive or silent for 45 s and more",
        ("kind", "state"),
        [
            (
                (kind, state),
                sum(each.kind == kind and each.is_silent is is_silent for each in processes),
            )
            for kind in kinds
            for state, is_silent in (("alive", False), ("silent", True))
        ],
    )
    yield _gauges(
        "jobs_process_last_seen_age_seconds",
        "How long ago a process of this kind last said that it lives",
        ("kind",),
        [
            (
                (kind,),
                min(
                    (each.seen_seconds_ago for each in processes if each.kind == kind), default=None
                ),
            )
            for kind in kinds
        ],
    )
    yield _gauge(
        "jobs_standby_active",
        "Standbys that run the schedule because RabbitMQ is away",
        sum(
            each.kind == "standby" and each.state == "active" and not each.is_silent
            for each in processes
        ),
    )


def _of_slots(jobs: Sequence[JobStatus]) -> Iterator[Metric]:
    scheduled = [job for job in jobs if job.schedule is not None]
    yield _by_job(
        "jobs_interval_seconds",
        "Time between the job's slots",
        ((job, job.interval_seconds) for job in scheduled),
    )
    yield _by_job(
        "jobs_slot_timestamp_seconds",
        "The job's latest slot, by the schedule",
        ((job, job.current_slot) for job in scheduled),
    )
    yield _by_job(
        "jobs_last_success_timestamp_seconds",
        "When the job last succeeded",
        ((job, job.last_success.at if job.last_success else None) for job in jobs),
    )
    yield _by_job(
        "jobs_last_success_slot_timestamp_seconds",
        "The latest slot that succeeded",
        ((job, job.last_success.slot if job.last_success else None) for job in scheduled),
    )
    yield _by_job(
        "jobs_overdue_seconds",
        "For how long the job has owed a success, if that is beyond its grace; else 0",
        ((job, job.overdue_seconds) for job in scheduled),
    )
    yield _by_job(
        "jobs_missed_slots",
        "Slots since the job's last success that a newer one has replaced",
        ((job, job.missed_slots) for job in scheduled),
    )


def _of_runs(jobs: Sequence[JobStatus]) -> Iterator[Metric]:
    yield _by_job(
        "jobs_runs_in_progress",
        "Runs that have begun and not ended",
        ((job, job.running) for job in jobs),
    )
    yield _by_job(
        "jobs_runs_retrying",
        "Runs that failed and wait for their next attempt",
        ((job, job.retrying) for job in jobs),
    )
    yield _by_job(
        "jobs_runs_failed_repeatedly",
        "Those of them that failed at least twice",
        ((job, job.failed_repeatedly) for job in jobs),
    )
    yield _by_job(
        "jobs_runs_stuck",
        "Runs that are neither done nor getting on, for longer than any run may take",
        ((job, job.stuck) for job in jobs),
    )
    yield _by_job(
        "jobs_runs_dead",
        "Runs that failed for good and were not sent again, at most 10000",
        ((job, job.dead) for job in jobs),
    )


def _of_totals(jobs: Sequence[JobStatus]) -> Iterator[Metric]:
    known = [job for job in jobs if job.running is not None]
    runs = CounterMetricFamily(
        "jobs_runs",
        "Attempts that ended so; lost: the worker was killed; skipped: was not run",
        labels=("job", "queue", "outcome"),
    )
    duration = HistogramMetricFamily(
        "jobs_run_duration_seconds", "Time that an attempt took", labels=("job", "queue", "outcome")
    )
    wait = HistogramMetricFamily(
        "jobs_queue_wait_seconds",
        "Time from a run's message to its first attempt",
        labels=("job", "queue"),
    )
    for job in known:
        for outcome in OUTCOMES:
            total = job.totals.get(outcome)
            # From 0 on, or Prometheus would not see the first one as an increase.
            runs.add_metric((job.name, job.queue, outcome), total.count if total else 0)
        for outcome in MEASURED:
            if outcome != "succeeded" and outcome not in job.totals:
                continue  # a page of zeros for what has never happened
            _add_buckets(duration, (job.name, job.queue, outcome), job.totals.get(outcome))
        _add_buckets(wait, (job.name, job.queue), job.totals.get("started"))
    yield from (runs, duration, wait)


def _add_buckets(family: HistogramMetricFamily, labels: Sequence[str], total: Total | None) -> None:
    names = [*(f"{bound:g}" for bound in DURATION_BOUNDS_SECONDS), "+Inf"]
    counts = total.buckets if total and total.buckets else (0,) * len(names)
    # Prometheus counts in each bucket what fell into those below it too.
    buckets = list(zip(names, map(float, accumulate(counts)), strict=True))
    family.add_metric(labels, buckets, total.seconds if total else 0.0)


def _by_job(name: str, text: str, values: Iterable[tuple[JobStatus, Value]]) -> Metric:
    samples = [((job.name, job.queue), value) for job, value in values]
    return _gauges(name, text, ("job", "queue"), samples)


def _gauge(name: str, text: str, value: Value) -> Metric:
    return _gauges(name, text, (), [((), value)])


def _gauges(name: str, text: str, labels: Sequence[str], samples: Iterable[Sample]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=labels)
    for label_values, value in samples:
        if value is not None:
            number = value.timestamp() if isinstance(value, datetime) else float(value)
            family.add_metric(label_values, number)
    return family
