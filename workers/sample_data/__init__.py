"""A small marketplace to look at.

Every job finds something to do in it, at once and again in the minutes after.
"""

from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from workers.models import User
from workers.sample_data.customer_service import add_customer_service
from workers.sample_data.people import add_experts, add_people
from workers.sample_data.rewards import add_coupons, add_invitation_codes, add_points
from workers.sample_data.sample import Sample
from workers.sample_data.tasks import add_activities, add_tasks

__all__ = ["fill"]


def fill(session: Session, now: datetime) -> dict[str, int]:
    """Add the sample, in the transaction of `session`, unless the database has users already.

    Args:
        session: where to.
        now: the present of the sample. The same `now` gives the same rows, always.

    Returns:
        the number of rows added to each table; empty if nothing was.
    """
    if session.scalar(select(User.id).limit(1)) is not None:
        return {}
    sample = Sample(session, now)
    people = add_people(sample)
    add_experts(sample, people)
    add_customer_service(sample, people)
    add_tasks(sample, people, add_activities(sample))
    add_coupons(sample, people)
    add_invitation_codes(sample)
    add_points(sample, people)
    return dict(sample.counts)
