"""Compares the database with the account: nothing lost, nothing twice, no rule broken."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from chaos.account import ITEMS, Orders, Transactions, first_receptions
from tests.rig.postgres import query

if TYPE_CHECKING:
    from tests.relays import Received


class Finding(NamedTuple):
    """One line of the audit: how many things are not as they must be; 0 is well."""

    text: str
    wrong: int
    looked_at: int


BROKEN_RULES = {
    "agents over capacity": """
        SELECT count(*) FROM (
            SELECT agent_id FROM customer_service_chats AS chat
            JOIN customer_service_agents AS agent ON agent.id = agent_id
            WHERE ended_at IS NULL
            GROUP BY agent_id, max_concurrent_chats HAVING count(*) > max_concurrent_chats
        ) AS agent
    """,
    "people with two open chats": """
        SELECT count(*) FROM (
            SELECT user_id FROM customer_service_chats WHERE ended_at IS NULL
            GROUP BY user_id HAVING count(*) > 1
        ) AS person
    """,
    "negative balances": "SELECT count(*) FROM points_accounts WHERE balance < 0",
    "silences that were warned of twice": """
        SELECT count(*) FROM (
            SELECT key, created_at,
                   lag(created_at) OVER (PARTITION BY key ORDER BY id) AS warned_before
            FROM outbox_events WHERE type = 'customer_service.timeout_warning'
        ) AS warning
        WHERE warned_before IS NOT NULL AND NOT EXISTS (
            SELECT FROM customer_service_messages
            WHERE chat_id = CAST(key AS bigint) AND sender_type <> 'system'
              AND created_at > warned_before - interval '1 minute'
              AND created_at <= warning.created_at
        )
    """,
    "chats that were ended twice": """
        SELECT count(*) FROM (
            SELECT key FROM outbox_events WHERE type = 'customer_service.chat_ended'
            GROUP BY key HAVING count(*) > 1
        ) AS chat
    """,
    "entries assigned without one event each": """
        SELECT abs(
            (SELECT count(*) FROM customer_service_queue
             WHERE status = 'assigned' AND assigned_at >= :began_at)
            - (SELECT count(*) FROM outbox_events WHERE type = 'customer_service.chat_assigned')
        )
    """,
    "runs of one job that overlapped": """
        SELECT count(*) FROM (
            SELECT finished_at, lead(started_at) OVER (PARTITION BY job ORDER BY started_at) AS next
            FROM job_runs WHERE status = 'succeeded'
        ) AS run
        WHERE next < finished_at
    """,
    "runs of the chaos that are not settled": """
        SELECT count(*) FROM job_runs
        WHERE job LIKE 'chaos_%' AND status NOT IN ('succeeded', 'skipped')
    """,
}


@dataclass(frozen=True)
class Account:
    """What the chaos knows.

    Args:
        began_at: when the service began to work.
        orders: what was asked for by sending it.
        transactions: what was asked for by committing it.
        slots: how often each slot of ``chaos_tick`` was handed to RabbitMQ.
        slots_of_outages: those that fell due while only a standby could run them.
        events: what came to a queue that was bound for them.
    """

    began_at: datetime
    orders: Orders
    transactions: Transactions
    slots: Counter[datetime]
    slots_of_outages: set[datetime]
    events: Sequence["Received"]


def audit(url: str, account: Account) -> Iterator[Finding]:
    """Look at everything once the service has finished."""
    yield from _audit_orders(url, account)
    yield from _audit_slots(url, account)
    yield from _audit_batches(url)
    yield from _audit_events(account)
    for text, question in BROKEN_RULES.items():
        parameters = {"began_at": account.began_at} if ":began_at" in question else {}
        yield Finding(text, query(url, question, **parameters)[0][0], 0)


def _audit_orders(url: str, account: Account) -> Iterator[Finding]:
    sent, written = account.orders, account.transactions
    effects = effects_of(url, "chaos_order")
    lost = [key for key in sent.confirmed if not effects[key]]
    lost_with_transaction = [key for key in written.committed if not effects[key]]
    never = [key for key in written.rolled_back if effects[key]]
    double = [key for key, count in effects.items() if count > 1]
    known = sent.confirmed | sent.unknown | written.committed | written.unknown
    foreign = effects.keys() - known
    yield Finding("orders lost", len(lost), len(sent.confirmed))
    yield Finding("orders of the outbox lost", len(lost_with_transaction), len(written.committed))
    yield Finding("orders done though rolled back", len(never), len(written.rolled_back))
    yield Finding("orders done twice", len(double), len(effects))
    yield Finding("effects that nobody ordered", len(foreign), len(effects))


def _audit_events(account: Account) -> Iterator[Finding]:
    written = account.transactions
    received = {event.payload["order"] for event in account.events}
    lanes = first_receptions(account.events)
    disorder = [pair for lane in lanes.values() for pair in pairwise(lane) if pair[0] > pair[1]]
    yield Finding("events lost", len(written.committed - received), len(written.committed))
    yield Finding(
        "events of what was rolled back", len(written.rolled_back & received), len(received)
    )
    yield Finding("events that overtook one of their key", len(disorder), len(received))


def _audit_slots(url: str, account: Account) -> Iterator[Finding]:
    effects = effects_of(url, "chaos_tick")
    runs = query(url, "SELECT slot, run_key, status FROM job_runs WHERE job = 'chaos_tick'")
    settled = {run.slot for run in runs}
    expected = {run.run_key: int(run.status == "succeeded") for run in runs}
    wrong = [key for key, count in expected.items() if effects[key] != count]
    foreign = effects.keys() - expected.keys()
    slots, slots_of_outages = account.slots, account.slots_of_outages
    yield Finding("slots missing", len(slots.keys() - settled), len(slots))
    yield Finding(
        "slots missing though a standby was there",
        len(slots_of_outages - settled),
        len(slots_of_outages),
    )
    yield Finding("slots without exactly one effect", len(wrong) + len(foreign), len(expected))


def _audit_batches(url: str) -> Iterator[Finding]:
    effects = effects_of(url, "chaos_batches")
    runs = query(
        url,
        "SELECT run_key FROM job_runs WHERE job = 'chaos_batches' AND status = 'succeeded'",
    )
    expected = {f"{run.run_key} {item}" for run in runs for item in range(1, ITEMS + 1)}
    lost = expected - effects.keys()
    double = [key for key, count in effects.items() if count > 1]
    yield Finding("items of batches lost", len(lost), len(expected))
    yield Finding("items of batches done twice", len(double), len(effects))


def effects_of(url: str, job: str) -> Counter[str]:
    """Count the committed effects of a job of the chaos, by key."""
    rows = query(url, "SELECT key FROM chaos_effects WHERE job = :job", job=job)
    return Counter(row.key for row in rows)
