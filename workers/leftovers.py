"""What in-process brokers left unfinished: sent again, within this process or to RabbitMQ.

Their messages are in the memory of one process, and are gone with it. But each run that had begun
is in the ledger, and a message without arguments can be made anew from there. Doing so once too
often is harmless: the claim decides.
"""

from datetime import timedelta
from typing import Any

import dramatiq

from workers import outbox, runs
from workers.database import Database
from workers.job import DEFAULT_RETRY_DELAY_SECONDS
from workers.models import JobRun
from workers.periodic import EPOCH, utc_now


def resume(broker: dramatiq.Broker, database: Database) -> int:
    """Send again, to the in-process broker of this process, what an earlier one left unfinished.

    A retry keeps its time. Runs that another process has in hand are not disturbed.

    Returns:
        the number of runs.
    """
    with database.transaction() as session:
        found = [run for run in runs.unfinished_in_process(session) if run.job in broker.actors]
    for run in found:
        broker.enqueue(_message_of(run, broker.actors[run.job]))
    return len(found)


def give_back(broker: dramatiq.Broker, database: Database) -> int:
    """Leave what in-process brokers left unfinished to RabbitMQ, by way of the outbox.

    In one transaction the runs become RabbitMQ's and their messages are written down for the relay:
    whoever dies when, there is a message, and only one. Runs that are being executed are left out;
    should they fail, a later call finds them.

    Returns:
        the number of runs.
    """
    with database.transaction() as session:
        found = [
            run
            for run in runs.unfinished_in_process(session, but_not_in_hand=True)
            if run.job in broker.actors
        ]
        outbox.enqueue_many(session, [_message_of(run, broker.actors[run.job]) for run in found])
        for run in found:
            run.broker = "rabbitmq"
    return len(found)


def _message_of(run: JobRun, actor: dramatiq.Actor[Any, Any]) -> dramatiq.Message[Any]:
    options: dict[str, Any] = {}
    if run.slot is not None:
        options["scheduled_at"] = run.slot.isoformat()
    # One that an operator sent again has not failed since, and waits for nothing.
    has_failed = run.status == "retrying" and run.attempt > run.budget_from
    if has_failed and run.finished_at is not None:
        delay_seconds = actor.options.get("retry_delay_seconds", DEFAULT_RETRY_DELAY_SECONDS)
        due = run.finished_at + timedelta(seconds=delay_seconds)
        if due > utc_now():
            options["eta"] = (due - EPOCH) // timedelta(milliseconds=1)
    message: dramatiq.Message[Any] = actor.message_with_options(**options)
    return message.copy(message_id=run.message_id)
