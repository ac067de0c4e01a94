"""Worker processes are renewed now and then, and nobody notices."""

from tests.probes import PATIENCE_SECONDS, Service
from tests.rig.waiting import eventually

pytest_plugins = ["tests.probe_fixtures"]


def test_worker_processes_are_renewed_after_so_many_runs(service: Service) -> None:
    # Given two worker processes that are renewed after twenty runs, and others
    env = {"MAX_TASKS_PER_PROCESS": "20"}
    workers = service.start_worker(processes=2, threads=2, env=env)
    others = service.start_worker("low", env=env)

    # When there are many more
    keys = [service.send("probe_effect") for _ in range(100)]
    runs = [service.wait_for_run(key) for key in keys]

    # Then each was done once, by many processes, none of which was killed
    assert {(run.status, run.attempt) for run in runs} == {("succeeded", 1)}
    assert service.effects() == 100
    assert len({run.worker for run in runs}) >= 4
    assert "Killing" not in workers.output
    assert service.dead_letters() == []

    # And the main process is the same, and that of other queues was left alone
    assert workers.returncode is None
    assert "SIGHUP" in workers.output
    assert "SIGHUP" not in others.output


def test_messages_that_lead_to_no_run_do_not_count(service: Service) -> None:
    worker = service.start_worker(env={"MAX_TASKS_PER_PROCESS": "3"})
    message_id = service.send("probe_effect")
    service.wait_for_run(message_id)

    # Given the same message again and again, and one more run
    for _ in range(10):
        service.send_again("probe_effect", message_id)
    service.wait_for_run(service.send("probe_effect"))
    worker.wait_for_output('"outcome": "duplicate"', count=10, timeout_seconds=PATIENCE_SECONDS)
    assert "renewed" not in worker.output

    # Then the third run is the one that counts
    service.wait_for_run(service.send("probe_effect"))
    worker.wait_for_output("renewed", timeout_seconds=PATIENCE_SECONDS)
    worker.wait_for_output("ready for action", count=2, timeout_seconds=PATIENCE_SECONDS)


def test_a_worker_process_that_has_grown_is_renewed(service: Service) -> None:
    worker = service.start_worker(env={"MAX_MEMORY_MB_PER_PROCESS": "300"})

    service.wait_for_run(service.send("probe_effect"))
    assert "renewed" not in worker.output

    service.wait_for_run(service.send("probe_eats_memory", megabytes=300))
    worker.wait_for_output("this one has grown to", timeout_seconds=PATIENCE_SECONDS)
    worker.wait_for_output("ready for action", count=2, timeout_seconds=PATIENCE_SECONDS)
    assert service.wait_for_run(service.send("probe_effect")).attempt == 1


def test_a_size_that_no_process_stays_below_is_refused(service: Service) -> None:
    worker = service.processes.start(
        *("dramatiq", "workers", "--processes", "1"),
        env={**service.env, "MAX_MEMORY_MB_PER_PROCESS": "10"},
    )

    assert worker.wait(timeout_seconds=PATIENCE_SECONDS) == 2
    eventually(lambda: "Error: MAX_MEMORY_MB_PER_PROCESS: must be more than" in worker.output)
