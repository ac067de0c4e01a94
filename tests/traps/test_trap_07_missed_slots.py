"""Trap 7: periodiq forgets slots that it missed, lives in local time, and exits at a failed send.

So it is offered the current slot of each job when it starts and until the broker has it, slots are
in UTC, and a send for a slot does not raise.
"""

import json
from datetime import datetime

import pendulum
import periodiq
import pytest

from tests.probes import PATIENCE_SECONDS, Service, log_lines
from tests.rig.waiting import eventually
from workers.periodic import daily, utc_now

pytest_plugins = ["tests.probe_fixtures"]

FAR_FROM_UTC = {"TZ": "Pacific/Auckland"}
NIGHTLY = daily("02:00")


def test_the_trap_is_there() -> None:
    # Given a scheduler that starts two hours after the time of a nightly job
    spec = periodiq.cron("0 2 * * *")

    # Then it finds nothing to send until the next night, in whatever zone it is
    assert not spec.validate(pendulum.datetime(2026, 11, 23, 4, tz="Pacific/Auckland"))
    assert spec.validate(pendulum.datetime(2026, 11, 24, 2, tz="Pacific/Auckland"))


def test_a_slot_missed_while_no_scheduler_ran_is_run_once_when_one_starts(
    service: Service,
) -> None:
    worker = service.start_worker("low", env=FAR_FROM_UTC)

    # When a scheduler starts, somewhere else on earth, at any time of the day
    slots = {NIGHTLY.slot_at(utc_now())}
    scheduler = service.start_scheduler(env=FAR_FROM_UTC)

    # Then the nightly job is run, for two o'clock in UTC
    eventually(
        lambda: [run.status for run in service.runs("probe_nightly")] == ["succeeded"],
        timeout_seconds=PATIENCE_SECONDS,
    )
    slots.add(NIGHTLY.slot_at(utc_now()))
    assert {run.slot for run in service.runs("probe_nightly")} <= slots

    # And a scheduler that starts again offers it again, and it is not done again
    scheduler.kill()
    service.start_scheduler(env=FAR_FROM_UTC)
    eventually(
        lambda: [
            line
            for line in log_lines(worker)
            if (line.get("job"), line.get("outcome")) == ("probe_nightly", "duplicate")
        ],
        timeout_seconds=PATIENCE_SECONDS,
    )
    assert service.ask("SELECT count(*) FROM probe_effects WHERE job = 'probe_nightly'") == 1


@pytest.mark.timeout(240)
def test_schedulers_survive_a_restart_of_the_broker_and_send_what_it_refused(
    service: Service,
) -> None:
    # Given a scheduler that is connected, and one that starts while the broker is away
    connected = service.start_scheduler()
    eventually(lambda: sent(service, "probe_nightly"), timeout_seconds=PATIENCE_SECONDS)
    service.rabbitmq.stop()
    late = service.start_scheduler()
    connected.wait_for_output("refused a slot", timeout_seconds=PATIENCE_SECONDS)
    late.wait_for_output("refused a slot of Actor(probe_nightly", timeout_seconds=PATIENCE_SECONDS)

    # When the broker is back
    service.rabbitmq.start()

    # Then the slot that it refused is sent to it
    eventually(
        lambda: len(sent(service, "probe_nightly")) == 2,
        timeout_seconds=PATIENCE_SECONDS,
        message="The refused slot was not sent",
    )

    # And the other scheduler goes on too
    late.kill()
    latest = max(sent(service, "probe_every_second"), default=utc_now())
    eventually(
        lambda: max(sent(service, "probe_every_second"), default=latest) > latest,
        timeout_seconds=PATIENCE_SECONDS,
        message="The scheduler sends no more",
    )
    assert connected.returncode is None


def sent(service: Service, job: str) -> list[datetime]:
    """Return for when messages of a job were sent."""
    if not service.rabbitmq.queue_counts("low").ready:
        return []
    messages = [json.loads(each.body) for each in service.rabbitmq.peek("low", limit=1000)]
    return [
        datetime.fromisoformat(message["options"]["scheduled_at"])
        for message in messages
        if message["actor_name"] == job
    ]
