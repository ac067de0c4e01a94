"""Trap 21: after a reconnect, dramatiq acknowledges what was in flight on the new channel, by the
old number: another message, which runs there under this number, is acknowledged away, and is lost
if its worker is then killed.

So each message is acknowledged through the consumer that it came from, or not at all.
"""

from tests.probes import PATIENCE_SECONDS, Service, log_lines
from tests.rig.waiting import eventually

pytest_plugins = ["tests.probe_fixtures"]


def test_a_running_message_is_not_acknowledged_in_the_place_of_another(service: Service) -> None:
    # Given a message that runs as the second of its channel
    service.do("INSERT INTO probe_rows VALUES (1)")
    worker = service.start_worker(threads=4)
    service.wait_for_run(service.send("probe_effect"), "succeeded")
    old = service.send("probe_gated", gate="old")
    worker.wait_for_output("at the gate", timeout_seconds=PATIENCE_SECONDS)

    # When its connection breaks, and it is delivered again, as the first of a new channel
    service.rabbitmq.ctl("close_all_connections", "test")
    eventually(
        lambda: any(
            line.get("outcome") == "postponed" and line["message_id"] == old
            for line in log_lines(worker)
        ),
        timeout_seconds=PATIENCE_SECONDS,
        message="It was not delivered again",
    )

    # And the second of the new channel runs while the old one ends
    new = service.send("probe_batches", gated_row=1)
    worker.wait_for_output("at the gate", count=2, timeout_seconds=PATIENCE_SECONDS)
    service.open_gate("old")
    service.wait_for_run(old, "succeeded")
    worker.wait_for_output("Left a message to its next delivery", timeout_seconds=PATIENCE_SECONDS)

    # Then a kill does not lose it
    worker.kill()
    eventually(
        lambda: any(new.encode() in each.body for each in service.rabbitmq.peek("default")),
        timeout_seconds=PATIENCE_SECONDS,
        message="The new message is lost",
    )
    service.open_gate("batches")
    service.start_worker()
    assert service.wait_for_run(new, "succeeded").attempt == 2
    assert service.run(old).attempt == 1
    assert service.effects(old) == 2
