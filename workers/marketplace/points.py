"""Points that expire: what is left of a lot when its time has come is taken from the balance.

Each ``earn`` row is a lot. Nothing says which lot a spent point came from, and so it is computed:
of all that a person ever spent, each lot, in the order in which they expire, takes as much as it
has. A lot has its amount, less what expired of it before, since that cannot have been spent.

    lots in order      30 ──────┤ 100 ────────────────────┤ 50 ──────────┤
    spent, together    60 ─────────────────┤
    what is left       0          70                        50
"""

import logging
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.orm import Session

from workers.batches import Batches
from workers.marketplace.batching import (
    BATCHES_AHEAD,
    BEFORE_ALL_IDS,
    BEFORE_ALL_TIMES,
    Pace,
    as_text,
    join_by_hash,
)

log = logging.getLogger(__name__)

ENTRIES_PER_LOT = 10
"""How many entries of the ledger a batch may read for each lot it may expire, on average."""

ALL_ENTRIES = 2**62
"""More than there can be."""

MAX_LOGGED_USERS = 20

# The people of the next due lots, some batches ahead. Those who earned together come together,
# since what lies together on disk is then changed together.
FIND_DUE = text("""
    WITH due AS MATERIALIZED (
        SELECT id, user_id, expires_at FROM points_transactions
        WHERE type = 'earn' AND NOT expired AND expires_at <= :now
          AND (expires_at, id) > (CAST(:after AS timestamptz), :after_id)
        ORDER BY expires_at, id
        LIMIT :limit
    )
    SELECT ARRAY(SELECT user_id FROM due GROUP BY user_id ORDER BY min(id)) AS user_ids,
           CAST(last.expires_at AS text) AS after, last.id AS after_id
    FROM (SELECT expires_at, id FROM due ORDER BY expires_at DESC, id DESC LIMIT 1) AS last
""")

# In a statement of its own, before anything is read of the ledgers: what is spent from now on
# waits, what was spent until now is seen.
LOCK_ACCOUNTS = text("""
    WITH locked AS MATERIALIZED (
        SELECT account.user_id, account.balance
        FROM points_accounts AS account
        JOIN users AS person ON person.id = account.user_id
        WHERE account.user_id = ANY(CAST(:user_ids AS bigint[]))
          AND person.id = ANY(CAST(:user_ids AS bigint[]))
        FOR UPDATE OF account SKIP LOCKED
        FOR KEY SHARE OF person SKIP LOCKED
    ), others AS MATERIALIZED (
        SELECT unnest(CAST(:user_ids AS bigint[])) AS user_id
        EXCEPT
        SELECT user_id FROM locked
    )
    SELECT CAST(ARRAY(SELECT user_id FROM locked) AS text) AS user_ids,
           CAST(ARRAY(SELECT balance FROM locked) AS text) AS balances,
           ARRAY(SELECT user_id FROM others
                 EXCEPT
                 SELECT user_id FROM points_accounts
                 WHERE user_id = ANY(ARRAY(SELECT user_id FROM others))) AS without_account
""")

