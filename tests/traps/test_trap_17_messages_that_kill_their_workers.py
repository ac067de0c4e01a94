"""Trap 17: when a worker process dies, dramatiq's main process stops the others, and itself. A
message whose run kills its worker is delivered again, and takes down whatever is started anew.

So attempts are counted before a run begins, and the platform starts the service again: the message
is put aside after its last attempt, and the queue behind it goes on.
"""

from tests.probes import PATIENCE_SECONDS, Service
from tests.rig.waiting import eventually
from tests.traps.messages import message

pytest_plugins = ["tests.probe_fixtures"]


def test_the_trap_is_there(service: Service) -> None:
    service.declare("default")
    service.rabbitmq.publish("default", message("kill_the_worker"))

    # However often stock dramatiq is started, with two processes
    for _ in range(3):
        workers = service.processes.start(
            *("dramatiq", "tests.traps.stock", "--processes", "2"), env=service.env
        )
        assert workers.wait(timeout_seconds=PATIENCE_SECONDS) != 0
        # Then the message takes it down, and is still there.
        eventually(lambda: service.rabbitmq.queue_counts("default").ready == 1)


def test_the_queue_behind_such_a_message_goes_on(service: Service) -> None:
    # Given such a message, of a job with one retry, and others behind it
    fatal = service.send("probe_kills_its_worker")
    behind = [service.send("probe_effect") for _ in range(3)]

    # When the platform starts two worker processes again as often as they go down
    platform = [service.start_worker(processes=2, threads=1)]

    def all_is_done() -> bool:
        if platform[-1].returncode is not None:
            platform.append(service.start_worker(processes=2, threads=1))
        return service.dead_letters() == [fatal] and service.effects() == len(behind)

    eventually(all_is_done, timeout_seconds=PATIENCE_SECONDS)

    # Then it has to do so as often as the job has attempts at most. (Once may do: delivered again,
    # the message may meet the second process before the end of the first one has stopped it.)
    assert len(platform) <= 3
    run = service.run(fatal)
    assert (run.status, run.attempt) == ("dead", 2)
    for key in behind:
        run = service.wait_for_run(key)
        assert (run.status, service.effects(key)) == ("succeeded", 1)
