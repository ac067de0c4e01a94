"""``python -m chaos``: a marketplace, faults, and an audit. Exit code 1 if anything is wrong."""

import os
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import click

from chaos.account import TICK_SECONDS, Orders, Transactions, slots_between, slots_handed_over
from chaos.audit import Account, audit, effects_of
from chaos.faults import FAULTS, QUEUES, STANDBY_AFTER_SECONDS, Fault, Scene
from chaos.fleet import Fleet
from tests.rig.environment import forget_settings
from tests.rig.postgres import Postgres, open_postgres, query
from tests.rig.rabbitmq import PrivateRabbitMQ
from tests.rig.waiting import eventually

PEOPLE = 5000
EVENTS_QUEUE = "chaos-events"
SETTLE_SECONDS = 180


@click.command()
@click.option("--faults", default=110, show_default=True, help="How many.")
@click.option("--seconds", default=540.0, show_default=True, help="Spread over how long.")
@click.option("--seed", type=int, help="Repeat the choices of an earlier run.")
@click.option(
    "--first",
    type=click.Choice([fault.__name__ for fault in FAULTS]),
    multiple=True,
    help="Begin with this one; the others are drawn.",
)
def main(faults: int, seconds: float, seed: int | None, first: tuple[str, ...]) -> None:
    """Torment a live service, then look whether it kept its promises."""
    seed = random.SystemRandom().randrange(2**32) if seed is None else seed
    click.echo(f"Seed {seed}: {faults} faults in {seconds:.0f} s")
    forget_settings()
    with _servers() as (postgres, rabbitmq), tempfile.TemporaryDirectory() as folder:
        url = _prepare(postgres, rabbitmq)
        fleet = Fleet(Path(folder), {**_service_settings(url, rabbitmq.url)})
        scene = Scene(fleet, rabbitmq, postgres, url, random.Random(seed), threading.Event())
        try:
            is_well = _run(scene, _draw(scene.random, faults, first), seconds)
        finally:
            fleet.stop()
    sys.exit(0 if is_well else 1)


@contextmanager
def _servers() -> Iterator[tuple[Postgres, PrivateRabbitMQ]]:
    rabbitmq = PrivateRabbitMQ()
    rabbitmq.launch()
    postgres = open_postgres(None)
    try:
        rabbitmq.start()
        yield postgres, rabbitmq
    finally:
        postgres.close()
        rabbitmq.close()


def _service_settings(database_url: str, rabbitmq_url: str) -> dict[str, str]:
    return {
        "DATABASE_URL": database_url,
        "RABBITMQ_URL": rabbitmq_url,
        "LOG_FORMAT": "json",
        # So that chats are warned and ended within the run.
        "CHAT_WARNING_SECONDS": "10",
        "CHAT_TIMEOUT_SECONDS": "20",
        "SHUTDOWN_GRACE_SECONDS": "10",
        "STANDBY_AFTER_SECONDS": str(STANDBY_AFTER_SECONDS),
    }


def _prepare(postgres: Postgres, rabbitmq: PrivateRabbitMQ) -> str:
    """Make a filled database, and this process a part of the service, which sends orders."""
    os.environ["RABBITMQ_URL"] = rabbitmq.url
    url = postgres.create_database()
    from chaos import jobs  # noqa: PLC0415 - the settings must be there first
    from workers import logs, sample_data  # noqa: PLC0415 - as above
    from workers.database import Database  # noqa: PLC0415 - as above
    from workers.periodic import utc_now  # noqa: PLC0415 - as above

    logs.configure("console", "CRITICAL")
    for statement in jobs.TABLES.split(";"):
        query(url, statement)
    database = Database(url)
    with database.transaction() as session:
        sample_data.fill(session, utc_now())
    database.close()
    return url


