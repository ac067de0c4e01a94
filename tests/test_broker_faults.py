"""Whatever becomes of RabbitMQ, the service recovers by itself: nothing twice, nothing lost."""

from collections.abc import Iterator
from datetime import timedelta

import pytest

from tests.probes import PATIENCE_SECONDS, Service
from tests.rig.processes import Process
from tests.rig.proxy import Proxy, proxy_to_rabbitmq
from tests.rig.waiting import eventually
from workers.periodic import daily, every, utc_now

pytest_plugins = ["tests.probe_fixtures"]

MODULE = "tests.standby_jobs"
QUEUES = ("default", "low")
OFTEN = every(seconds=3)
NIGHTLY = daily("00:00")

# Shorter than in earnest, so that no test waits for minutes.
IMPATIENT = "?blocked_connection_timeout=1&stack_timeout=1&socket_timeout=1&heartbeat=4"


@pytest.fixture
def wire(service: Service) -> Iterator[Proxy]:
    """What connects the service to RabbitMQ."""
    wire, url = proxy_to_rabbitmq(service.rabbitmq.url)
    service.env["RABBITMQ_URL"] = url.rstrip("/") + "/" + IMPATIENT
    for gate in ("gated", "luck"):
        service.open_gate(gate)
    yield wire
    service.processes.kill_all()
    wire.close()


def start_worker(service: Service) -> Process:
    worker = service.processes.start(
        *("dramatiq", "workers", MODULE, "--processes", "1", "--threads", "4"),
        *("--queues", *QUEUES),
        env=service.env,
    )
    worker.wait_for_output("ready for action", timeout_seconds=PATIENCE_SECONDS)
    return worker


def start_scheduler(service: Service) -> Process:
    scheduler = service.processes.start("periodiq", "workers", MODULE, env=service.env)
    scheduler.wait_for_output("often", timeout_seconds=PATIENCE_SECONDS)
    return scheduler


def wait_until_slots_run(service: Service) -> None:
    """Wait until a slot that falls due from now on was run."""
    now = utc_now()
    eventually(
        lambda: any(
            run.slot and run.slot > now - timedelta(seconds=1) and run.status == "succeeded"
            for run in service.runs("often")
        ),
        timeout_seconds=PATIENCE_SECONDS,
        message="The schedule does not go on",
    )


def leave_a_retry(service: Service, gate: str) -> str:
    """Send what fails once, and waits to be retried in RabbitMQ."""
    key = service.send("try_luck", gate=gate)
    service.wait_for_run(key, "retrying")
    service.open_gate(gate)
    return key


class Scene:
    """Workers and schedulers, and what can be done to their RabbitMQ."""

    def __init__(self, service: Service, wire: Proxy) -> None:
        self.rabbitmq = service.rabbitmq
        self.wire = wire
        self.schedulers = [start_scheduler(service) for _ in range(2)]
        self.workers = [start_worker(service) for _ in range(2)]

    def lose_queues(self) -> None:
        with self.rabbitmq.channel() as channel:
            for queue in QUEUES:
                channel.queue_delete(queue)

    def raise_an_alarm(self) -> None:
        self.rabbitmq.ctl("set_vm_memory_high_watermark", "0.000001")
        self._wait_until_refused()
        self.rabbitmq.ctl("set_vm_memory_high_watermark", "0.4")

    def cut_off(self) -> None:
        self.wire.cut()
        self._wait_until_refused()
        self.wire.restore()

    def stand_still(self) -> None:
        self.wire.pause()
        self._wait_until_refused()
        self.wire.restore()

    def restart(self) -> None:
        self.rabbitmq.restart()

    def _wait_until_refused(self) -> None:
        before = self._count_refused()
        eventually(
            lambda: self._count_refused() > before,
            timeout_seconds=PATIENCE_SECONDS,
            message="No slot was refused",
        )

    def _count_refused(self) -> int:
        return sum(each.output.count("refused a slot") for each in self.schedulers)


@pytest.mark.timeout(300)
def test_the_service_recovers_from_each_fault_of_the_broker(service: Service, wire: Proxy) -> None:
    service.declare("default")
    scene = Scene(service, wire)
    wait_until_slots_run(service)
    retries = []
    for fault in (
        scene.lose_queues,
        scene.raise_an_alarm,
        scene.cut_off,
        scene.stand_still,
        scene.restart,
    ):
        # When something befalls the broker, while a retry waits there
        retries.append(leave_a_retry(service, fault.__name__))
        fault()

        # Then the schedule goes on, and the retry was not lost
        wait_until_slots_run(service)
        # (If it could not be published, its run is `dead` until the message is delivered again.)
        service.wait_for_run(retries[-1], "succeeded")
        key = service.send("on_demand", key="key")
        assert service.wait_for_run(key).status == "succeeded", fault.__name__

    # And nothing was done twice, nothing is dead, nobody had to be started again
    assert service.ask("SELECT count(*) - count(DISTINCT message_id) FROM probe_effects") == 0
    assert {service.effects(key) for key in retries} == {1}
    for job in ("gated", "unlucky"):
        assert [run.status for run in service.runs(job)] == ["succeeded"]
    assert service.ask("SELECT count(*) FROM job_runs WHERE status = 'dead'") == 0
    for each in scene.schedulers + scene.workers:
        assert each.returncode is None


@pytest.mark.timeout(240)
@pytest.mark.usefixtures("wire")
def test_a_restart_under_load_loses_nothing_and_does_nothing_twice(service: Service) -> None:
    # Given work in hand, waiting, and to be retried
    service.declare("default")
    keys = [service.send("on_demand", key=f"order {number}") for number in range(60)]
    workers = [start_worker(service) for _ in range(2)]
    keys.append(leave_a_retry(service, "load"))

    # When RabbitMQ is killed, and restarted
    for end in (service.rabbitmq.kill, service.rabbitmq.stop):
        end()
        service.rabbitmq.start()
        keys += [service.send("on_demand", key=f"order {number}") for number in range(20)]

    # Then all of it is done, once
    eventually(
        lambda: (
            service.ask("SELECT count(*) FROM job_runs WHERE status = 'succeeded'") == len(keys)
        ),
        timeout_seconds=2 * PATIENCE_SECONDS,
        message="Not everything was done",
    )
    for key in keys:
        assert service.effects(key) == 1
    assert [each.returncode for each in workers] == [None, None]


@pytest.mark.timeout(180)
def test_a_scheduler_survives_a_broker_that_takes_connections_but_does_not_answer(
    service: Service, wire: Proxy
) -> None:
    wire.pause()
    scheduler = start_scheduler(service)
    scheduler.wait_for_output("refused a slot", timeout_seconds=PATIENCE_SECONDS)

    wire.restore()
    start_worker(service)

    wait_until_slots_run(service)
    assert scheduler.returncode is None
    key = f"gated@{NIGHTLY.slot_at(utc_now()):%Y-%m-%dT%H:%M:%SZ}"
    assert service.wait_for_run(key).status == "succeeded"
