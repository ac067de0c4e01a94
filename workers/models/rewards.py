"""What people collect: coupons, invitation codes and points."""

from datetime import datetime
from typing import Literal

from sqlalchemy import CheckConstraint, ForeignKey, Index, Text, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from workers.models.base import (
    Base,
    BigInt,
    BigIntId,
    Flag,
    TimestampNow,
    at_least_zero,
    one_of,
    partial_index,
)

CouponStatus = Literal["active", "expired", "disabled"]
UserCouponStatus = Literal["unused", "used", "expired"]
PointsTransactionType = Literal["earn", "spend", "expire"]


class Coupon(Base):
    """An offer; without `valid_until` it holds for ever."""

    __tablename__ = "coupons"
    __table_args__ = (
        one_of("status", CouponStatus),
        UniqueConstraint("code"),
        partial_index(
            "coupons_active_valid_until_idx",
            ["valid_until", "id"],
            "status = 'active' AND valid_until IS NOT NULL",
        ),
    )

    id: Mapped[BigIntId]
    code: Mapped[str]
    status: Mapped[CouponStatus] = mapped_column(Text, server_default=text("'active'"))
    valid_until: Mapped[datetime | None]


class UserCoupon(Base):
    """A coupon in a person's hands."""

    __tablename__ = "user_coupons"
    __table_args__ = (
        one_of("status", UserCouponStatus),
        Index(None, "user_id"),
        Index(None, "coupon_id"),
        partial_index(
            "user_coupons_unused_coupon_id_idx", ["coupon_id", "id"], "status = 'unused'"
        ),
    )

    id: Mapped[BigIntId]
    user_id: Mapped[BigInt] = mapped_column(ForeignKey("users.id"))
    coupon_id: Mapped[BigInt] = mapped_column(ForeignKey("coupons.id"))
    status: Mapped[UserCouponStatus] = mapped_column(Text, server_default=text("'unused'"))


class InvitationCode(Base):
    """A code that lets someone in; without `valid_until` it holds for ever."""

    __tablename__ = "invitation_codes"
    __table_args__ = (
        UniqueConstraint("code"),
        partial_index(
            "invitation_codes_active_valid_until_idx",
            ["valid_until", "id"],
            "is_active AND valid_until IS NOT NULL",
        ),
    )

    id: Mapped[BigIntId]
    code: Mapped[str]
    is_active: Mapped[bool] = mapped_column(server_default=text("true"))
    valid_until: Mapped[datetime | None]


class PointsAccount(Base):
    """What a person can spend now."""

    __tablename__ = "points_accounts"
    __table_args__ = (at_least_zero("balance"),)

    user_id: Mapped[BigInt] = mapped_column(
        ForeignKey("users.id"), primary_key=True, autoincrement=False
    )
    balance: Mapped[BigInt] = mapped_column(server_default=text("0"))


class PointsTransaction(Base):
    """A line of the points ledger; each `earn` row is a lot, which may expire.

    Nothing here forces the lines to add up to the balance: the expiry job reports a ledger that
    does not, and leaves it alone.
    """

    __tablename__ = "points_transactions"
    __table_args__ = (
        one_of("type", PointsTransactionType),
        CheckConstraint("amount > 0", name="amount"),
        CheckConstraint("type = 'earn' OR expires_at IS NULL", name="only_lots_expire"),
        Index(None, "user_id", "id"),
        partial_index(
            "points_transactions_due_lots_idx",
            ["expires_at", "id"],
            "type = 'earn' AND NOT expired AND expires_at IS NOT NULL",
        ),
    )

    id: Mapped[BigIntId]
    user_id: Mapped[BigInt] = mapped_column(ForeignKey("users.id"))
    type: Mapped[PointsTransactionType] = mapped_column(Text)
    amount: Mapped[BigInt]
    balance_after: Mapped[BigInt | None]
    source: Mapped[str | None]
    related_id: Mapped[BigInt | None]
    expires_at: Mapped[datetime | None]
    expired: Mapped[Flag]
    created_at: Mapped[TimestampNow]
