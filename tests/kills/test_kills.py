"""Tests that runs whose processes are killed at random moments end as quiet runs do. They take minutes."""

from pathlib import Path

import kills
import pytest

SEEDS = (3, 5, 8, 9, 12, 15)
"""Seeds that draw different ways to train, groupings and victims."""


@pytest.mark.kills
@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="finds processes through /proc")
@pytest.mark.parametrize("seed", SEEDS)
def test_a_run_whose_processes_are_killed_ends_as_the_quiet_run_does(seed: int, tmp_path: Path) -> None:
    [outcome] = kills.kill_runs([seed], tmp_path)
    assert outcome.kills >= 1, outcome.plan
    assert outcome.faults == (), outcome.plan
