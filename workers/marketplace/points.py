"""Points that expire: what is left of a lot when its time has come is taken from the balance.

Each ``earn`` row is a lot. Nothing says which lot a spent point came from, and so it is computed:
of all that a person ever spent, each lot, in the order in which they expire, takes as much as it
has. A lot has its amount, less what expired of it before, since that cannot have been spent.

    lots in order      30 ──────┤ 100 ────────────────────┤ 50 ──────────┤
    spent, together    60 ─────────────────┤
    what is left       0          70                        50
"""

import logging
from datetime import datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

from workers.batches import Batches, Counts
from workers.marketplace.locks import BEFORE_ALL_IDS, BEFORE_ALL_TIMES, lock_people, lock_rows

log = logging.getLogger(__name__)

LEDGER_ROWS_PER_LOT = 10
"""How many ledger rows a batch may read for each lot it may expire, on average."""

MAX_LOGGED_USERS = 20

# The people of the next due lots, and no more of them than have ledgers that can be read in one
# batch; but one person's ledger is never divided. OFFSET 0 has the planner read ledger by ledger,
# and stop at the limit.
NEXT_DUE = text("""
    SELECT id, user_id, CAST(expires_at AS text) AS expires_at
    FROM (
        SELECT lot.id, lot.user_id, lot.expires_at
        FROM (
            SELECT id, user_id, expires_at FROM points_transactions
            WHERE type = 'earn' AND NOT expired AND expires_at <= :now
              AND (expires_at, id) > (CAST(:after AS timestamptz), :after_id)
            ORDER BY expires_at, id
            LIMIT :batch_size
        ) AS lot
        CROSS JOIN LATERAL (
            SELECT 1 FROM points_transactions WHERE user_id = lot.user_id OFFSET 0
        ) AS entry
        ORDER BY lot.expires_at, lot.id
        LIMIT :ledger_rows
    ) AS entry
    GROUP BY id, user_id, entry.expires_at
    ORDER BY entry.expires_at, id
""")

ACCOUNTS = "SELECT user_id AS id FROM points_accounts WHERE user_id = ANY(:user_ids)"

DUE_LOTS = """
    SELECT id, user_id FROM points_transactions
    WHERE user_id = ANY(:user_ids) AND type = 'earn' AND NOT expired AND expires_at <= :now
"""

# Lots that expire later come later in the order, and so take no part. Window functions, and no
# joins of intermediate results: those are as slow as the planner's guess at their size is wrong.
EXPIRE = text("""
    WITH ledger AS (
        SELECT id, user_id, type, amount, expires_at, expired,
               sum(amount) FILTER (WHERE type = 'spend') OVER (PARTITION BY user_id) AS spent,
               sum(amount) FILTER (WHERE type = 'expire') OVER (
                   PARTITION BY user_id, CASE type WHEN 'earn' THEN id ELSE related_id END
               ) AS expired_before
        FROM points_transactions
        WHERE user_id = ANY(:user_ids) AND (type <> 'earn' OR expires_at <= :now)
    ), lot AS (
        SELECT id, user_id, expires_at, expired, coalesce(spent, 0) AS spent,
               greatest(amount - coalesce(expired_before, 0), 0) AS points
        FROM ledger
        WHERE type = 'earn'
    ), in_order AS (
        SELECT *, sum(points) OVER (PARTITION BY user_id ORDER BY expires_at, id) AS points_so_far
        FROM lot
    ), due AS (
        SELECT id, user_id, expires_at,
               greatest(least(points, points_so_far - spent), 0) AS points_left
        FROM in_order
        WHERE NOT expired
    ), judged AS MATERIALIZED (
        SELECT due.*, account.balance,
               sum(points_left) OVER (PARTITION BY user_id) AS points_due,
               sum(points_left) OVER (PARTITION BY user_id ORDER BY expires_at, id) AS points_gone
        FROM due
        JOIN points_accounts AS account USING (user_id)
    ), marked AS (
        UPDATE points_transactions AS lot SET expired = true
        FROM judged
        WHERE lot.id = judged.id AND points_due <= balance
    ), taken AS (
        UPDATE points_accounts AS account SET balance = account.balance - points_due
        FROM (SELECT DISTINCT user_id, points_due FROM judged
              WHERE points_due BETWEEN 1 AND balance) AS judged
        WHERE account.user_id = judged.user_id
    ), written AS (
        INSERT INTO points_transactions
            (user_id, type, amount, balance_after, source, related_id, created_at)
        SELECT user_id, 'expire', points_left, balance - points_gone, 'points_expire', id, :now
        FROM judged
        WHERE points_due <= balance AND points_left > 0
        ORDER BY user_id, expires_at, id
    )
    SELECT user_id, count(*) AS lots, sum(points_left) AS points,
           bool_and(points_due <= balance) AS adds_up
    FROM judged
    GROUP BY user_id
""")


def expire_points(session: Session, now: datetime, *, batch_size: int) -> Batches:
    """Expire the lots whose time has come, and take what is left of them from the balances.

    A person is left for the next run if somebody has locked their account, a due lot of theirs, or
    their row. A person whose ledger does not add up, without an account or with a balance smaller
    than what would be taken, is left alone, counted and logged.

    Returns:
        ``lots`` that became expired; ``points`` taken; ``users`` whose balance fell; ``mismatched``
        people.
    """
    place: dict[str, Any] = {"after": BEFORE_ALL_TIMES, "after_id": BEFORE_ALL_IDS}
    batch = {"batch_size": batch_size, "ledger_rows": batch_size * LEDGER_ROWS_PER_LOT}
    mismatched = set[int]()
    while lots := session.execute(NEXT_DUE, {"now": now, **batch, **place}).all():
        # Of those who were left alone, more lots may come up in a later batch.
        user_ids = {lot.user_id for lot in lots} - mismatched
        counts, not_adding_up = _expire(session, now, user_ids)
        mismatched |= not_adding_up
        yield counts
        place = {"after": lots[-1].expires_at, "after_id": lots[-1].id}
    if mismatched:
        log.warning(
            "Left the points of %d users alone because their ledgers do not add up, such as of %s",
            len(mismatched),
            sorted(mismatched)[:MAX_LOGGED_USERS],
        )
    # Only now: if a batch fails, the run begins anew, and meets them all again.
    return {"lots": 0, "points": 0, "users": 0, "mismatched": len(mismatched)}


def _expire(session: Session, now: datetime, user_ids: set[int]) -> tuple[Counts, set[int]]:
    """Return what was done, and the users whose ledgers do not add up."""
    # Before anything is read of the ledgers: what is spent from now on waits, what was spent until
    # now is seen.
    accounts, locked = lock_rows(session, ACCOUNTS, {"user_ids": list(user_ids)})
    without_account = user_ids - {account.id for account in accounts}
    free = user_ids - without_account - {account.id for account in locked}
    free &= lock_people(session, free)
    _, locked = lock_rows(session, DUE_LOTS, {"user_ids": list(free), "now": now})
    free -= {lot.user_id for lot in locked}

    users = session.execute(EXPIRE, {"user_ids": list(free), "now": now}).all()
    sound = [user for user in users if user.adds_up]
    counts = {
        "lots": sum(user.lots for user in sound),
        "points": sum(int(user.points) for user in sound),
        "users": sum(user.points > 0 for user in sound),
    }
    return counts, without_account | {user.user_id for user in users if not user.adds_up}
