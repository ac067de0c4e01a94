"""Each job does what its rule says: in random marketplaces, in batches of any size, and once."""

import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.marketplace import marketplace, worlds
from tests.marketplace.jobs import JOBS, NOW, run_job
from tests.marketplace.marketplace import Marketplace, comparable
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
    "check_expired_points": worlds.points(),
    "update_featured_task_experts_response_time": worlds.experts(),
}

BATCH_SIZES = st.sampled_from([1, 2, 3, 10_000])


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
