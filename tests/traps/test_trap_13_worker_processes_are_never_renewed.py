"""Trap 13: dramatiq renews no worker process by itself. A SIGHUP to its main process does, but a
second one, as each of several worker processes may send it, kills what runs.

So a process that is due asks once, and a repeated signal is ignored (see test_recycling.py).
"""

import signal
from pathlib import Path

from tests.probes import PATIENCE_SECONDS, Service
from tests.rig.waiting import eventually
from tests.traps.messages import message

pytest_plugins = ["tests.probe_fixtures"]


def test_the_trap_is_there(service: Service, tmp_path: Path) -> None:
    # Given a job of stock dramatiq, in the middle of its work
    workers = service.processes.start(
        *("dramatiq", "tests.traps.stock", "--processes", "1", "--threads", "1"), env=service.env
    )
    service.declare("default")
    service.rabbitmq.publish("default", message("wait_for_go", str(tmp_path)))
    eventually(lambda: list(tmp_path.glob("begun-*")), timeout_seconds=PATIENCE_SECONDS)

    # When its worker processes are to be renewed, twice; two signals at once would count as one
    workers.send_signal(signal.SIGHUP)
    workers.wait_for_output("Stopping worker process", timeout_seconds=PATIENCE_SECONDS)
    workers.send_signal(signal.SIGHUP)

    # Then it is killed, and begins anew
    workers.wait_for_output("Killing worker process", timeout_seconds=PATIENCE_SECONDS)
    eventually(lambda: len(list(tmp_path.glob("begun-*"))) == 2, timeout_seconds=PATIENCE_SECONDS)
    assert not list(tmp_path.glob("ended-*"))


def test_a_second_signal_does_no_harm(service: Service) -> None:
    # Given a run in the middle of its work
    workers = service.start_worker()
    key = service.send("probe_gated", gate="gate")
    workers.wait_for_output("at the gate", timeout_seconds=PATIENCE_SECONDS)

    # When its worker processes are to be renewed, twice
    for count in (1, 2):
        workers.send_signal(signal.SIGHUP)
        workers.wait_for_output("Sending signal 'SIGHUP' to subprocesses", count=count)
    workers.wait_for_output("Shutting down...", timeout_seconds=PATIENCE_SECONDS)

    # Then it ends well, and its successors go on
    service.open_gate("gate")
    workers.wait_for_output("ready for action", count=2, timeout_seconds=PATIENCE_SECONDS)
    run = service.run(key)
    assert (run.status, run.attempt) == ("succeeded", 1)
    new = service.wait_for_run(service.send("probe_effect"))
    assert new.worker != run.worker
