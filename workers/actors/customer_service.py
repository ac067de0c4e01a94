"""Customer-service jobs: urgent, so on a queue and in a process of their own."""

import dramatiq

from workers.batches import Batches
from workers.job import Job, Run
from workers.marketplace import assignment, retention, silence


@dramatiq.actor(
    actor_class=Job, queue_name="customer_service", max_retries=3, retry_delay_seconds=30
)
def process_customer_service_queue(run: Run) -> Batches:
    return assignment.assign_waiting(run.session, run.now, batch_size=run.batch_size)


@dramatiq.actor(
    actor_class=Job,
    queue_name="customer_service",
    priority=10,
    max_retries=3,
    retry_delay_seconds=30,
)
def auto_end_timeout_chats(run: Run) -> Batches:
    return silence.end_silent_chats(
        run.session, run.now, timeout=run.chat_timeout, batch_size=run.batch_size
    )


@dramatiq.actor(
    actor_class=Job,
    queue_name="customer_service",
    priority=20,
    max_retries=3,
    retry_delay_seconds=30,
)
def send_timeout_warnings(run: Run) -> Batches:
    return silence.warn_silent_chats(
        run.session,
        run.now,
        warning=run.chat_warning,
        timeout=run.chat_timeout,
        batch_size=run.batch_size,
    )


@dramatiq.actor(actor_class=Job, queue_name="low", max_retries=2, retry_delay_seconds=300)
def cleanup_long_inactive_chats(run: Run) -> Batches:
    return retention.delete_old_chats(
        run.session, run.now, retention=run.chat_retention, batch_size=run.batch_size
    )
