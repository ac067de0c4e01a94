"""One dead letter, and what can be told of it."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from workers.models import RunStatus
from workers.periodic import utc_now
from workers.reports import Report, json_ready


@dataclass(frozen=True, kw_only=True)
class Letter:
    """A dead letter. What cannot be told of it is None."""

    id: str
    """The message's id, or one made of its body, if it has none that can be used."""

    queue: str
    """The queue that it was to be served from."""

    job: str | None
    slot: datetime | None
    run_key: str | None
    status: RunStatus | None = None
    attempt: int | None = None
    error: str = ""
    """Why it is dead: a line, perhaps followed by a stack trace."""

    dead_since: datetime | None
    expires_at: datetime | None
    """When RabbitMQ drops it."""

    body: str | None = None

    def report(self, *, is_whole: bool = False) -> Report:
        """Return it as JSON can carry it; the error's first line only, unless as a whole."""
        report: dict[str, Any] = {
            "id": self.id,
            "queue": self.queue,
            "job": self.job,
            "slot": self.slot,
            "run_key": self.run_key,
            "status": self.status,
            "attempt": self.attempt,
            "error": self.error if is_whole else self.error.partition("\n")[0],
            "dead_since": self.dead_since,
            "age_seconds": None,
            "expires_at": self.expires_at,
        }
        if self.dead_since is not None:
            report["age_seconds"] = max(0, round((utc_now() - self.dead_since).total_seconds()))
        if is_whole:
            report["body"] = self.body
        return {name: json_ready(value) for name, value in report.items()}


class Cabinet(Protocol):
    """Where dead letters are kept. Each method goes over some queues, perhaps for one id."""

    def count(self, queues: Sequence[str]) -> int:
        """Return how many there are."""

    def look(self, queues: Sequence[str], letter_id: str | None = None) -> Generator[Letter]:
        """Look at them, oldest first; they stay where they are. With an id, also at their body."""

    def requeue(self, queues: Sequence[str], letter_id: str | None = None) -> Generator[str]:
        """Send them again, one by one, and tell the id of each."""

    def drop(self, queues: Sequence[str], letter_id: str | None = None) -> Generator[str]:
        """Drop them, one by one, and tell the id of each."""
