"""Free TCP ports."""

import random
import socket
from contextlib import ExitStack, suppress

CANDIDATES = range(10_240, 32_768)
"""Below those that systems hand out to connections: one of them would take the port of a server
that a test has stopped for a while."""


def free_ports(count: int) -> list[int]:
    """Return ports of this machine that nobody listens on, all different.

    Another process may take one before it is used; that is unlikely enough for tests.
    """
    # Not the seeded generator, of which every process would get the same ports.
    chance = random.SystemRandom()
    with ExitStack() as stack:
        ports: list[int] = []
        while len(ports) < count:
            port = chance.choice(CANDIDATES)
            with suppress(OSError):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
                ports.append(port)
        return ports


def free_port_range(count: int) -> int:
    """Return the first of so many ports in a row that nobody listens on; as above."""
    # Not the seeded generator, of which every process would get the same ports.
    chance = random.SystemRandom()
    while True:
        first = chance.randrange(10_240, 32_768 - count)
        with suppress(OSError), ExitStack() as stack:
            for port in range(first, first + count):
                stack.enter_context(socket.create_server(("", port)))
            return first
