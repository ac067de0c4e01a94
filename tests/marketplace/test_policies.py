"""Which queue, how often, how many retries, how far apart: other programs rely on these."""

import pytest

from tests.marketplace.jobs import JOBS
from workers import app

POLICIES = [
    ("process_customer_service_queue", "customer_service", "every 30 s", 3, 30),
    ("auto_end_timeout_chats", "customer_service", "every 30 s", 3, 30),
    ("send_timeout_warnings", "customer_service", "every 30 s", 3, 30),
    ("cancel_expired_tasks", "default", "every 1 min", 3, 60),
    ("check_expired_coupons", "default", "every 5 min", 3, 60),
    ("check_expired_invitation_codes", "default", "every 5 min", 3, 60),
    ("check_expired_points", "default", "every 5 min", 3, 60),
    ("check_and_end_activities", "default", "every 5 min", 2, 120),
    ("update_all_users_statistics", "low", "every 10 min", 2, 300),
    ("cleanup_long_inactive_chats", "low", "daily at 02:00 UTC", 2, 300),
    ("update_featured_task_experts_response_time", "low", "daily at 03:00 UTC", 2, 300),
]


@pytest.mark.parametrize("policy", POLICIES, ids=[job for job, *_ in POLICIES])
def test_each_job_has_its_policy(policy: tuple[str, str, str, int, int]) -> None:
    job = policy[0]
    actor = app.broker.get_actor(job)
    (entry,) = (entry for entry in app.schedule if entry.job == job)

    assert policy == (
        job,
        actor.queue_name,
        str(entry.spec),
        actor.options["max_retries"],
        actor.options["retry_delay_seconds"],
    )


def test_there_are_no_other_jobs() -> None:
    assert {job for job, *_ in POLICIES} == {entry.job for entry in app.schedule} == {*JOBS}
