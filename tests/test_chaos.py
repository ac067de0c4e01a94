"""A short ``make chaos``: faults at random, and an audit that finds nothing lost, nothing twice."""

import pytest

from tests.rig.processes import Processes


@pytest.mark.timeout(400)
def test_a_marketplace_under_faults_loses_nothing_and_does_nothing_twice(
    processes: Processes,
) -> None:
    done = processes.run(
        *("python", "-m", "chaos", "--faults", "8", "--seconds", "24"),
        # Rare, but without it no standby would have anything to do.
        *("--first", "keep_rabbitmq_away"),
        timeout_seconds=360,
    )

    # Its first line names the seed, by which the run can be repeated.
    assert done.returncode == 0, done.stdout + done.stderr
    assert "FAIL" not in done.stdout
    assert "Standbys took over 0 times" not in done.stdout
