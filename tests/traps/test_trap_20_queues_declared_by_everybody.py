"""Trap 20: producers declare the queues that they send to, so they need the right to configure
them, and a queue whose arguments are not theirs refuses them (406 PRECONDITION_FAILED).

So ``check`` compares the arguments, tries the right, and says what to do.
"""

from collections.abc import Iterator
from contextlib import suppress

import pytest
from dramatiq.errors import ConnectionClosed

from tests.probes import Service
from tests.rig.processes import Processes
from tests.rig.rabbitmq import RabbitMQ

pytest_plugins = ["tests.probe_fixtures"]

USER = "may-not-configure"


def check(processes: Processes, database_url: str, rabbitmq_url: str) -> str:
    env = {"DATABASE_URL": database_url, "RABBITMQ_URL": rabbitmq_url}
    done = processes.run("python", "-m", "workers", "check", env=env)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


@pytest.mark.parametrize("queue", ["default", "default.DQ", "default.XQ"])
def test_check_says_which_queue_refuses_producers_and_what_to_do(
    service: Service, processes: Processes, database_url: str, queue: str
) -> None:
    # Given a queue that was declared with other arguments, to which nobody can send
    with service.rabbitmq.channel() as channel:
        channel.queue_declare(queue, durable=True, arguments={"x-max-length": 3})
    with pytest.raises(ConnectionClosed, match="PRECONDITION_FAILED"):
        service.send("probe_effect")

    # Then `check` names it, and the way out
    (line,) = [
        line
        for line in check(processes, database_url, service.rabbitmq.url).splitlines()
        if line.startswith("FAIL")
    ]
    assert line.startswith(f"FAIL  queues        {queue}: ")
    assert "PRECONDITION_FAILED - inequivalent arg" in line
    assert "delete it" in line


@pytest.fixture
def restricted_url(clean_rabbitmq: RabbitMQ) -> Iterator[str]:
    """The broker, as a user that may read and write, but not declare."""
    clean_rabbitmq.ctl("add_user", USER, "secret")
    clean_rabbitmq.ctl("set_permissions", USER, "^$", ".*", ".*")
    yield clean_rabbitmq.url.replace("guest:guest", f"{USER}:secret")
    with suppress(AssertionError):
        clean_rabbitmq.ctl("delete_user", USER)


def test_check_says_that_the_right_to_configure_is_missing(
    service: Service, processes: Processes, database_url: str, restricted_url: str
) -> None:
    # Given queues, and a user that may not declare them
    service.declare("default")

    output = check(processes, database_url, restricted_url)

    assert "FAIL  queues        default: ACCESS_REFUSED" in output
    assert "rabbitmqctl set_permissions" in output
    assert "secret" not in output
