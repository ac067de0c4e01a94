"""Trap 1: what is raised after an actor is logged and swallowed, and the message acknowledged.

A commit there that fails would lose the run. So the commit is part of the call, and its failure is
one of the job.
"""

from typing import Any

import dramatiq
from dramatiq.brokers.stub import StubBroker
from sqlalchemy import text

from tests.probes import Workshop
from workers.job import Run

pytest_plugins = ["tests.probe_fixtures"]


def test_the_trap_is_there() -> None:
    # Given dramatiq's own middleware, and one more that commits, in vain, after the actor
    class Commit(dramatiq.Middleware):
        commits = 0

        def after_process_message(self, *_: Any, **__: Any) -> None:
            self.commits += 1
            raise RuntimeError("the commit failed")

    commit = Commit()
    broker = StubBroker()
    broker.add_middleware(commit)
    job = dramatiq.actor(broker=broker, min_backoff=1, max_backoff=1)(lambda: None)

    # When a message is processed
    job.send()
    worker = dramatiq.Worker(broker, worker_threads=1, worker_timeout=10)
    worker.start()
    broker.join("default")
    worker.stop()

    # Then it is gone: no retry, no dead letter
    assert commit.commits == 1
    assert broker.dead_letters == []


def test_a_commit_that_fails_is_retried_and_finally_dead_lettered(workshop: Workshop) -> None:
    # Given a job whose every statement succeeds, and whose commit does not
    calls = []

    def job(run: Run) -> None:
        calls.append(run)
        run.session.execute(text("INSERT INTO probe_effects (job, message_id) VALUES ('', '')"))
        run.session.execute(text("INSERT INTO probe_orphans VALUES (-1)"))

    run = workshop.run_to_the_end(workshop.job(job, max_retries=2))
    workshop.join()

    # Then it has failed, as often as it may, and its message is kept
    assert len(calls) == 3
    assert (run.status, run.attempt) == ("dead", 3)
    assert run.error
    assert "probe_orphans_parent_id_fkey" in run.error
    assert workshop.dead_letters() == [run.message_id]
    assert workshop.effects() == 0
