"""How many connections the service needs, so that a plan which allows few is not a surprise.

Computed from the commands of the Procfile, and the most that may be open at once: processes begin
with less, and open some of these only when they are first needed.

RabbitMQ. A worker process has two consumers for each queue, one for the queue and one for its delay
queue. Each is a thread with a connection to consume from, and another to publish on: it declares
the queue, and moves messages whose time has come. A worker's thread that sends a retry has one of
its own from then on. And one process of all has the relay's.

PostgreSQL. A running job has one for its transaction, and everything that goes on beside the jobs
has one while it works: the relay, or waiting to become it, and the sign of life.
"""

import argparse
import os
import shlex
from collections.abc import Mapping
from typing import NamedTuple

from workers import embedded
from workers.database import KEPT_CONNECTIONS
from workers.job import QUEUES

CONNECTIONS_A_QUEUE = 4
RELAY = 1
SIGN_OF_LIFE = 1

DRAMATIQ_THREADS = 8
"""``--threads`` of dramatiq, unless told."""


class Need(NamedTuple):
    """The connections that something has at most."""

    rabbitmq: int
    postgresql: int

    def times(self, count: int) -> "Need":
        return Need(self.rabbitmq * count, self.postgresql * count)


ALONE = {
    # Only looks whether RabbitMQ lets it in. Active, it runs jobs, relays, and goes on looking
    # whether there is work left over.
    "standby": Need(rabbitmq=1, postgresql=embedded.THREADS + RELAY + SIGN_OF_LIFE + 1),
    # The page asks both for what it shows, and for what people want done.
    "web": Need(rabbitmq=2, postgresql=KEPT_CONNECTIONS),
    # Just before the others are replaced, and so beside them.
    "migrate": Need(rabbitmq=0, postgresql=1),
}
"""What the commands of ``python -m workers`` need that a Procfile may name."""


class Budget(NamedTuple):
    """What all processes of a Procfile need together, and what makes it up."""

    total: Need
    parts: dict[str, Need]

    def describe(self, server: str) -> str:
        """Write the sum of one server, ``rabbitmq`` or ``postgresql``, and its parts."""
        parts = {name: getattr(need, server) for name, need in self.parts.items()}
        terms = ", ".join(f"{name} {count}" for name, count in parts.items() if count)
        return f"{getattr(self.total, server)} at most ({terms})"


def budget(procfile: str, scale: Mapping[str, int]) -> Budget:
    """Add up what a Procfile's processes need.

    Args:
        procfile: its text. Commands that are not the service's count nothing.
        scale: how many there are of each process; those that it does not name, there are one of.

    Raises:
        ValueError: if `scale` names a process that is not there, or a command is no command.
    """
    commands = dict(_lines(procfile))
    for name in scale:
        if name not in commands:
            known = ", ".join(commands)
            raise ValueError(f"the Procfile has no process {name!r}; take one of {known}")
    parts = {
        name: _need(shlex.split(command)).times(scale.get(name, 1))
        for name, command in commands.items()
    }
    if any(parts[name].rabbitmq and _is_worker(command) for name, command in commands.items()):
        parts["the outbox's relay"] = Need(rabbitmq=RELAY, postgresql=0)
    total = Need(
        sum(need.rabbitmq for need in parts.values()),
        sum(need.postgresql for need in parts.values()),
    )
    return Budget(total, parts)


def _lines(procfile: str) -> list[tuple[str, str]]:
    lines = (line.strip() for line in procfile.splitlines())
    pairs = (line.partition(":") for line in lines if line and not line.startswith("#"))
    return [(name.strip(), command.strip()) for name, _, command in pairs]


def _is_worker(command: str) -> bool:
    return command.split()[:1] == ["dramatiq"]


def _need(words: list[str]) -> Need:
    match words:
        case ["dramatiq", *arguments]:
            return _need_of_workers(arguments)
        case ["periodiq", *_]:
            return Need(rabbitmq=1, postgresql=SIGN_OF_LIFE)
        case ["python", "-m", "workers", command, *_]:
            return ALONE.get(command, Need(0, 0))
        case _:
            return Need(0, 0)


def _need_of_workers(arguments: list[str]) -> Need:
    parser = argparse.ArgumentParser(exit_on_error=False, add_help=False)
    parser.add_argument("--queues", "-Q", nargs="*", default=QUEUES)
    parser.add_argument("--processes", "-p", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--threads", "-t", type=int, default=DRAMATIQ_THREADS)
    try:
        options, _ = parser.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        raise ValueError(f"the Procfile's command 'dramatiq' is wrong: {error}") from None
    one = Need(
        rabbitmq=CONNECTIONS_A_QUEUE * len(options.queues) + options.threads,
        postgresql=options.threads + RELAY + SIGN_OF_LIFE,
    )
    return one.times(options.processes)
