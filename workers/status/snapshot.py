"""What a snapshot says: frozen, plain data. None stands for what could not be found out."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from workers.models import BrokerName, ProcessKind, RunEvent, RunStatus
from workers.reports import Report, json_ready
from workers.status.problems import Problem

COUNT_LIMIT = 10_000
"""Counts of rows stop here, so that a snapshot stays cheap when much is wrong."""


@dataclass(frozen=True, kw_only=True)
class DatabaseStatus:
    """Whether PostgreSQL lets us in."""

    is_reachable: bool
    reason: str = ""
    """Why not, in one line."""


@dataclass(frozen=True, kw_only=True)
class SchemaStatus:
    """Whether the tables are those that this version of the code needs."""

    is_current: bool | None
    reason: str = ""
    """Why not, and what to do, in one line."""


@dataclass(frozen=True, kw_only=True)
class BrokerStatus:
    """Which broker this process uses, and whether it lets us in."""

    kind: BrokerName
    is_reachable: bool
    reason: str = ""
    """Why not, or why it is not the one that is configured, in one line."""


@dataclass(frozen=True, kw_only=True)
class QueueStatus:
    """One queue. Messages that a worker has fetched are not counted, whatever they wait for."""

    name: str
    ready: int | None = None
    """Messages that wait for a worker."""
    delayed: int | None = None
    """Messages in its delay queue (``.DQ``), not yet fetched by a worker."""
    consumers: int | None = None
    """Worker processes that serve it."""
    dead_letters: int | None = None
    """Messages in its dead-letter queue (``.XQ``); in-process, dead runs, up to `COUNT_LIMIT`."""


@dataclass(frozen=True, kw_only=True)
class Total:
    """How often something happened to a job's runs, ever since."""

    count: int
    seconds: float
    buckets: tuple[int, ...]
    """See `workers.models.JobTotal`."""
    last_at: datetime
    last_slot: datetime | None


@dataclass(frozen=True, kw_only=True)
class LastSuccess:
    """When a job last did its work."""

    at: datetime
    slot: datetime | None
    """The latest slot that succeeded; None if only runs on demand did."""


@dataclass(frozen=True, kw_only=True)
class LastRun:
    """The newest run that was not skipped."""

    id: int
    run_key: str
    slot: datetime | None
    status: RunStatus
    attempt: int
    started_at: datetime | None
    finished_at: datetime | None
    duration_seconds: float | None
    result: dict[str, Any] | None
    error: str | None
    """Its first line."""


@dataclass(frozen=True, kw_only=True)
class JobStatus:
    """One job: what was to happen by the clock, and what happened."""

    name: str
    queue: str
    schedule: str | None
    """In words; None: on demand only."""
    interval_seconds: float | None = None
    current_slot: datetime | None = None
    next_due: datetime | None = None

    last_success: LastSuccess | None = None
    last_run: LastRun | None = None
    running_since: datetime | None = None
    """When the oldest run in progress began."""
    running: int | None = None
    retrying: int | None = None
    """Runs that failed and wait for their next attempt."""
    failed_repeatedly: int | None = None
    """Those of them that failed at least twice."""
    stuck: int | None = None
    """Runs that are neither done nor getting on, for longer than any run may take."""
    dead: int | None = None
    """Runs that failed for good and were not sent again, up to `COUNT_LIMIT`."""
    has_died_lately: bool = False
    """Whether the newest of them failed within the hour, or after the last success."""

    overdue_seconds: float | None = None
    """For how long the job has owed a success, if that is longer than its grace; else 0."""
    missed_slots: int | None = None
    """Slots since its last success that a newer one has replaced."""
    totals: Mapping[RunEvent, Total] = field(default_factory=dict)

    @property
    def is_overdue(self) -> bool:
        return bool(self.overdue_seconds)

    @property
    def outcomes(self) -> dict[str, int]:
        """How often what happened, since the service was set up."""
        return {event: total.count for event, total in self.totals.items()}


@dataclass(frozen=True, kw_only=True)
class ProcessStatus:
    """A process of the service as it was last seen."""

    name: str
    """``host:pid``."""
    kind: ProcessKind
    queues: tuple[str, ...]
    state: str | None
    started_at: datetime
    seen_seconds_ago: float
    is_silent: bool
    """Whether it may be dead: it has not been seen for six times as long as it should."""


@dataclass(frozen=True, kw_only=True)
class OutboxStatus:
    """What waits to be published; counts up to `COUNT_LIMIT`."""

    messages: int
    events: int
    oldest_seconds: float
    """How long the oldest has waited; 0 if nothing waits."""


@dataclass(frozen=True, kw_only=True)
class Status:
    """How the service is doing."""

    taken_at: datetime
    database: DatabaseStatus
    schema: SchemaStatus
    broker: BrokerStatus
    queues: tuple[QueueStatus, ...]
    jobs: tuple[JobStatus, ...]
    processes: tuple[ProcessStatus, ...] | None = None
    outbox: OutboxStatus | None = None
    problems: tuple[Problem, ...] = ()
    """What is wrong, the worst first."""

    @property
    def is_ready(self) -> bool:
        """Whether runs can take place: nothing is wrong that keeps all jobs from running."""
        return not any(problem.is_blocking for problem in self.problems)

    def report(self) -> Report:
        """Return it as JSON can carry it."""
        report: Report = _plain(self)
        return report | {"is_ready": self.is_ready}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        names = [each.name for each in dataclasses.fields(value)]
        names += [name for name, each in vars(type(value)).items() if isinstance(each, property)]
        return {name: _plain(getattr(value, name)) for name in names}
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    return json_ready(value)
