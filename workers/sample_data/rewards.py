"""Sample coupons, invitation codes and points, in force, overdue and expired."""

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import update

from workers.models import Coupon, InvitationCode, PointsAccount, PointsTransaction, UserCoupon
from workers.sample_data.people import Person
from workers.sample_data.sample import Sample

# Status, days until the end (none: for ever), how many.
COUPONS = [
    ("active", None, 6),
    ("active", 20, 8),
    ("active", 0.002, 2),
    ("active", -0.5, 5),
    ("active", -4, 3),
    ("expired", -30, 4),
    ("disabled", -2, 2),
    ("disabled", 15, 2),
]
USER_COUPONS = 400

CODES = [(True, None, 15), (True, 30, 20), (True, 0.003, 2), (True, -1, 12), (False, -40, 11)]


def add_coupons(sample: Sample, people: list[Person]) -> None:
    """Add coupons and who holds them."""
    coupons = [(status, days) for status, days, count in COUPONS for _ in range(count)]
    ids = sample.add_returning_ids(
        Coupon,
        [
            {"code": f"SAVE-{number:03}", "status": status, "valid_until": _after(sample, days)}
            for number, (status, days) in enumerate(coupons, start=1)
        ],
    )
    # What was handed out of a coupon that expired in time has expired with it.
    unused = {
        id_: "expired" if status == "expired" else "unused"
        for id_, (status, _) in zip(ids, coupons, strict=True)
    }
    held = [sample.random.choice(ids) for _ in range(USER_COUPONS)]
    sample.add(
        UserCoupon,
        [
            {
                "user_id": sample.random.choice(people).id,
                "coupon_id": coupon_id,
                "status": "used" if sample.random.random() < 0.3 else unused[coupon_id],
            }
            for coupon_id in held
        ],
    )


def add_invitation_codes(sample: Sample) -> None:
    """Add invitation codes."""
    codes = [(is_active, days) for is_active, days, count in CODES for _ in range(count)]
    sample.add(
        InvitationCode,
        [
            {
                "code": f"INVITE-{number:04}",
                "is_active": is_active,
                "valid_until": _after(sample, days),
            }
            for number, (is_active, days) in enumerate(codes, start=1)
        ],
    )


def add_points(sample: Sample, people: list[Person]) -> None:
    """Add ledgers that add up, of most people; some with lots that are due."""
    ledgers = [_Ledger(sample, person.id) for person in people if sample.random.random() < 0.8]
    rows = [row for ledger in ledgers for row in ledger.rows]
    ids = sample.add_returning_ids(PointsTransaction, rows)
    id_of = {id(row): id_ for id_, row in zip(ids, rows, strict=True)}
    sample.session.execute(
        update(PointsTransaction),
        [
            {"id": id_of[id(expire)], "related_id": id_of[id(lot)]}
            for ledger in ledgers
            for lot, expire in ledger.expired_lots
        ],
    )
    sample.add(
        PointsAccount,
        [{"user_id": ledger.user_id, "balance": ledger.balance} for ledger in ledgers],
    )


class _Ledger:
    """One person's points, from the oldest line to the newest."""

    def __init__(self, sample: Sample, user_id: int) -> None:
        self.user_id = user_id
        self.balance = 0
        self.rows: list[dict[str, Any]] = []
        self.expired_lots: list[tuple[dict[str, Any], dict[str, Any]]] = []
        chance = sample.random
        written_at = sample.ago(days=chance.uniform(80, 120))

        if chance.random() < 0.3:
            # An old lot, which expired as it should, with what had not been spent of it.
            lot = self._earn(chance.randint(20, 200), written_at, written_at + timedelta(days=30))
            if chance.random() < 0.5:
                self._spend(chance.randint(1, self.balance), written_at + timedelta(days=3))
            if self.balance:
                self._expire(lot, self.balance, written_at + timedelta(days=30))
            lot["expired"] = True
            written_at += timedelta(days=31)

        for _ in range(chance.randint(1, 5)):
            written_at += timedelta(days=chance.uniform(1, 9))
            days_left = chance.choice([None, None, -6, -0.4, -0.01, 0.003, 5, 60])
            expires_at = None if days_left is None else sample.ahead(days=days_left)
            self._earn(chance.randint(1, 40) * 5, written_at, expires_at)
            if chance.random() < 0.5:
                written_at += timedelta(hours=chance.uniform(1, 20))
                self._spend(chance.randint(1, self.balance), written_at)

    def _write(self, type_: str, amount: int, written_at: datetime, **more: Any) -> dict[str, Any]:
        self.balance += amount if type_ == "earn" else -amount
        row = {
            "user_id": self.user_id,
            "type": type_,
            "amount": amount,
            "balance_after": self.balance,
            "source": None,
            "expires_at": None,
            "expired": False,
            "created_at": written_at,
        } | more
        self.rows.append(row)
        return row

    def _earn(
        self, amount: int, written_at: datetime, expires_at: datetime | None
    ) -> dict[str, Any]:
        return self._write("earn", amount, written_at, source="task_reward", expires_at=expires_at)

    def _spend(self, amount: int, written_at: datetime) -> None:
        if amount:
            self._write("spend", amount, written_at, source="coupon")

    def _expire(self, lot: dict[str, Any], amount: int, written_at: datetime) -> None:
        row = self._write("expire", amount, written_at, source="points_expire")
        self.expired_lots.append((lot, row))


def _after(sample: Sample, days: float | None) -> datetime | None:
    return None if days is None else sample.ahead(days=days)
