"""Customer service, by example; `test_jobs_against_oracles` has it at random."""

from datetime import timedelta
from typing import Any

from sqlalchemy import text

from tests.marketplace import marketplace
from tests.marketplace.jobs import NOW, run_job
from tests.marketplace.marketplace import Rows
from workers.database import Database

ADA, BEN, EVA, ANA, BAO = range(1_000_001, 1_000_006)

WARN = "send_timeout_warnings"


def start(
    database: Database,
    *,
    agents: Rows,
    queue: list[int] | None = None,
    chats: Rows | None = None,
    languages: dict[int, str] | None = None,
) -> None:
    """Begin with these agents and chats, and people who came to the queue in this order."""
    marketplace.clear(database)
    marketplace.fill(
        database,
        {
            "users": [
                {
                    "id": user_id,
                    "name": "Somebody",
                    "language": (languages or {}).get(user_id, "en"),
                }
                for user_id in (ADA, BEN, EVA)
            ],
            "customer_service_agents": [
                {"name": "Agent", "is_online": True, **agent} for agent in agents
            ],
            "customer_service_chats": chats or [],
            "customer_service_queue": [
                {"user_id": user_id, "queued_at": NOW - timedelta(minutes=9 - place)}
                for place, user_id in enumerate(queue or [])
            ],
        },
    )


def chat(number: int, user_id: int, silent_for: int, **values: Any) -> dict[str, Any]:
    silence = timedelta(seconds=silent_for)
    return {
        "id": number,
        "user_id": user_id,
        "agent_id": ANA,
        "last_message_at": NOW - silence,
        **values,
    }


def assignments(database: Database) -> list[tuple[int, int | None]]:
    """Whom each entry of the queue went to, in the order of the queue."""
    entries = marketplace.read(database)["customer_service_queue"]
    in_order = sorted(entries, key=lambda entry: (entry["queued_at"], entry["id"]))
    return [(entry["user_id"], entry["assigned_agent_id"]) for entry in in_order]


def assign(database: Database, **options: Any) -> dict[str, int]:
    return run_job(database, "process_customer_service_queue", **options)


def test_each_goes_to_the_agent_with_most_room_then_the_better_one(
    shared_database: Database,
) -> None:
    for batch_size in (1, 2, 10_000):
        start(
            shared_database,
            agents=[
                {"id": ANA, "max_concurrent_chats": 2, "avg_rating": 4},
                {"id": BAO, "max_concurrent_chats": 1, "avg_rating": 5},
            ],
            queue=[ADA, BEN, EVA],
        )

        assert assign(shared_database, batch_size=batch_size) == {"assigned": 3, "waiting": 0}
        assert assignments(shared_database) == [(ADA, ANA), (BEN, BAO), (EVA, ANA)]


def test_who_has_two_open_chats_is_given_the_first(shared_database: Database) -> None:
    # Also when nobody has room, and when the agent of that chat has gone.
    start(
        shared_database,
        agents=[{"id": ANA, "is_online": False}],
        chats=[chat(2, ADA, 5), chat(1, ADA, 3), chat(3, ADA, 9, ended_at=NOW)],
        queue=[BEN, ADA, ADA],
    )

    assert assign(shared_database, batch_size=1) == {"assigned": 2, "waiting": 1}

    world = marketplace.read(shared_database)
    assert [entry["chat_id"] for entry in world["customer_service_queue"]] == [None, 1, 1]
    assert len(world["customer_service_chats"]) == 3
    # Told once, since it is one chat; but there is an event for each entry.
    assert len(world["notifications"]) == 1
    assert [event["payload"]["chat_id"] for event in world["outbox_events"]] == [1, 1]


