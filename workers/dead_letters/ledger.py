"""Dead letters of the in-process broker: the ledger's dead runs, since it keeps no messages."""

from collections.abc import Collection, Generator, Iterator, Sequence
from typing import Any

import dramatiq

from workers import dead_runs, outbox
from workers.database import Database
from workers.dead_letters.letters import Letter
from workers.models import JobRun
from workers.settings import ConfigurationError

NOTHING_TO_DROP = (
    "RABBITMQ_URL: is not set, and the in-process broker keeps no dead letters; the rows of dead "
    "runs stay in the ledger, so there is nothing to drop"
)


class DeadRuns:
    """The ledger as a cabinet of dead letters.

    Args:
        database: where the ledger is.
        jobs: those that exist, so that something can be sent to them.
    """

    def __init__(self, database: Database, jobs: Collection[str]) -> None:
        self._database = database
        self._jobs = jobs

    def count(self, queues: Sequence[str]) -> int:
        return sum(1 for _ in self._runs(queues, None))

    def look(self, queues: Sequence[str], letter_id: str | None = None) -> Generator[Letter]:
        return (_letter(run) for run in self._runs(queues, letter_id))

    def requeue(self, queues: Sequence[str], letter_id: str | None = None) -> Generator[str]:
        """Mark runs, and send their messages through the outbox.

        So a ``python -m workers run`` that lives takes them up at once, wherever this is called;
        and the next one does, if none lives.
        """
        for run in self._runs(queues, letter_id):
            with self._database.transaction() as session:
                dead_runs.renew_within(session, message_id=run.message_id, run_key=run.run_key)
                if run.job in self._jobs:
                    sent = outbox.find_body(session, run.message_id)
                    outbox.enqueue_many(session, [_message(run, sent)])
            yield run.message_id

    def drop(
        self,
        queues: Sequence[str],  # noqa: ARG002 - as in the other cabinet
        letter_id: str | None = None,  # noqa: ARG002
    ) -> Generator[str]:
        """Refuse to.

        Raises:
            ConfigurationError: always.
        """
        raise ConfigurationError(NOTHING_TO_DROP)

    def _runs(self, queues: Sequence[str], letter_id: str | None) -> Iterator[JobRun]:
        last_id = 0
        while page := dead_runs.list_dead(self._database, "in-process", after_id=last_id):
            for run in page:
                if run.queue in queues and letter_id in (None, run.message_id):
                    yield run
            last_id = page[-1].id


def _message(run: JobRun, sent: str | None) -> dramatiq.Message[Any]:
    """Make the message of a run anew, with the arguments with which it was `sent`.

    If it was not sent through the outbox, or long ago, they are gone, and it has none.
    """
    original = None if sent is None else dramatiq.Message[Any].decode(sent.encode())
    return dramatiq.Message(
        queue_name=run.queue,
        actor_name=run.job,
        args=original.args if original else (),
        kwargs=original.kwargs if original else {},
        options={} if run.slot is None else {"scheduled_at": run.slot.isoformat()},
        message_id=run.message_id,
    )


def _letter(run: JobRun) -> Letter:
    return Letter(
        id=run.message_id,
        queue=run.queue,
        job=run.job,
        slot=run.slot,
        run_key=run.run_key,
        status=run.status,
        attempt=run.attempt,
        error=run.error or "",
        dead_since=run.finished_at,
        expires_at=None,
    )
