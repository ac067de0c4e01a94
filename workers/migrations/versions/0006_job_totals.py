"""Count what happens to runs, so that counters outlive the rows that are cleared away.

Revises: 0004
"""

from alembic import op

revision = "0006"
down_revision = "0004"


def upgrade() -> None:
    for part in (TOTALS, COUNT, TRIGGER, SO_FAR):
        op.execute(part)


# Half of each page stays free: rows are updated with each run, and so in place.
TOTALS = """
CREATE TABLE job_totals (
    job text NOT NULL,
    event text NOT NULL CHECK (
        event IN ('started', 'succeeded', 'retrying', 'dead', 'skipped', 'lost')
    ),
    count bigint NOT NULL,
    seconds double precision NOT NULL DEFAULT 0,
    buckets bigint[] NOT NULL DEFAULT '{}',
    last_at timestamptz NOT NULL DEFAULT now(),
    last_slot timestamptz,
    since timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (job, event)
) WITH (fillfactor = 50);
"""

# What became of the run: its status, unless a dead run is merely sent again, or an attempt taken
# back. An attempt that begins while the last is still `running` says that the last one's worker was
# lost.
#
# Seconds are those that an attempt took, or that a new run waited for its first. What began under
# another status was not measured.
COUNT = """
CREATE FUNCTION count_job_run() RETURNS trigger
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    was text := CASE WHEN TG_OP = 'UPDATE' THEN OLD.status END;
    what text := NEW.status;
    took double precision;
    bounds double precision[] := '{0.01,0.05,0.1,0.5,1,5,10,30,60,300,900,1800}';
    measured bigint[] := array_fill(CAST(0 AS bigint), ARRAY[cardinality(bounds) + 1]);
BEGIN
    IF what = 'running' AND TG_OP = 'INSERT' THEN
        what := 'started';
        took := extract(epoch FROM NEW.started_at - NEW.enqueued_at);
    ELSIF what = 'running' AND was = 'running' AND NEW.attempt > OLD.attempt THEN
        what := 'lost';
    ELSIF what = 'running' OR what = was OR NEW.attempt < OLD.attempt
        OR (what = 'retrying' AND was IS DISTINCT FROM 'running')
    THEN
        RETURN NULL;
    ELSIF was = 'running' THEN
        took := extract(epoch FROM NEW.finished_at - NEW.started_at);
    END IF;

    IF took IS NOT NULL THEN
        took := greatest(took, 0);
        measured[width_bucket(took, bounds) + 1] := 1;
    END IF;
    INSERT INTO job_totals AS total (job, event, count, seconds, buckets, last_at, last_slot)
    VALUES (NEW.job, what, 1, coalesce(took, 0), measured,
            coalesce(NEW.finished_at, NEW.started_at, now()), NEW.slot)
    ON CONFLICT (job, event) DO UPDATE SET
        count = total.count + 1,
        seconds = total.seconds + excluded.seconds,
        buckets = ARRAY(
            SELECT coalesce(so_far, 0) + coalesce(more, 0)
            FROM unnest(total.buckets, excluded.buckets) WITH ORDINALITY AS bucket (so_far, more, i)
            ORDER BY i
        ),
        last_at = greatest(total.last_at, excluded.last_at),
        last_slot = greatest(total.last_slot, excluded.last_slot);
    RETURN NULL;
END
$$;
"""

TRIGGER = """
CREATE TRIGGER count_job_run AFTER INSERT OR UPDATE OF status, attempt ON job_runs
FOR EACH ROW EXECUTE FUNCTION count_job_run();
"""

# When each job last succeeded must be known from the start, or each would seem overdue.
SO_FAR = """
INSERT INTO job_totals (job, event, count, last_at, last_slot, since)
SELECT job, status, count(*), max(finished_at), max(slot), min(enqueued_at)
FROM job_runs WHERE status IN ('succeeded', 'dead', 'skipped') AND finished_at IS NOT NULL
GROUP BY job, status;
"""
