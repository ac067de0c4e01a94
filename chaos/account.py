"""What the chaos itself has ordered, known without asking the service's database."""

import json
import random
import re
import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import uuid4

from dramatiq.errors import BrokerConnectionError
from sqlalchemy import create_engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

if TYPE_CHECKING:
    from tests.relays import Received

SCHEDULING = re.compile(r"Scheduling Actor\((?P<job>\w+)\) at (?P<moment>.+)\.$")
REFUSED = re.compile(r"The broker refused a slot of Actor\((?P<job>\w+)\)")
ORDER_SECONDS = 0.2
TICK_SECONDS = 2
BATCHES_SECONDS = 5
ITEMS = 20
EVENT_TYPE = "chaos.ordered"
LANES = 5
ROLLED_BACK_SHARE = 0.25


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


@dataclass
class Transactions:
    """Orders that were written with a transaction, and an event of each, as the web app would.

    The events of a key (a lane) count upwards.
    """

    committed: set[str] = field(default_factory=set)
    rolled_back: set[str] = field(default_factory=set)
    unknown: set[str] = field(default_factory=set)

    def write_until(self, stop: threading.Event, url: str) -> None:
        """Go on writing, while the database is there and while it is not."""
        engine = create_engine(url, pool_pre_ping=True)
        number = 0
        while not stop.wait(ORDER_SECONDS):
            number += 1
            key = f"{number} {uuid4()}"
            try:
                with Session(engine) as session:
                    self._write(session, key, number)
                    if random.random() < ROLLED_BACK_SHARE:
                        session.rollback()
                        self.rolled_back.add(key)
                    else:
                        session.commit()
                        self.committed.add(key)
            except SQLAlchemyError:
                # It may have been committed though the answer was lost.
                self.unknown.add(key)
        engine.dispose()

    @staticmethod
    def _write(session: Session, key: str, number: int) -> None:
        from chaos.jobs import chaos_order  # noqa: PLC0415 - the settings must be there first
        from workers.outbox import enqueue, record_events  # noqa: PLC0415 - as above

        enqueue(session, chaos_order, key)
        payload = {"order": key, "number": number}
        record_events(session, EVENT_TYPE, [(f"lane {number % LANES}", payload)])


def first_receptions(events: Iterable["Received"]) -> dict[str, list[int]]:
    """Return the numbers of each lane, in the order in which they first came."""
    lanes: dict[str, dict[int, None]] = {}
    for event in events:
        lanes.setdefault(event.key, {}).setdefault(event.payload["number"])
    return {key: list(numbers) for key, numbers in lanes.items()}


def slots_between(begin: datetime, end: datetime, every_seconds: int) -> set[datetime]:
    """Return the slots that fell due from `begin` until before `end`."""
    first = -(-begin.timestamp() // every_seconds)
    last = -(-end.timestamp() // every_seconds)
    return {
        datetime.fromtimestamp(number * every_seconds, UTC)
        for number in range(int(first), int(last))
    }


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
