"""People, what they are told, and what they write to each other."""

from datetime import datetime
from decimal import Decimal
from typing import Literal

from sqlalchemy import ForeignKey, Index, Text, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from workers.models.base import (
    Base,
    BigInt,
    BigIntId,
    CountFromZero,
    Percentage,
    Rating,
    TimestampNow,
    at_least_zero,
    between,
    one_of,
    partial_index,
)

Language = Literal["en", "zh"]


class User(Base):
    """A person who posts and takes tasks. Counts and rating are kept by the statistics job."""

    __tablename__ = "users"
    __table_args__ = (
        one_of("language", Language),
        at_least_zero("task_count"),
        at_least_zero("completed_task_count"),
        between("avg_rating", "0", "5"),
    )

    id: Mapped[BigIntId]
    name: Mapped[str]
    language: Mapped[Language] = mapped_column(Text, server_default=text("'en'"))
    task_count: Mapped[CountFromZero]
    completed_task_count: Mapped[CountFromZero]
    avg_rating: Mapped[Rating]
    created_at: Mapped[TimestampNow]


class Notification(Base):
    """The latest news of one type about one thing, for one person: renewed, not repeated.

    `type` is open (the web backend has types of its own), and `related_id` is the id of a chat, a
    task or something else, by type: hence neither check nor foreign key.
    """

    __tablename__ = "notifications"
    __table_args__ = (UniqueConstraint("user_id", "type", "related_id"),)

    id: Mapped[BigIntId]
    user_id: Mapped[BigInt] = mapped_column(ForeignKey("users.id"))
    type: Mapped[str]
    related_id: Mapped[BigInt | None]
    title: Mapped[str]
    content: Mapped[str]
    created_at: Mapped[TimestampNow]
    read_at: Mapped[datetime | None]


class Message(Base):
    """A message between two people; without a sender it is the system's."""

    __tablename__ = "messages"
    __table_args__ = (
        Index(None, "receiver_id"),
        partial_index("messages_sender_id_idx", ["sender_id"], "sender_id IS NOT NULL"),
    )

    id: Mapped[BigIntId]
    sender_id: Mapped[BigInt | None] = mapped_column(ForeignKey("users.id"))
    receiver_id: Mapped[BigInt] = mapped_column(ForeignKey("users.id"))
    content: Mapped[str]
    created_at: Mapped[TimestampNow]


class MessageRead(Base):
    """When a person read a message."""

    __tablename__ = "message_reads"
    __table_args__ = (Index(None, "user_id"),)

    message_id: Mapped[BigInt] = mapped_column(
        ForeignKey("messages.id", ondelete="CASCADE"), primary_key=True
    )
    user_id: Mapped[BigInt] = mapped_column(ForeignKey("users.id"), primary_key=True)
    read_at: Mapped[datetime]


class FeaturedTaskExpert(Base):
    """What an expert's card shows; kept by the featured-experts job."""

    __tablename__ = "featured_task_experts"
    __table_args__ = (
        at_least_zero("response_seconds"),
        between("avg_rating", "0", "5"),
        at_least_zero("completed_tasks"),
        at_least_zero("total_tasks"),
        between("completion_rate", "0", "100"),
        between("success_rate", "0", "100"),
    )

    user_id: Mapped[BigInt] = mapped_column(
        ForeignKey("users.id"), primary_key=True, autoincrement=False
    )
    response_seconds: Mapped[Decimal | None]
    response_time: Mapped[str | None]
    response_time_en: Mapped[str | None]
    avg_rating: Mapped[Rating]
    completed_tasks: Mapped[CountFromZero]
    total_tasks: Mapped[CountFromZero]
    completion_rate: Mapped[Percentage]
    success_rate: Mapped[Percentage]
    updated_at: Mapped[TimestampNow]