# Lots that expire later come later in the order, and so take no part. If there is more to read than
# a batch may, no more is read than shows it, and nothing is done.
#
# Of a person with a due lot that cannot be locked, or is not as it was read, somebody is just
# changing it: all their lots are left for the next run.
EXPIRE = text("""
    WITH entry AS MATERIALIZED (
        SELECT id, user_id, type, amount, related_id, expires_at, expired, ctid AS version
        FROM points_transactions
        WHERE user_id = ANY(CAST(:user_ids AS bigint[])) AND (type <> 'earn' OR expires_at <= :now)
        LIMIT CAST(:most_entries AS bigint) + 1
    ), counted AS MATERIALIZED (
        SELECT greatest(count(*), :entries_per_lot * count(*)
                                  FILTER (WHERE type = 'earn' AND NOT expired)) AS entries
        FROM entry
    ), spent AS (
        SELECT user_id, sum(amount) AS points FROM entry WHERE type = 'spend' GROUP BY user_id
    ), expired_before AS (
        SELECT user_id, related_id AS id, sum(amount) AS points
        FROM entry
        WHERE type = 'expire'
        GROUP BY user_id, related_id
    ), lot AS (
        SELECT id, user_id, expires_at, expired, version, coalesce(spent.points, 0) AS spent,
               greatest(amount - coalesce(expired_before.points, 0), 0) AS points
        FROM entry
        LEFT JOIN spent USING (user_id)
        LEFT JOIN expired_before USING (user_id, id)
        WHERE type = 'earn'
    ), in_order AS (
        SELECT *, sum(points) OVER (PARTITION BY user_id ORDER BY expires_at, id) AS points_so_far
        FROM lot
    ), due AS MATERIALIZED (
        SELECT id, user_id, expires_at, version,
               greatest(least(points, points_so_far - spent), 0) AS points_left
        FROM in_order
        WHERE NOT expired
    ), locked AS MATERIALIZED (
        SELECT ctid AS version FROM points_transactions
        WHERE ctid = ANY(ARRAY(SELECT version FROM due))
        FOR UPDATE SKIP LOCKED
    ), account AS (
        SELECT user_id, balance
        FROM unnest(CAST(:user_ids AS bigint[]), CAST(:balances AS bigint[]))
             AS account (user_id, balance)
    ), person AS (
        SELECT user_id, balance, count(*) AS lots, sum(points_left) AS points,
               bool_and(locked.version IS NOT NULL) AS is_free
        FROM due
        JOIN account USING (user_id)
        LEFT JOIN locked USING (version)
        GROUP BY user_id, balance
    ), judged AS MATERIALIZED (
        SELECT user_id, balance, lots, points, points <= balance AS adds_up
        FROM person
        WHERE is_free AND (SELECT entries FROM counted) <= :most_entries
    ), sound AS MATERIALIZED (
        SELECT due.id, due.version, due.user_id, due.expires_at, due.points_left,
               judged.balance
        FROM due
        JOIN judged USING (user_id)
        WHERE judged.adds_up
    ), marked AS (
        UPDATE points_transactions SET expired = true
        WHERE ctid = ANY(ARRAY(SELECT version FROM sound))
    ), taken AS (
        UPDATE points_accounts AS account SET balance = account.balance - judged.points
        FROM judged
        WHERE account.user_id = ANY(CAST(:user_ids AS bigint[]))
          AND account.user_id = judged.user_id AND judged.adds_up AND judged.points > 0
    ), written AS (
        INSERT INTO points_transactions
            (user_id, type, amount, balance_after, source, related_id, created_at)
        SELECT user_id, 'expire', points_left,
               balance - sum(points_left) OVER (PARTITION BY user_id ORDER BY expires_at, id),
               'points_expire', id, :now
        FROM sound
        WHERE points_left > 0
        ORDER BY user_id, expires_at, id
    )
    SELECT coalesce(sum(lots) FILTER (WHERE adds_up), 0) AS lots,
           coalesce(sum(points) FILTER (WHERE adds_up), 0) AS points,
           count(*) FILTER (WHERE adds_up AND points > 0) AS users,
           coalesce(array_agg(user_id) FILTER (WHERE NOT adds_up), '{}') AS not_adding_up,
           (SELECT entries FROM counted) AS entries
    FROM judged
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
    ahead = {"now": now, "limit": batch_size * BATCHES_AHEAD}
    pace = Pace(most_things=batch_size, most_rows=batch_size * ENTRIES_PER_LOT)
    mismatched = set[int]()
    while found := session.execute(FIND_DUE, {**ahead, **place}).one_or_none():
        # In a transaction of its own: the first of them are not locked for as long as it takes.
        yield {"lots": 0, "points": 0, "users": 0}
        # Of those who are left alone, more lots may come up later: they are not looked at again.
        user_ids = [user_id for user_id in found.user_ids if user_id not in mismatched]
        while user_ids:
            some = user_ids[: pace.things]
            # A single person's ledger is read however long it is.
            most_entries = pace.most_rows if len(some) > 1 else ALL_ENTRIES
            done, odd = _expire(session, now, some, most_entries)
            yield {"lots": int(done.lots), "points": int(done.points), "users": done.users}
            mismatched |= odd
            pace.follow(len(some), done.entries)
            if done.entries <= most_entries:
                user_ids = user_ids[len(some) :]
        place = {"after": found.after, "after_id": found.after_id}
    if mismatched:
        log.warning(
            "Left the points of %d users alone because their ledgers do not add up, such as of %s",
            len(mismatched),
            sorted(mismatched)[:MAX_LOGGED_USERS],
        )
    # Only now: if a batch fails, the run begins anew, and meets them all again.
    return {"lots": 0, "points": 0, "users": 0, "mismatched": len(mismatched)}


def _expire(
    session: Session, now: datetime, user_ids: Sequence[int], most_entries: int
) -> tuple[Row[Any], set[int]]:
    """Return what was done, and the users whose ledgers do not add up."""
    join_by_hash(session)
    locked = session.execute(LOCK_ACCOUNTS, {"user_ids": as_text(user_ids)}).one()
    accounts = {"user_ids": locked.user_ids, "balances": locked.balances}
    bounds = {"most_entries": most_entries, "entries_per_lot": ENTRIES_PER_LOT}
    done = session.execute(EXPIRE, {"now": now, **accounts, **bounds}).one()
    return done, {*locked.without_account, *done.not_adding_up}
