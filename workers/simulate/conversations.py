"""Chats go on: people write until they fall silent, agents answer, come and go.

How much somebody says in a chat is fixed by the chat's id, so that there are always some who say
nothing at all, and some to whom no agent ever answers: these time out, one way or the other.
"""

import random
from datetime import datetime
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from workers.models import (
    CustomerServiceAgent,
    CustomerServiceChat,
    CustomerServiceMessage,
    SenderType,
    User,
)
from workers.sample_data.texts import ANSWERS, QUESTIONS
from workers.simulate.acting import choose

MOST_QUESTIONS = 5
ONE_IN_IS_NEVER_ANSWERED = 6
"""Of so many chats, one is never answered."""

FEWEST_ONLINE = 2

Chat = CustomerServiceChat
Line = CustomerServiceMessage


def customer_wrote(session: Session, chance: random.Random, now: datetime) -> str | None:
    """Go on with a chat whose customer has something to say still."""
    said = (
        select(func.count()).where(Line.chat_id == Chat.id, Line.sender_type == "user")
    ).scalar_subquery()
    chat = choose(
        session,
        chance,
        select(Chat.id, User.id.label("sender_id"), User.name, User.language)
        .join(User, User.id == Chat.user_id)
        .where(Chat.ended_at.is_(None), said < Chat.id % MOST_QUESTIONS)
        .order_by(Chat.id.desc()),
    )
    if chat is None:
        return None
    content = chance.choice(QUESTIONS[chat.language])
    return _write(session, chat, "user", content, now)


def agent_answered(session: Session, chance: random.Random, now: datetime) -> str | None:
    """Answer where the customer wrote last."""
    last_sender = (
        select(Line.sender_type)
        .where(Line.chat_id == Chat.id, Line.sender_type != "system")
        .order_by(Line.created_at.desc(), Line.id.desc())
        .limit(1)
    ).scalar_subquery()
    chat = choose(
        session,
        chance,
        select(
            Chat.id,
            CustomerServiceAgent.id.label("sender_id"),
            CustomerServiceAgent.name,
            User.language,
        )
        .join(CustomerServiceAgent, CustomerServiceAgent.id == Chat.agent_id)
        .join(User, User.id == Chat.user_id)
        .where(
            Chat.ended_at.is_(None),
            CustomerServiceAgent.is_online,
            Chat.id % ONE_IN_IS_NEVER_ANSWERED != 0,
            last_sender == "user",
        )
        .order_by(Chat.id.desc()),
    )
    if chat is None:
        return None
    content = chance.choice(ANSWERS[chat.language])
    return _write(session, chat, "agent", content, now)


def _write(
    session: Session, chat: Any, sender_type: SenderType, content: str, now: datetime
) -> str | None:
    # The chat first: locked, it cannot end before the message is in.
    is_open = session.scalar(
        update(Chat)
        .where(Chat.id == chat.id, Chat.ended_at.is_(None))
        .values(last_message_at=now)
        .returning(Chat.id)
    )
    if is_open is None:
        return None
    session.add(
        Line(
            chat_id=chat.id,
            sender_type=sender_type,
            sender_id=chat.sender_id,
            content=content,
            created_at=now,
        )
    )
    return f"{chat.name} writes in chat {chat.id}: {content}"


def agent_came_or_went(session: Session, chance: random.Random, _now: datetime) -> str | None:
    """Let an agent go on line, or off; two at least stay."""
    agents = session.scalars(select(CustomerServiceAgent).order_by(CustomerServiceAgent.id)).all()
    if not agents:
        session.add(CustomerServiceAgent(name="Agent Ana", is_online=True, max_concurrent_chats=5))
        return "Agent Ana is hired"
    agent = chance.choice(agents)
    if agent.is_online and sum(agent.is_online for agent in agents) <= FEWEST_ONLINE:
        return None
    agent.is_online = not agent.is_online
    return f"{agent.name} goes {'on' if agent.is_online else 'off'} line"
