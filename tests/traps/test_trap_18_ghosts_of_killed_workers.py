"""Trap 18: the backend of a killed worker goes on waiting for a lock, and holds the claim of its
run, until its statement returns.

So the server looks every two seconds whether anybody is still there.
"""

import signal

import psycopg2
from sqlalchemy import make_url

from tests.probes import PATIENCE_SECONDS, Service
from tests.rig.waiting import eventually

pytest_plugins = ["tests.probe_fixtures"]

WAITING = """
    SELECT count(*) FROM pg_stat_activity
    WHERE application_name = :name AND query = 'LOCK TABLE probe_rows' AND state = 'active'
    """

STOCK = """
import sys, psycopg2
connection = psycopg2.connect(sys.argv[1], application_name="stock")
connection.cursor().execute("LOCK TABLE probe_rows")
"""


def test_a_killed_worker_leaves_its_claim_though_its_statement_waits(
    service: Service, database_url: str
) -> None:
    # Given a table that is locked, a run that waits for it, and a program that does so too
    dsn = make_url(database_url).set(drivername="postgresql").render_as_string(hide_password=False)
    blocker = psycopg2.connect(dsn)
    blocker.cursor().execute("LOCK TABLE probe_rows")
    worker = service.start_worker()
    key = service.send("probe_waits_for_a_lock")
    stock = service.processes.start("python", "-c", STOCK, dsn)
    for name in ("workers", "stock"):
        eventually(
            lambda name=name: service.ask(WAITING, name=name) == 1,  # type: ignore[misc]
            timeout_seconds=PATIENCE_SECONDS,
        )

    # When both are killed
    stock.kill()
    worker.send_signal_to_group(signal.SIGKILL)

    # Then the run's backend goes, though the table is still locked; the trap is that others stay
    eventually(lambda: service.ask(WAITING, name="workers") == 0, timeout_seconds=PATIENCE_SECONDS)
    assert service.ask(WAITING, name="stock") == 1

    # And another worker can begin the run anew
    another = service.start_worker()
    another.wait_for_output("working", timeout_seconds=PATIENCE_SECONDS)
    assert service.run(key).attempt == 2
    blocker.close()
    assert service.wait_for_run(key).status == "succeeded"
    assert service.effects(key) == 1
