"""Keep which processes of the service are alive.

Revises: 0003
"""

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.execute(PROCESSES)
    op.execute(ENDED)


PROCESSES = """
CREATE TABLE service_processes (
    name text NOT NULL,
    kind text NOT NULL CHECK (kind IN ('worker', 'scheduler', 'standby', 'web')),
    queues text[] NOT NULL DEFAULT '{}',
    state text,
    started_at timestamptz NOT NULL DEFAULT now(),
    seen_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (name, kind)
);
"""

# For clearing away what ended long ago.
ENDED = """
CREATE INDEX job_runs_ended_idx
    ON job_runs (finished_at) WHERE status IN ('succeeded', 'skipped');
"""
