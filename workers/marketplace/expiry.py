"""Coupons and invitation codes: what is past its time no longer counts."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import TextClause, text
from sqlalchemy.orm import Session

from workers.batches import Batches
from workers.marketplace.batching import BEFORE_ALL_IDS, BEFORE_ALL_TIMES

BATCHES_AHEAD = 20
"""How many batches are looked for at once. The more, the closer together lie the rows of each; and
here, unlike elsewhere, nothing but a row has to be looked at for each."""

# Some batches ahead, and in the order of the ids: what lies together on disk is then changed
# together.
FIND = """
    WITH overdue AS MATERIALIZED (
        SELECT id, valid_until FROM {table}
        WHERE {live} AND valid_until < :now
          AND (valid_until, id) > (CAST(:after AS timestamptz), :after_id)
        ORDER BY valid_until, id
        LIMIT :batch_size * :batches_ahead
    ), found AS MATERIALIZED (
        SELECT array_agg(id ORDER BY id) AS ids, max(valid_until) AS valid_until FROM overdue
    )
    SELECT ARRAY(
               SELECT CAST(ids[first : first + :batch_size - 1] AS text)
               FROM generate_series(1, cardinality(ids), :batch_size) AS first
           ) AS batches,
           CAST(valid_until AS text) AS after,
           (SELECT max(id) FROM overdue WHERE overdue.valid_until = found.valid_until) AS after_id
    FROM found
    WHERE ids IS NOT NULL
"""

# NO KEY, because nobody who refers to a coupon needs to wait: a coupon that is being handed out
# all the time would otherwise be skipped all the time.
EXPIRE = """
    WITH changed AS (
        UPDATE {table} SET {change}
        WHERE id = ANY (ARRAY(
            SELECT id FROM {table}
            WHERE id = ANY(CAST(:ids AS bigint[])) AND {live} AND valid_until < :now
            FOR NO KEY UPDATE SKIP LOCKED
        ))
        RETURNING 1
    )
    SELECT count(*) FROM changed
"""
COUPONS = {"table": "coupons", "live": "status = 'active'", "change": "status = 'expired'"}
CODES = {"table": "invitation_codes", "live": "is_active", "change": "is_active = false"}
FIND_COUPONS, EXPIRE_COUPONS = text(FIND.format(**COUPONS)), text(EXPIRE.format(**COUPONS))
FIND_CODES, EXPIRE_CODES = text(FIND.format(**CODES)), text(EXPIRE.format(**CODES))

# From some coupons of which somebody holds an unused one to the next, by a probe of the index each:
# what was used or has expired costs nothing, nor do the many people who hold the same. A step
# counter, since the plan, and not LIMIT, decides how far a recursion goes.
NEXT_HELD = text("""
    WITH RECURSIVE held (coupon_ids, step) AS (
        SELECT ARRAY[CAST(:after AS bigint)], 0
        UNION ALL
        SELECT ARRAY(SELECT coupon_id FROM user_coupons
                     WHERE status = 'unused'
                       AND coupon_id > held.coupon_ids[cardinality(held.coupon_ids)]
                     ORDER BY coupon_id
                     LIMIT :at_once), step + 1
        FROM held
        WHERE held.coupon_ids <> '{}' AND step * :at_once < :batch_size
    ), found AS MATERIALIZED (
        SELECT DISTINCT unnest(coupon_ids) AS id FROM held WHERE step > 0
    )
    SELECT CAST(array_agg(coupon.id) FILTER (WHERE coupon.valid_until < :now) AS text) AS overdue,
           max(coupon.id) AS last_id
    FROM coupons AS coupon
    WHERE coupon.id = ANY(ARRAY(SELECT id FROM found))
""")
HELD_AT_ONCE = 20
"""How many entries of the index one probe reads: of twenty coupons, or twenty people's of one."""

# The coupon is looked at again, since it may have been prolonged after it was found. No order:
# there are no better and worse ones, and it would have all of them read for each batch.
EXPIRE_HELD = text("""
    WITH changed AS (
        UPDATE user_coupons SET status = 'expired'
        WHERE id = ANY (ARRAY(
            SELECT held.id
            FROM user_coupons AS held
            JOIN coupons AS coupon ON coupon.id = held.coupon_id
            WHERE held.status = 'unused' AND held.coupon_id = ANY(CAST(:coupon_ids AS bigint[]))
              AND coupon.valid_until < :now
            LIMIT :batch_size
            FOR NO KEY UPDATE OF held SKIP LOCKED
        ))
        RETURNING 1
    )
    SELECT count(*) FROM changed
""")


def expire_coupons(session: Session, now: datetime, *, batch_size: int) -> Batches:
    """Expire the coupons that are no longer valid, and what people hold of them unused.

    Returns:
        ``coupons``; ``user_coupons``, also those whose coupon was expired or disabled before.
    """
    batch = {"now": now, "batch_size": batch_size}
    for coupons in _expire(session, FIND_COUPONS, EXPIRE_COUPONS, batch):
        yield {"coupons": coupons}
    after: int | None = BEFORE_ALL_IDS
    while after is not None:
        place = {"after": after, "at_once": HELD_AT_ONCE}
        held = session.execute(NEXT_HELD, {**batch, **place}).one()
        if held.overdue:
            overdue = {"coupon_ids": held.overdue}
            for user_coupons in _drain(session, EXPIRE_HELD, {**batch, **overdue}):
                yield {"user_coupons": user_coupons}
        after = held.last_id
    return {"coupons": 0, "user_coupons": 0}


def expire_invitation_codes(session: Session, now: datetime, *, batch_size: int) -> Batches:
    """Deactivate the invitation codes that are no longer valid.

    Returns:
        ``codes``.
    """
    batch = {"now": now, "batch_size": batch_size}
    for codes in _expire(session, FIND_CODES, EXPIRE_CODES, batch):
        yield {"codes": codes}
    return {"codes": 0}


def _expire(
    session: Session, find: TextClause, expire: TextClause, batch: Mapping[str, Any]
) -> Iterator[int]:
    """Expire what is found, batch by batch. How many rows were changed, each time."""
    place: dict[str, Any] = {"after": BEFORE_ALL_TIMES, "after_id": BEFORE_ALL_IDS}
    ahead = {**batch, "batches_ahead": BATCHES_AHEAD}
    while found := session.execute(find, {**ahead, **place}).one_or_none():
        # In a transaction of its own: the first of them are not locked for as long as it takes.
        yield 0
        for ids in found.batches:
            yield session.execute(expire, {**batch, "ids": ids}).scalar_one()
        # Those that somebody has locked are still due: go on behind them.
        place = {"after": found.after, "after_id": found.after_id}


def _drain(session: Session, statement: TextClause, batch: Mapping[str, Any]) -> Iterator[int]:
    """Execute a statement until it finds nothing more. How many rows it changed, each time."""
    is_drained = False
    while not is_drained:
        changed = session.execute(statement, batch).scalar_one()
        is_drained = changed < batch["batch_size"]
        if changed:
            yield changed
