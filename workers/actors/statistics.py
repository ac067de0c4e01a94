"""Jobs that compute figures: they may wait, and so are on the queue for that."""

import dramatiq

from workers.batches import Batches
from workers.job import Job, Run
from workers.marketplace import experts, statistics


@dramatiq.actor(actor_class=Job, queue_name="low", max_retries=2, retry_delay_seconds=300)
def update_all_users_statistics(run: Run) -> Batches:
    return statistics.update_statistics(run.session, run.now, batch_size=run.batch_size)


@dramatiq.actor(actor_class=Job, queue_name="low", max_retries=2, retry_delay_seconds=300)
def update_featured_task_experts_response_time(run: Run) -> Batches:
    return experts.update_experts(run.session, run.now, batch_size=run.batch_size)
