"""Jobs that keep tasks true."""

import dramatiq

from workers.batches import Batches
from workers.job import Job, Run
from workers.marketplace import tasks


@dramatiq.actor(actor_class=Job, queue_name="default", max_retries=3, retry_delay_seconds=60)
def cancel_expired_tasks(run: Run) -> Batches:
    return tasks.cancel_expired_tasks(run.session, run.now, batch_size=run.batch_size)
