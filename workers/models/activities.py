"""Activities of experts, and the time slots of their services."""

from datetime import date, datetime
from typing import Literal

from sqlalchemy import CheckConstraint, ForeignKey, Index, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from workers.models.base import (
    Base,
    BigInt,
    BigIntId,
    Flag,
    TimestampNow,
    one_of,
    partial_index,
)

ActivityStatus = Literal["open", "closed", "cancelled", "completed"]


class Activity(Base):
    """Something an expert offers, until a deadline, a last day, or its last time slot.

    Services live in the web backend: `service_id` has no table here to refer to.
    """

    __tablename__ = "activities"
    __table_args__ = (
        one_of("status", ActivityStatus),
        # Which of them has ended depends on dates, deadlines and slots together: the job looks at
        # all the open ones, and at no others.
        partial_index("activities_open_idx", ["id"], "status = 'open'"),
    )

    id: Mapped[BigIntId]
    title: Mapped[str]
    service_id: Mapped[BigInt | None]
    status: Mapped[ActivityStatus] = mapped_column(Text, server_default=text("'open'"))
    has_time_slots: Mapped[Flag]
    deadline: Mapped[datetime | None]
    end_date: Mapped[date | None]
    auto_add_new_slots: Mapped[Flag]
    updated_at: Mapped[TimestampNow]


class ServiceTimeSlot(Base):
    """A time at which a service is offered."""

    __tablename__ = "service_time_slots"
    __table_args__ = (
        CheckConstraint("ends_at >= starts_at", name="ends_after_start"),
        partial_index(
            "service_time_slots_service_id_starts_at_idx",
            ["service_id", "starts_at"],
            "NOT is_deleted",
        ),
    )

    id: Mapped[BigIntId]
    service_id: Mapped[BigInt]
    starts_at: Mapped[datetime]
    ends_at: Mapped[datetime]
    is_deleted: Mapped[Flag]


class ActivityTimeSlot(Base):
    """A time slot that belongs to an activity."""

    __tablename__ = "activity_time_slots"
    __table_args__ = (Index(None, "time_slot_id"),)

    activity_id: Mapped[BigInt] = mapped_column(
        ForeignKey("activities.id", ondelete="CASCADE"), primary_key=True
    )
    time_slot_id: Mapped[BigInt] = mapped_column(
        ForeignKey("service_time_slots.id", ondelete="CASCADE"), primary_key=True
    )
