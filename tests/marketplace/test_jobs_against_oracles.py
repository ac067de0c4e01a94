"""Each job does what its rule says: in random marketplaces, in batches of any size, and once."""

import copy
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.marketplace import marketplace, worlds
from tests.marketplace.jobs import JOBS, NOW, run_job
from tests.marketplace.marketplace import Marketplace
from tests.marketplace.oracles import ORACLES
from workers.database import Database

WORLDS = {
    "process_customer_service_queue": worlds.customer_service(),
    "auto_end_timeout_chats": worlds.customer_service(),
    "send_timeout_warnings": worlds.customer_service(),
    "cleanup_long_inactive_chats": worlds.customer_service(),
    "cancel_expired_tasks": worlds.tasks(),
    "check_and_end_activities": worlds.tasks(),
    "update_all_users_statistics": worlds.tasks(),
    "check_expired_coupons": worlds.rewards(),
    "check_expired_invitation_codes": worlds.rewards(),
    "check_expired_points": worlds.rewards(),
    "update_featured_task_experts_response_time": worlds.experts(),
}

BATCH_SIZES = st.sampled_from([1, 2, 3, 10_000])


def comparable(world: Marketplace, before: Marketplace) -> dict[str, Any]:
    """A marketplace without what the database chose: ids of new rows, and its own clock."""
    known = {table: {row["id"] for row in rows if "id" in row} for table, rows in before.items()}
    new_chats = {
        chat["id"]: f"chat of {chat['user_id']}"
        for chat in world["customer_service_chats"]
        if chat["id"] not in known["customer_service_chats"]
    }

    def named(chat_id: Any) -> Any:
        return new_chats.get(chat_id, chat_id)

    def comparable_row(table: str, row: dict[str, Any]) -> dict[str, Any]:
        row = dict(row)
        if "id" in row and row["id"] not in known[table]:
            row["id"] = "new"
        if table == "outbox_events":
            row.pop("created_at", None)
            row["payload"] = row["payload"] | {"chat_id": named(row["payload"]["chat_id"])}
            row["key"] = str(row["payload"]["chat_id"])
        if table == "customer_service_queue":
            row["chat_id"] = named(row["chat_id"])
        if table == "notifications" and row["type"].startswith("customer_service"):
            row["related_id"] = named(row["related_id"])
        return row

    return {
        table: sorted((comparable_row(table, row) for row in rows), key=place)
        for table, rows in world.items()
    }


def place(row: dict[str, Any]) -> list[str]:
    """Where a row stands among others: by what is equal in equal rows."""
    exact = {
        # Equal numbers may have more or fewer zeros at their ends, or be means that go on for ever.
        name: value.normalize() if isinstance(value, Decimal) else value
        for name, value in row.items()
        if name != "response_seconds"
    }
    return [f"{name}={exact[name]!r}" for name in sorted(exact)]


@pytest.mark.parametrize("job", JOBS)
def test_job(shared_database: Database, job: str) -> None:
    @settings(max_examples=80)
    @given(world=WORLDS[job], batch_size=BATCH_SIZES)
    def does_what_its_rule_says(world: Marketplace, batch_size: int) -> None:
        marketplace.clear(shared_database)
        marketplace.fill(shared_database, world)
        before = marketplace.read(shared_database)
        expected = copy.deepcopy(before)
        expected_counts = ORACLES[job](expected, NOW)

        counts = run_job(shared_database, job, batch_size=batch_size)

        after = marketplace.read(shared_database)
        assert counts == expected_counts
        assert comparable(after, before) == comparable(expected, before)

        counts_again = run_job(shared_database, job, batch_size=batch_size)

        assert marketplace.read(shared_database) == after
        # These are what is left, and the rest is what was done.
        left = {name: counts[name] for name in ("waiting", "mismatched") if name in counts}
        assert counts_again == dict.fromkeys(counts, 0) | left

    does_what_its_rule_says()
