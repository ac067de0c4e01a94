"""Let statistics be counted from the indexes alone.

Revises: 0004
"""

from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    for part in (TASKS, REVIEWS):
        op.execute(part)


# Each takes the place of one on the person alone. A change of status wrote to all indexes of a task
# before, and does no more now.
TASKS = """
DROP INDEX tasks_poster_id_idx;
CREATE INDEX tasks_poster_id_status_idx ON tasks (poster_id, status);
DROP INDEX tasks_taker_id_idx;
CREATE INDEX tasks_taker_id_status_idx ON tasks (taker_id, status) WHERE taker_id IS NOT NULL;
"""

REVIEWS = """
DROP INDEX reviews_reviewee_id_idx;
CREATE INDEX reviews_reviewee_id_rating_idx ON reviews (reviewee_id, rating);
"""
