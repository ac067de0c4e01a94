"""Trap 19: of an actor's ``priority``, lower is more urgent; of a message's ``broker_priority``, by
which RabbitMQ goes, higher is.

So the second is named in one place, `workers.job`, and nobody has to remember.
"""

import threading

import dramatiq

from tests.probes import PATIENCE_SECONDS, Service, Workshop
from tests.rig.environment import REPOSITORY
from tests.rig.waiting import eventually
from workers.broker import build_broker
from workers.job import Job, Run
from workers.periodic import every, utc_now
from workers.settings import Settings

pytest_plugins = ["tests.probe_fixtures"]


def test_rabbitmq_serves_runs_on_demand_before_scheduled_ones(service: Service) -> None:
    # Given scheduled runs in a queue, and one behind them that somebody asked for
    settings = Settings(rabbitmq_url=service.rabbitmq.url)
    broker = build_broker(settings, service.database, ())

    def probe_every_second(_run: Run) -> None: ...

    job = dramatiq.actor(
        actor_class=Job, broker=broker, queue_name="low", periodic=every(seconds=1)
    )(probe_every_second)
    slot = utc_now()
    for _ in range(3):
        job.send_with_options(scheduled_at=slot.isoformat())
    on_demand = job.send_with_options().message_id
    broker.close()

    # Then a worker is given that one first
    service.start_worker("low", threads=1)
    assert service.wait_for_run(on_demand, "succeeded").attempt == 1
    eventually(
        lambda: len(service.runs("probe_every_second")) == 2,
        timeout_seconds=PATIENCE_SECONDS,
        message="The slot has no run",
    )
    first = min(service.runs("probe_every_second"), key=lambda run: run.id)
    assert first.run_key == on_demand


def test_a_process_runs_actors_of_lower_priority_numbers_first(workshop: Workshop) -> None:
    # Given a process whose threads are busy
    order = []
    gates = {name: threading.Event() for name in ("one", "other")}
    are_busy = threading.Barrier(3)

    def block(name: str) -> None:
        def wait(_run: Run) -> None:
            are_busy.wait(PATIENCE_SECONDS)
            assert gates[name].wait(PATIENCE_SECONDS)

        workshop.send(workshop.job(wait, actor_name=name))

    block("one")
    block("other")
    are_busy.wait(PATIENCE_SECONDS)

    # When messages of two actors wait for the next thread that is free
    def note(number: int) -> str:
        def job(_run: Run) -> None:
            order.append(number)

        name = f"number-{number}"
        # Of the other queue, none is fetched that no thread is free for.
        return workshop.send(workshop.job(job, actor_name=name, queue_name="low", priority=number))

    keys = [note(20), note(10)]
    worker = workshop._worker
    assert worker
    eventually(lambda: worker.work_queue.qsize() == 2, timeout_seconds=PATIENCE_SECONDS)
    gates["one"].set()

    # Then the lower number goes first
    for key in keys:
        workshop.wait_for_run(key, "succeeded")
    gates["other"].set()
    assert order == [10, 20]


def test_the_priority_of_rabbitmq_is_set_in_one_place() -> None:
    package = REPOSITORY / "workers"
    naming = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if "broker_priority" in path.read_text()
    }
    # Set in the first; the others read what was set: to check it, to keep it in the outbox.
    assert naming == {"job.py", "messages.py", "outbox.py"}