def _run(scene: Scene, faults: list[Fault], seconds: float) -> bool:
    began_at = query(scene.database_url, "SELECT now()")[0][0]
    from tests.relays import Subscriber  # noqa: PLC0415 - the settings must be there first

    subscriber = Subscriber(scene.rabbitmq, EVENTS_QUEUE)
    subscriber.bind("chaos.#")
    scene.fleet.start()
    orders, transactions = Orders(), Transactions()
    writing = (scene.stop, scene.database_url)
    background = [
        threading.Thread(target=orders.place_until, args=(scene.stop,), name="orders"),
        threading.Thread(target=transactions.write_until, args=writing, name="transactions"),
        threading.Thread(target=_keep_busy, args=(scene,), name="people"),
    ]
    for thread in background:
        thread.start()
    try:
        done = _torment(scene, faults, seconds)
    finally:
        scene.stop.set()
        for thread in background:
            thread.join()
    if not (orders.confirmed and transactions.committed):
        raise click.ClickException("nothing was ordered, so nothing can be audited")
    click.echo("Faults are over; waiting for the service to finish.")
    _settle(scene, orders.confirmed | transactions.committed)
    _tell_what_was_done(scene, done)
    return _report(
        scene,
        Account(
            began_at,
            orders,
            transactions,
            slots_handed_over(scene.fleet.outputs("scheduler"), "chaos_tick", TICK_SECONDS),
            {
                slot
                for begin, end in scene.outages
                for slot in slots_between(begin, end, TICK_SECONDS)
            },
            subscriber.take(),
        ),
    )


def _keep_busy(scene: Scene) -> None:
    from workers.database import Database  # noqa: PLC0415 - the settings must be there first
    from workers.simulate import simulate  # noqa: PLC0415 - as above

    database = Database(scene.database_url)
    simulate(database, seconds=None, people=PEOPLE, stop=scene.stop, on_event=lambda _line: None)
    database.close()


def _draw(chance: random.Random, count: int, first: tuple[str, ...]) -> list[Fault]:
    by_name = {fault.__name__: fault for fault in FAULTS}
    chosen = [by_name[name] for name in first]
    drawn = chance.choices(list(FAULTS), list(FAULTS.values()), k=max(0, count - len(chosen)))
    return chosen + drawn


def _torment(scene: Scene, faults: list[Fault], seconds: float) -> Counter[str]:
    began = time.monotonic()
    for number, fault in enumerate(faults, 1):
        due = began + seconds * number / len(faults)
        # The faults are spread over the time; nothing is waited for.
        time.sleep(max(0.0, due - time.monotonic()))
        click.echo(f"{time.monotonic() - began:6.1f} s  {number:3}/{len(faults)}  {fault.__name__}")
        fault(scene)
    return Counter(fault.__name__ for fault in faults)


def _settle(scene: Scene, ordered: set[str]) -> None:
    """No new slots; then wait until every run of the chaos has ended and its queues are empty."""
    scene.fleet.retire("scheduler")
    # A message that waits in the memory of a worker for its time is on no queue to be counted.
    with suppress(AssertionError):  # what is lost, the audit tells
        eventually(
            lambda: ordered <= effects_of(scene.database_url, "chaos_order").keys(),
            timeout_seconds=SETTLE_SECONDS,
        )

    def is_settled() -> bool:
        unsettled = query(
            scene.database_url,
            "SELECT count(*) FROM job_runs "
            "WHERE job LIKE 'chaos_%' AND status IN ('running', 'retrying')",
        )[0][0]
        unpublished = query(
            scene.database_url,
            "SELECT (SELECT count(*) FROM outbox_messages WHERE published_at IS NULL)"
            " + (SELECT count(*) FROM outbox_events WHERE published_at IS NULL)",
        )[0][0]
        ready = sum(scene.rabbitmq.queue_counts(queue).ready for queue in QUEUES)
        return not unsettled and not unpublished and not ready

    for _ in range(3):  # a message may be on its way between two queues
        eventually(is_settled, timeout_seconds=SETTLE_SECONDS, message="The service hangs")
        time.sleep(3)


def _tell_what_was_done(scene: Scene, done: Counter[str]) -> None:
    click.echo(f"\nSurvived {done.total()} faults, {scene.fleet.restarts} restarts:")
    for name, count in done.most_common():
        click.echo(f"  {count:4} {name}")
    taken_over = sum(log.count("takes over") for log in scene.fleet.outputs("standby"))
    click.echo(f"Standbys took over {taken_over} times.")


def _report(scene: Scene, account: Account) -> bool:
    click.echo("\nThe account, wrong of looked at:")
    findings = list(audit(scene.database_url, account))
    for finding in findings:
        mark = click.style("ok  ", "green") if not finding.wrong else click.style("FAIL", "red")
        of = f" of {finding.looked_at}" if finding.looked_at else ""
        click.echo(f"  {mark} {finding.wrong}{of}  {finding.text}")
    return not any(finding.wrong for finding in findings)


if __name__ == "__main__":
    main()
