"""Free TCP ports."""

import random
import socket
from contextlib import ExitStack, suppress


def free_ports(count: int) -> list[int]:
    """Return ports of this machine that nobody listens on, all different.

    Another process may take one before it is used; that is unlikely enough for tests.
    """
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


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
