"""Customer service: agents, the waiting queue, chats and their messages."""

from datetime import datetime
from typing import Literal

from sqlalchemy import ForeignKey, Index, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from workers.models.base import (
    Base,
    BigInt,
    BigIntId,
    Flag,
    Rating,
    TimestampNow,
    at_least_zero,
    between,
    one_of,
    partial_index,
)

QueueStatus = Literal["waiting", "assigned", "cancelled"]
SenderType = Literal["user", "agent", "system"]


class CustomerServiceAgent(Base):
    """Someone who answers; takes new chats while online and below the limit."""

    __tablename__ = "customer_service_agents"
    __table_args__ = (at_least_zero("max_concurrent_chats"), between("avg_rating", "0", "5"))

    id: Mapped[BigIntId]
    name: Mapped[str]
    is_online: Mapped[Flag]
    max_concurrent_chats: Mapped[int] = mapped_column(server_default=text("5"))
    avg_rating: Mapped[Rating]


class CustomerServiceChat(Base):
    """A conversation; open while `ended_at` is null. A person may have several open ones.

    How it ended (`ended_reason`, `ended_by`, `ended_type`) is unchecked text: the web backend
    ends chats too, in ways of its own.
    """

    __tablename__ = "customer_service_chats"
    __table_args__ = (
        Index(None, "user_id"),
        Index(None, "agent_id"),
        partial_index(
            "customer_service_chats_open_last_message_at_idx",
            ["last_message_at", "id"],
            "ended_at IS NULL",
        ),
        partial_index(
            "customer_service_chats_open_user_id_idx", ["user_id", "id"], "ended_at IS NULL"
        ),
        partial_index("customer_service_chats_open_agent_id_idx", ["agent_id"], "ended_at IS NULL"),
        partial_index(
            "customer_service_chats_ended_at_idx", ["ended_at", "id"], "ended_at IS NOT NULL"
        ),
    )

    id: Mapped[BigIntId]
    user_id: Mapped[BigInt] = mapped_column(ForeignKey("users.id"))
    agent_id: Mapped[BigInt] = mapped_column(ForeignKey("customer_service_agents.id"))
    created_at: Mapped[TimestampNow]
    last_message_at: Mapped[TimestampNow]
    warned_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    ended_reason: Mapped[str | None]
    ended_by: Mapped[str | None]
    ended_type: Mapped[str | None]


class CustomerServiceMessage(Base):
    """A line of a chat. `sender_id` is a user or an agent, by `sender_type`: no foreign key."""

    __tablename__ = "customer_service_messages"
    __table_args__ = (
        one_of("sender_type", SenderType),
        # The last message of a chat is read from the end of its range.
        Index(None, "chat_id", "created_at", "id"),
    )

    id: Mapped[BigIntId]
    # CASCADE, so that a message written to a chat while it is being cleaned up goes with it
    # instead of failing the clean-up.
    chat_id: Mapped[BigInt] = mapped_column(
        ForeignKey("customer_service_chats.id", ondelete="CASCADE")
    )
    sender_type: Mapped[SenderType] = mapped_column(Text)
    sender_id: Mapped[BigInt | None]
    content: Mapped[str]
    created_at: Mapped[TimestampNow]


class CustomerServiceQueueEntry(Base):
    """Someone waiting for an agent; keeps its place in history when its chat is cleaned up."""

    __tablename__ = "customer_service_queue"
    __table_args__ = (
        one_of("status", QueueStatus),
        Index(None, "user_id"),
        partial_index(
            "customer_service_queue_waiting_idx", ["queued_at", "id"], "status = 'waiting'"
        ),
        partial_index(
            "customer_service_queue_assigned_agent_id_idx",
            ["assigned_agent_id"],
            "assigned_agent_id IS NOT NULL",
        ),
        # Every deleted chat looks for the entry that points at it.
        partial_index("customer_service_queue_chat_id_idx", ["chat_id"], "chat_id IS NOT NULL"),
    )

    id: Mapped[BigIntId]
    user_id: Mapped[BigInt] = mapped_column(ForeignKey("users.id"))
    status: Mapped[QueueStatus] = mapped_column(Text, server_default=text("'waiting'"))
    queued_at: Mapped[TimestampNow]
    assigned_agent_id: Mapped[BigInt | None] = mapped_column(
        ForeignKey("customer_service_agents.id")
    )
    assigned_at: Mapped[datetime | None]
    chat_id: Mapped[BigInt | None] = mapped_column(
        ForeignKey("customer_service_chats.id", ondelete="SET NULL")
    )