def test_who_stands_in_the_queue_twice_gets_one_chat(shared_database: Database) -> None:
    for batch_size in (1, 2, 10_000):
        start(
            shared_database,
            agents=[{"id": ANA, "max_concurrent_chats": 1}],
            queue=[ADA, BEN, ADA],
        )

        assert assign(shared_database, batch_size=batch_size) == {"assigned": 2, "waiting": 1}
        assert assignments(shared_database) == [(ADA, ANA), (BEN, None), (ADA, ANA)]


def test_an_agent_with_more_chats_than_allowed_gets_none(shared_database: Database) -> None:
    start(
        shared_database,
        agents=[{"id": ANA, "max_concurrent_chats": 1}],
        chats=[chat(1, BEN, 1), chat(2, EVA, 1)],
        queue=[ADA],
    )

    assert assign(shared_database) == {"assigned": 0, "waiting": 1}


def test_agents_without_a_limit_take_turns(shared_database: Database) -> None:
    endless = 2**31 - 1
    start(
        shared_database,
        agents=[
            {"id": ANA, "max_concurrent_chats": endless, "avg_rating": 4},
            {"id": BAO, "max_concurrent_chats": endless, "avg_rating": 5},
        ],
        queue=[ADA, BEN, EVA],
    )

    assert assign(shared_database) == {"assigned": 3, "waiting": 0}
    assert assignments(shared_database) == [(ADA, BAO), (BEN, ANA), (EVA, BAO)]


def warnings(database: Database) -> list[str]:
    messages = marketplace.read(database)["customer_service_messages"]
    return [message["content"] for message in messages]


def test_a_silence_is_warned_of_once_and_a_new_one_again(shared_database: Database) -> None:
    start(shared_database, agents=[{"id": ANA}], chats=[chat(1, ADA, 60)])

    assert run_job(shared_database, WARN) == {"warned": 1}
    for seconds in (0, 30, 59):
        later = NOW + timedelta(seconds=seconds)
        assert run_job(shared_database, WARN, now=later) == {"warned": 0}

    # When somebody writes, and falls silent again
    spoken_at = NOW + timedelta(seconds=59)
    with shared_database.transaction() as session:
        session.execute(
            text("UPDATE customer_service_chats SET last_message_at = :at"), {"at": spoken_at}
        )
    later = spoken_at + timedelta(seconds=70, milliseconds=1)
    assert run_job(shared_database, WARN, now=later) == {"warned": 1}

    assert warnings(shared_database) == [
        "This chat ends in 60 s unless somebody writes.",
        "This chat ends in 50 s unless somebody writes.",
    ]
    events = marketplace.read(shared_database)["outbox_events"]
    assert [event["payload"]["seconds_left"] for event in events] == [60, 50]


def test_a_system_message_breaks_no_silence(shared_database: Database) -> None:
    start(shared_database, agents=[{"id": ANA}], chats=[chat(1, ADA, 60)])

    run_job(shared_database, WARN)

    later = NOW + timedelta(seconds=60)
    assert run_job(shared_database, "auto_end_timeout_chats", now=later) == {"ended": 1}
    (row,) = marketplace.read(shared_database)["customer_service_chats"]
    assert row["last_message_at"] == NOW - timedelta(seconds=60)


def test_everybody_is_told_in_their_language(shared_database: Database) -> None:
    start(
        shared_database,
        agents=[{"id": ANA}],
        chats=[chat(1, ADA, 60), chat(2, BEN, 60)],
        languages={BEN: "zh"},
    )

    run_job(shared_database, WARN)

    assert sorted(warnings(shared_database)) == [
        "This chat ends in 60 s unless somebody writes.",
        "如无新消息，本次对话将在60秒后结束。",
    ]
    told = {
        row["user_id"]: (row["title"], row["content"])
        for row in marketplace.read(shared_database)["notifications"]
    }
    assert told == {
        ADA: (
            "Your chat is about to end",
            "Your customer service chat ends in 60 s unless somebody writes.",
        ),
        BEN: ("对话即将结束", "如无新消息，您的客服对话将在60秒后结束。"),
    }
