"""Tasks, who applied for them, what happened to them, and how they were rated."""

from datetime import datetime
from decimal import Decimal
from typing import Literal

from sqlalchemy import CheckConstraint, ForeignKey, Index, Numeric, Text, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from workers.models.base import (
    Base,
    BigInt,
    BigIntId,
    TimestampNow,
    between,
    one_of,
    partial_index,
)

TaskStatus = Literal[
    "open", "taken", "in_progress", "pending_confirmation", "completed", "cancelled"
]
ApplicationStatus = Literal["pending", "approved", "rejected"]
AuditedEntity = Literal["task", "activity"]


class Task(Base):
    """Work that one person posts and another takes. Without a deadline it is flexible."""

    __tablename__ = "tasks"
    __table_args__ = (
        one_of("status", TaskStatus),
        CheckConstraint("taker_id <> poster_id", name="taker_is_not_poster"),
        # With the status, so that people's tasks are counted from the index alone.
        Index(None, "poster_id", "status"),
        partial_index("tasks_taker_id_status_idx", ["taker_id", "status"], "taker_id IS NOT NULL"),
        partial_index("tasks_activity_id_idx", ["activity_id"], "activity_id IS NOT NULL"),
        partial_index(
            "tasks_open_deadline_idx",
            ["deadline", "id"],
            "status = 'open' AND deadline IS NOT NULL",
        ),
    )

    id: Mapped[BigIntId]
    title: Mapped[str]
    poster_id: Mapped[BigInt] = mapped_column(ForeignKey("users.id"))
    taker_id: Mapped[BigInt | None] = mapped_column(ForeignKey("users.id"))
    activity_id: Mapped[BigInt | None] = mapped_column(ForeignKey("activities.id"))
    status: Mapped[TaskStatus] = mapped_column(Text, server_default=text("'open'"))
    deadline: Mapped[datetime | None]
    created_at: Mapped[TimestampNow]
    updated_at: Mapped[TimestampNow]
    completed_at: Mapped[datetime | None]


class TaskApplication(Base):
    """A person's wish to take a task; one for each task and person."""

    __tablename__ = "task_applications"
    __table_args__ = (
        one_of("status", ApplicationStatus),
        UniqueConstraint("task_id", "applicant_id"),
        Index(None, "applicant_id"),
    )

    id: Mapped[BigIntId]
    task_id: Mapped[BigInt] = mapped_column(ForeignKey("tasks.id", ondelete="CASCADE"))
    applicant_id: Mapped[BigInt] = mapped_column(ForeignKey("users.id"))
    status: Mapped[ApplicationStatus] = mapped_column(Text, server_default=text("'pending'"))


class TaskHistory(Base):
    """What happened to a task, as its people see it."""

    __tablename__ = "task_history"
    __table_args__ = (Index(None, "task_id"), Index(None, "user_id"))

    id: Mapped[BigIntId]
    task_id: Mapped[BigInt] = mapped_column(ForeignKey("tasks.id", ondelete="CASCADE"))
    user_id: Mapped[BigInt] = mapped_column(ForeignKey("users.id"))
    action: Mapped[str]
    remark: Mapped[str | None]
    created_at: Mapped[TimestampNow]


class AuditLogEntry(Base):
    """What the system did to a task or an activity; outlives both, hence no foreign key."""

    __tablename__ = "audit_log"
    __table_args__ = (one_of("entity", AuditedEntity), Index(None, "entity", "entity_id"))

    id: Mapped[BigIntId]
    entity: Mapped[AuditedEntity] = mapped_column(Text)
    entity_id: Mapped[BigInt]
    action: Mapped[str]
    old_status: Mapped[str | None]
    new_status: Mapped[str | None]
    detail: Mapped[str | None]
    created_at: Mapped[TimestampNow]


class Review(Base):
    """How one person rated another for a task."""

    __tablename__ = "reviews"
    __table_args__ = (
        between("rating", "0.5", "5"),
        Index(None, "task_id"),
        Index(None, "reviewer_id"),
        # With the rating, so that means are computed from the index alone.
        Index(None, "reviewee_id", "rating"),
    )

    id: Mapped[BigIntId]
    task_id: Mapped[BigInt] = mapped_column(ForeignKey("tasks.id"))
    reviewer_id: Mapped[BigInt] = mapped_column(ForeignKey("users.id"))
    reviewee_id: Mapped[BigInt] = mapped_column(ForeignKey("users.id"))
    rating: Mapped[Decimal] = mapped_column(Numeric(2, 1))
    created_at: Mapped[TimestampNow]
