"""The service needs no more from PostgreSQL than docs/security.md says."""

from collections.abc import Iterator
from uuid import uuid4

import pytest
from sqlalchemy import make_url

from tests.probes import PATIENCE_SECONDS
from tests.rig.postgres import query
from tests.rig.processes import Processes
from tests.rig.waiting import eventually
from workers import sample_data
from workers.database import Database
from workers.periodic import SCHEDULE, utc_now


@pytest.fixture
def restricted_url(database_url: str) -> Iterator[str]:
    """The database, as a role that may read and write its rows, and nothing else."""
    role = f"restricted_{uuid4().hex[:8]}"
    for statement in (
        f"CREATE ROLE {role} LOGIN PASSWORD 'secret'",
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role}",
        f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {role}",
    ):
        query(database_url, statement)
    url = make_url(database_url).set(username=role, password="secret")
    yield url.render_as_string(hide_password=False)
    query(database_url, f"DROP OWNED BY {role}")
    query(database_url, f"DROP ROLE {role}")


def test_every_job_succeeds_as_a_role_that_owns_nothing(
    processes: Processes, database: Database, database_url: str, restricted_url: str
) -> None:
    # Given a marketplace with something to do for each
    with database.transaction() as session:
        sample_data.fill(session, utc_now())

    # When everything runs as that role
    process = processes.start(
        "python", "-m", "workers", "run", env={"DATABASE_URL": restricted_url}
    )

    # Then all jobs of the schedule succeed, and something is left of them
    def find_succeeded() -> set[str]:
        return {
            row.job
            for row in query(database_url, "SELECT job FROM job_runs WHERE status = 'succeeded'")
        }

    eventually(
        lambda: find_succeeded() == {entry.job for entry in SCHEDULE},
        timeout_seconds=PATIENCE_SECONDS,
        message="Not every job succeeded",
    )
    assert query(database_url, "SELECT count(*) FROM notifications")[0][0] > 0
    assert "permission denied" not in process.output
    process.kill()
