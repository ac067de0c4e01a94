"""What keeps people's statistics up to date: whom changes concern, and the daily full pass."""

from datetime import datetime

from sqlalchemy import Boolean, CheckConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from workers.models.base import Base, BigInt, BigIntId


class StatisticsChange(Base):
    """A note that a person's statistics may have changed; gone once they were recomputed.

    Written by triggers, in the transaction of the change, and so seen exactly when the change is,
    however late that commits. Only ever added to: a person may be noted many times, which is what
    lets writers pass each other without waiting. No foreign key: it would lock the person's row
    in every such transaction, and a person may be gone before the note is read.
    """

    __tablename__ = "statistics_changes"

    id: Mapped[BigIntId]
    user_id: Mapped[BigInt]


class StatisticsFullPass(Base):
    """How far the pass over all people is: one row, or none before the first."""

    __tablename__ = "statistics_full_pass"
    __table_args__ = (CheckConstraint("is_only", name="is_only"),)

    is_only: Mapped[bool] = mapped_column(Boolean, primary_key=True, server_default=text("true"))
    # The last person looked at; null between passes. A pass that was cut short goes on from there.
    resume_after: Mapped[BigInt | None]
    finished_at: Mapped[datetime | None]
