"""Trap 8: a supervisor signals every process of a group, dramatiq's main process passes it on, and
the second signal kills a worker at once, with all that it runs.

So only the first signal counts. What it begins has an end of its own (see test_shutdown.py).
"""

import signal

import pytest

from tests.probes import PATIENCE_SECONDS, Service

pytest_plugins = ["tests.probe_fixtures"]


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_running_jobs_finish_however_often_they_are_told_to_stop(
    service: Service, signum: signal.Signals
) -> None:
    # Given a worker whose two threads are busy, and more work behind
    worker = service.start_worker(threads=2)
    keys = [service.send("probe_gated", gate="gate"), service.send("probe_gated_too", gate="gate")]
    worker.wait_for_output("at the gate", count=2, timeout_seconds=PATIENCE_SECONDS)
    behind = service.send("probe_effect")

    # When the whole group is told to stop, three times
    for count in (1, 2, 3):
        worker.send_signal_to_group(signum)
        worker.wait_for_output("Sending signal 'SIGTERM' to subprocesses", count=count)
    worker.wait_for_output("Shutting down...", timeout_seconds=PATIENCE_SECONDS)

    # Then what runs may finish, and nothing is killed
    service.open_gate("gate")
    assert worker.wait(timeout_seconds=PATIENCE_SECONDS) == 0
    for key in keys:
        run = service.run(key)
        assert (run.status, run.attempt) == ("succeeded", 1)
        assert service.effects(key) == 2

    # And what had not begun is left to the next worker
    service.start_worker()
    assert service.wait_for_run(behind).attempt == 1
    assert service.ask("SELECT max(attempt) FROM job_runs") == 1
