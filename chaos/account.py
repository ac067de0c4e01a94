"""What the chaos itself has ordered, known without asking the service's database."""

import json
import re
import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import uuid4

from dramatiq.errors import BrokerConnectionError

SCHEDULING = re.compile(r"Scheduling Actor\((?P<job>\w+)\) at (?P<moment>.+)\.$")
REFUSED = re.compile(r"The broker refused a slot of Actor\((?P<job>\w+)\)")
ORDER_SECONDS = 0.2
TICK_SECONDS = 2
BATCHES_SECONDS = 5
ITEMS = 20


@dataclass
class Orders:
    """Runs on demand that the chaos asked for, and whether the broker said that it has them."""

    confirmed: set[str] = field(default_factory=set)
    unknown: set[str] = field(default_factory=set)

    def place_until(self, stop: threading.Event) -> None:
        """Go on ordering, as the web app would, while RabbitMQ is there and while it is not."""
        from chaos.jobs import chaos_order  # noqa: PLC0415 - the settings must be there first

        while not stop.wait(ORDER_SECONDS):
            key = str(uuid4())
            try:
                chaos_order.send_with_options(args=(key,))
            except BrokerConnectionError:
                # It may have been taken though the answer was lost.
                self.unknown.add(key)
            else:
                self.confirmed.add(key)


def slots_handed_over(logs: Iterable[str], job: str, every_seconds: int) -> Counter[datetime]:
    """Count, from the schedulers' own logs, how often the broker took each slot of a job.

    The last line of a scheduler that was killed tells of a message that may not have been sent.
    """
    slots: Counter[datetime] = Counter()
    for log in logs:
        pending: datetime | None = None
        for event in _events(log):
            if (refused := REFUSED.search(event)) and refused["job"] == job:
                pending = None
                continue
            if pending is not None:
                slots[pending] += 1
                pending = None
            if (scheduling := SCHEDULING.search(event)) and scheduling["job"] == job:
                moment = datetime.fromisoformat(scheduling["moment"]).timestamp()
                pending = datetime.fromtimestamp(moment // every_seconds * every_seconds, UTC)
    return slots


def _events(log: str) -> Iterable[str]:
    for line in log.splitlines():
        if line.startswith("{"):
            try:
                yield str(json.loads(line)["event"])
            except ValueError:  # the line that a kill cut off
                continue
