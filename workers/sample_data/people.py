"""Sample people, their messages to each other, and the experts among them."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from workers.models import FeaturedTaskExpert, Language, Message, MessageRead, User
from workers.sample_data.sample import Sample
from workers.sample_data.texts import FIRST_NAMES, INITIALS, LETTERS

PEOPLE = 300
EXPERTS = 16
LETTERS_TO_OTHERS = 300


@dataclass(frozen=True)
class Person:
    """A sample user."""

    id: int
    language: Language


def add_people(sample: Sample) -> list[Person]:
    """Add users; their counts and ratings are left to the statistics job."""
    chance = sample.random
    rows: list[dict[str, Any]] = []
    for _ in range(PEOPLE):
        language: Language = "zh" if chance.random() < 0.45 else "en"
        rows.append(
            {
                "name": f"{chance.choice(FIRST_NAMES[language])} "
                f"{chance.choice(INITIALS[language])}.",
                "language": language,
                "created_at": sample.ago(days=chance.uniform(130, 500)),
            }
        )
    ids = sample.add_returning_ids(User, rows)
    return [Person(id_, row["language"]) for id_, row in zip(ids, rows, strict=True)]


def add_experts(sample: Sample, people: list[Person]) -> None:
    """Add experts, and letters between people: some experts answer in seconds, some in days."""
    experts = people[:EXPERTS]
    # All but the last, who was never written to and so has no response time.
    correspondents = experts[:-1]
    typical_seconds = {
        expert.id: 40.0 * 3.1**rank for rank, expert in enumerate(correspondents[:9])
    }
    sample.add(FeaturedTaskExpert, [{"user_id": expert.id} for expert in experts])
    receivers = [expert for expert in correspondents for _ in range(20)]
    receivers += [sample.random.choice(people[EXPERTS:]) for _ in range(LETTERS_TO_OTHERS)]

    letters = [_letter(sample, people, receiver) for receiver in receivers]
    ids = sample.add_returning_ids(Message, letters)
    reads = []
    for id_, letter in zip(ids, letters, strict=True):
        # Some have not been read yet.
        if sample.random.random() < 0.85:
            typical = typical_seconds.get(letter["receiver_id"], 3_600)
            read_after = timedelta(seconds=typical * sample.random.uniform(0.5, 1.5))
            read_at = min(letter["created_at"] + read_after, sample.now)
            reads.append({"message_id": id_, "user_id": letter["receiver_id"], "read_at": read_at})
    sample.add(MessageRead, reads)


def _letter(sample: Sample, people: list[Person], receiver: Person) -> dict[str, Any]:
    chance = sample.random
    sender = chance.choice([person for person in people[-80:] if person is not receiver])
    # One in ten is the system's: an automatic welcome, say.
    is_from_system = chance.random() < 0.1
    return {
        "sender_id": None if is_from_system else sender.id,
        "receiver_id": receiver.id,
        "content": chance.choice(LETTERS[receiver.language]),
        "created_at": sample.ago(days=chance.uniform(0, 60)),
    }
