"""The driver in simulated worlds. A longer campaign is `make simulate N=100000 SEED=1`."""

import json
import os
import subprocess
import sys

import pytest

from tests.support.job import ROOT
from tests.support.simulation.world import simulate

PER_TEST = 50
USAGE_TAIL = [pytest.param(first, marks=pytest.mark.long) for first in range(2 * PER_TEST, 400, PER_TEST)]


@pytest.mark.parametrize("first", [0, pytest.param(PER_TEST, marks=pytest.mark.slow), *USAGE_TAIL])
def test_p8_in_simulated_worlds_every_trial_ends_once_with_the_right_weights(first: int) -> None:
    for seed in range(first, first + PER_TEST):
        simulate(seed)


@pytest.mark.parametrize("offset", [0, pytest.param(PER_TEST, marks=pytest.mark.long)])
@pytest.mark.slow
def test_p8_worlds_of_a_fresh_seed_keep_the_same_invariants(offset: int) -> None:
    first = int(os.environ["FRESH_SEED"]) + offset
    for seed in range(first, first + PER_TEST):
        simulate(seed)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("nodes", "trials", "deaths"), [(100, 1_000, 10), pytest.param(1_000, 4_000, 100, marks=pytest.mark.long)]
)
def test_a_driver_of_many_lanes_needs_little_time_memory_and_log_text_when_workers_keep_dying(
    nodes: int, trials: int, deaths: int
) -> None:
    command = [sys.executable, "-m", "tests.support.simulation.scale", *map(str, (nodes, trials, deaths))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["ok"] == trials
    assert found["attempts"] > 1.05 * trials
    assert found["virtual_seconds"] < 1.5 * trials / nodes * 130  # a trial takes 127 s
    assert found["milliseconds_per_event"] < 3
    assert found["megabytes"] < 500
    assert found["longest_line"] < 500
    assert found["most_progress_lines_in_a_second"] == 1
    assert found["events_at_full_storage"] < 0.01 * found["events"]  # with 40 ms for each request
