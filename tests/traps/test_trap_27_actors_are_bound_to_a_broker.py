"""Trap 27: an actor is bound to the broker that is current where it is declared, before any command
can look whether that one can be reached.

So ``run`` and ``standby`` move the actors to the broker that they have chosen.
"""

import dramatiq
import pytest
from dramatiq.errors import ConnectionClosed

from workers.broker import InProcessBroker, build_broker, rebind
from workers.database import Database
from workers.embedded import choose_broker
from workers.job import Job, Run
from workers.middleware.transaction import is_wrapped
from workers.periodic import Entry, Ticker, daily
from workers.rabbitmq import Rabbitmq
from workers.settings import Settings

UNREACHABLE = Settings(rabbitmq_url="amqp://guest:guest@127.0.0.1:1")
SCHEDULE = (Entry("work", daily("02:00")),)


@pytest.fixture
def database() -> Database:
    """A database that nobody connects to."""
    return Database("postgresql+psycopg2://nobody@127.0.0.1:1/nothing")


@pytest.fixture
def rabbitmq(database: Database) -> Rabbitmq:
    broker = build_broker(UNREACHABLE, database, SCHEDULE)
    assert isinstance(broker, Rabbitmq)
    return broker


@pytest.fixture
def job(rabbitmq: Rabbitmq) -> Job:
    def work(run: Run) -> None: ...

    declared = dramatiq.actor(actor_class=Job, broker=rabbitmq)(work)
    assert isinstance(declared, Job)
    return declared


def test_the_trap_is_there(rabbitmq: Rabbitmq, job: Job, database: Database) -> None:
    # Given another broker, which is made the current one
    substitute = build_broker(UNREACHABLE, database, SCHEDULE, in_process=True)
    dramatiq.set_broker(substitute)

    # Then what is sent still goes to the first
    assert job.broker is rabbitmq
    assert "work" not in substitute.actors
    with pytest.raises(ConnectionClosed):
        job.send()


def test_actors_move_to_the_broker_that_is_fallen_back_to(
    rabbitmq: Rabbitmq, job: Job, database: Database
) -> None:
    chosen, why_not = choose_broker(UNREACHABLE, database, rabbitmq, SCHEDULE)

    assert isinstance(chosen, InProcessBroker)
    assert why_not
    assert why_not.startswith("RabbitMQ cannot be reached: ")
    assert job.broker is chosen is dramatiq.get_broker()
    assert chosen.actors == {"work": job}

    # And what is sent is there, for those who work in this process
    chosen.is_embedded = True
    message = job.send()
    assert dramatiq.Message.decode(chosen.queues["default"].get_nowait()) == message


def test_an_actor_that_moved_is_wrapped_once_and_keeps_its_schedule(
    rabbitmq: Rabbitmq, job: Job, database: Database
) -> None:
    for _ in range(3):
        rebind(
            rabbitmq.actors.values(),
            build_broker(UNREACHABLE, database, SCHEDULE, in_process=True),
        )

    assert is_wrapped(job.fn)
    assert not is_wrapped(job.fn.__wrapped__)  # type: ignore[attr-defined]
    ticker = job.options["periodic"]
    assert isinstance(ticker, Ticker)
    assert ticker.spec == daily("02:00")
