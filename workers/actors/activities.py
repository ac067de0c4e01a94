"""Jobs that keep activities true."""

import dramatiq

from workers.batches import Batches
from workers.job import Job, Run
from workers.marketplace import activities


@dramatiq.actor(actor_class=Job, queue_name="default", max_retries=2, retry_delay_seconds=120)
def check_and_end_activities(run: Run) -> Batches:
    return activities.end_activities(run.session, run.now, batch_size=run.batch_size)
