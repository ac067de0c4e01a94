"""How the service is doing, all of it, as one snapshot of plain data.

The page, ``/readyz`` and ``/metrics`` show the same snapshot, so they never disagree, and what is
wrong is put into words in one place (`problems`).

A snapshot is cheap, and it is there when things are not: database and broker are asked at the same
time, each over a connection of its own, and whatever has not answered within `PATIENCE_SECONDS` is
away. What could not be found out is None.
"""

from workers.status.collection import PATIENCE_SECONDS, collect
from workers.status.problems import Problem, ProblemCode
from workers.status.snapshot import (
    BrokerStatus,
    DatabaseStatus,
    JobStatus,
    LastRun,
    LastSuccess,
    OutboxStatus,
    ProcessStatus,
    QueueStatus,
    SchemaStatus,
    Status,
    Total,
)

__all__ = [
    "PATIENCE_SECONDS",
    "BrokerStatus",
    "DatabaseStatus",
    "JobStatus",
    "LastRun",
    "LastSuccess",
    "OutboxStatus",
    "Problem",
    "ProblemCode",
    "ProcessStatus",
    "QueueStatus",
    "SchemaStatus",
    "Status",
    "Total",
    "collect",
]
