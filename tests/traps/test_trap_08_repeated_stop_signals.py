"""Trap 8: a supervisor signals every process of a group, dramatiq's main process passes it on, and
the second signal kills a worker at once, with all that it runs.

So repeats are ignored during the grace period.
"""

import signal

from tests.probes import PATIENCE_SECONDS, Service

pytest_plugins = ["tests.probe_fixtures"]


def test_running_jobs_finish_however_often_they_are_told_to_stop(service: Service) -> None:
    # Given a worker whose two threads are busy, and more work behind
    service.do("INSERT INTO probe_rows SELECT generate_series(1, 3)")
    worker = service.start_worker(threads=2)
    gated = service.send("probe_gated", gate="gated")
    batches = service.send("probe_batches", gated_row=3)
    worker.wait_for_output("at the gate", count=2, timeout_seconds=PATIENCE_SECONDS)
    behind = service.send("probe_effect")

    # When the whole group is told to stop, three times
    for count in (1, 2, 3):
        worker.send_signal_to_group(signal.SIGTERM)
        worker.wait_for_output("Sending signal 'SIGTERM' to subprocesses", count=count)
    worker.wait_for_output("Shutting down...", timeout_seconds=PATIENCE_SECONDS)

    # Then what runs may finish, and nothing is killed
    service.open_gate("gated")
    service.open_gate("batches")
    assert worker.wait(timeout_seconds=PATIENCE_SECONDS) == 0
    for key in (gated, batches):
        run = service.run(key)
        assert (run.status, run.attempt) == ("succeeded", 1)
    assert service.effects(gated) == 2

    # And what had not begun is left to the next worker
    service.start_worker()
    assert service.wait_for_run(behind).attempt == 1
    assert service.ask("SELECT max(attempt) FROM job_runs") == 1
