"""Jobs that end what has a date: coupons, invitation codes, points."""

import dramatiq

from workers.batches import Batches
from workers.job import Job, Run
from workers.marketplace import expiry, points


@dramatiq.actor(actor_class=Job, queue_name="default", max_retries=3, retry_delay_seconds=60)
def check_expired_coupons(run: Run) -> Batches:
    return expiry.expire_coupons(run.session, run.now, batch_size=run.batch_size)


@dramatiq.actor(actor_class=Job, queue_name="default", max_retries=3, retry_delay_seconds=60)
def check_expired_invitation_codes(run: Run) -> Batches:
    return expiry.expire_invitation_codes(run.session, run.now, batch_size=run.batch_size)


@dramatiq.actor(actor_class=Job, queue_name="default", max_retries=3, retry_delay_seconds=60)
def check_expired_points(run: Run) -> Batches:
    return points.expire_points(run.session, run.now, batch_size=run.batch_size)
