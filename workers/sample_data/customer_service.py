"""Sample customer service: agents, people who wait, and chats in all stages.

The open chats are cast so that something is seen at once: some fall due for a warning or their end
within a minute of the start, and with each that ends, somebody who waits gets an agent.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from workers.models import (
    CustomerServiceAgent,
    CustomerServiceChat,
    CustomerServiceMessage,
    CustomerServiceQueueEntry,
)
from workers.sample_data.people import Person
from workers.sample_data.sample import Sample
from workers.sample_data.texts import ANSWERS, QUESTIONS

# Name, online, chats at once, rating.
AGENTS = [
    ("Agent Ana", True, 5, "4.80"),
    ("Agent Bao", True, 4, "4.65"),
    ("Agent Cleo", True, 4, "4.65"),
    ("Agent Dan", True, 3, "4.40"),
    ("Agent Fen", True, 3, "4.10"),
    ("Agent Gus", True, 2, "3.90"),
    ("Agent Hui", True, 2, "4.95"),
    ("Agent Iris", True, 1, "3.60"),
    ("Agent Jun", False, 5, "4.70"),
    ("Agent Kim", False, 4, "4.20"),
    ("Agent Lei", False, 3, "3.80"),
    ("Agent Mia", False, 6, "0"),
]

# Seconds since the last message of each open chat, and who wrote it.
OPEN_CHATS = [
    (2, "user"),
    (5, "agent"),
    (9, "user"),
    (14, "agent"),
    (20, None),
    (30, "user"),
    (38, "agent"),
    (45, "user"),
    (52, None),
    (58, "agent"),
    (66, "user"),
    (74, "agent"),
    (82, "user"),
    (90, "user"),
    (97, "agent"),
    (103, "user"),
    (110, "agent"),
    (300, "user"),
]

WAITING = 14
ENDED_LATELY = 60
ENDED_LONG_AGO = 50
GAVE_UP = 8


@dataclass(frozen=True)
class Chat:
    """A chat to be written: its row, and the time and author of its last message."""

    person: Person
    agent_id: int
    last_message_at: datetime
    last_sender: str | None
    ended_at: datetime | None


def add_customer_service(sample: Sample, people: list[Person]) -> None:
    """Add agents, chats, and the queue, for people that are drawn from `people`."""
    chance = sample.random
    agent_ids = sample.add_returning_ids(
        CustomerServiceAgent,
        [
            {"name": name, "is_online": online, "max_concurrent_chats": room, "avg_rating": rating}
            for name, online, room, rating in AGENTS
        ],
    )
    cast = chance.sample(people, len(OPEN_CHATS) + WAITING + GAVE_UP)
    talking, rest = cast[: len(OPEN_CHATS)], cast[len(OPEN_CHATS) :]
    waiting, gave_up = rest[:WAITING], rest[WAITING:]
    # Somebody who has a chat already, and asks for another: the queue leads back to the first.
    waiting[5] = talking[0]

    chats = [_ended_chat(sample, people, agent_ids, (31.0, 120.0)) for _ in range(ENDED_LONG_AGO)]
    chats += [_ended_chat(sample, people, agent_ids, (0.1, 28.0)) for _ in range(ENDED_LATELY)]
    chats += [
        Chat(person, agent_id, sample.ago(seconds=silent_seconds), last_sender, None)
        for person, agent_id, (silent_seconds, last_sender) in zip(
            talking, _shares(agent_ids), OPEN_CHATS, strict=False
        )
    ]
    _add_chats(sample, chats)
    sample.add(
        CustomerServiceQueueEntry,
        [
            {"user_id": person.id, "status": status, "queued_at": queued_at}
            for status, persons in (("waiting", waiting), ("cancelled", gave_up))
            for person in persons
            for queued_at in [sample.ago(seconds=chance.uniform(5, 400))]
        ],
    )


def _shares(agent_ids: list[int]) -> list[int]:
    """Each online agent as often as it has room, one round after the other."""
    room = [room if is_online else 0 for _, is_online, room, _ in AGENTS]
    rounds = range(max(room))
    return [
        id_ for turn in rounds for id_, left in zip(agent_ids, room, strict=True) if left > turn
    ]


def _ended_chat(
    sample: Sample, people: list[Person], agent_ids: list[int], days_ago: tuple[float, float]
) -> Chat:
    chance = sample.random
    ended_at = sample.ago(days=chance.uniform(*days_ago))
    return Chat(
        chance.choice(people),
        chance.choice(agent_ids),
        last_message_at=ended_at - timedelta(seconds=125),
        last_sender=chance.choice(["user", "agent"]),
        ended_at=ended_at,
    )


def _add_chats(sample: Sample, chats: list[Chat]) -> None:
    lines = [_conversation(sample, chat) for chat in chats]
    rows = [_chat_row(chat, said) for chat, said in zip(chats, lines, strict=True)]
    chat_ids = sample.add_returning_ids(CustomerServiceChat, rows)
    sample.add(
        CustomerServiceMessage,
        [
            {"chat_id": chat_id, **line}
            for chat_id, said in zip(chat_ids, lines, strict=True)
            for line in said
        ],
    )
    sample.add(
        CustomerServiceQueueEntry,
        [
            {
                "user_id": chat.person.id,
                "status": "assigned",
                "queued_at": row["created_at"] - timedelta(seconds=sample.random.uniform(2, 90)),
                "assigned_agent_id": chat.agent_id,
                "assigned_at": row["created_at"],
                "chat_id": chat_id,
            }
            for chat_id, chat, row in zip(chat_ids, chats, rows, strict=True)
        ],
    )


def _chat_row(chat: Chat, said: list[dict[str, Any]]) -> dict[str, Any]:
    inactive = "user" if chat.last_sender == "agent" else "agent"
    is_ended = chat.ended_at is not None
    return {
        "user_id": chat.person.id,
        "agent_id": chat.agent_id,
        # A chat in which nothing was said yet has been silent since it was opened.
        "created_at": said[0]["created_at"] if said else chat.last_message_at,
        "last_message_at": chat.last_message_at,
        "warned_at": chat.last_message_at + timedelta(seconds=70) if is_ended else None,
        "ended_at": chat.ended_at,
        "ended_reason": "timeout" if is_ended else None,
        "ended_by": "system" if is_ended else None,
        "ended_type": f"{inactive}_inactive" if is_ended else None,
    }


def _conversation(sample: Sample, chat: Chat) -> list[dict[str, Any]]:
    """What was said, in turns that end with the last sender's."""
    chance = sample.random
    said: list[dict[str, Any]] = []
    sender, spoken_at = chat.last_sender, chat.last_message_at
    for _ in range(chance.randint(1, 6) if sender else 0):
        texts = QUESTIONS if sender == "user" else ANSWERS
        said.append(
            {
                "sender_type": sender,
                "sender_id": chat.person.id if sender == "user" else chat.agent_id,
                "content": chance.choice(texts[chat.person.language]),
                "created_at": spoken_at,
            }
        )
        sender = "agent" if sender == "user" else "user"
        spoken_at -= timedelta(seconds=chance.uniform(4, 40))
    return said[::-1]
