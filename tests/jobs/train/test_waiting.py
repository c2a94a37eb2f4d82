"""Runs that wait for resources, are refused, or end early."""

from pathlib import Path

import pytest

from tests.support.bounds import wait_until
from tests.support.job import (
    end_of,
    hashes,
    history_of,
    options_for,
    start,
    train,
)
from tests.support.local_cluster import temporary_cluster
from tests.support.untrained import UNTRAINED, untrained_weights

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("nothing_is_left")]


@pytest.mark.long
def test_f15_a_run_starts_when_a_late_node_joins(data_dir: Path, tmp_path: Path) -> None:
    with temporary_cluster(cpus=0) as cluster:
        command = (*options_for(cluster.address, data_dir, tmp_path), "--models=scratch")
        refused = train(*command, home=tmp_path)
        assert refused[0] == 4
        assert "the largest node has 0; add a node with CPUs" in refused[2]
        driver = start(*command, "--wait-for-resources=150", home=tmp_path, prelude=UNTRAINED)
        wait_until((tmp_path / "unfinished/r.lock").exists, "the run has not begun")
        cluster.add_nodes(cpus=1)
        code, stdout, stderr = end_of(driver)
    assert code == 0, stderr
    assert hashes(stdout) == {"scratch-s0": untrained_weights("scratch", epochs=20)}


OTHER_VERSION = """
from importlib import metadata
version = metadata.version
metadata.version = lambda name: "2.20.0" if name == "tensorflow" else version(name)
"""


@pytest.mark.long
def test_f22_workers_with_different_packages_are_refused_before_training(
    ray_address: str, data_dir: Path, tmp_path: Path
) -> None:
    code, _, stderr = train(*options_for(ray_address, data_dir, tmp_path), home=tmp_path, prelude=OTHER_VERSION)
    assert code == 8, stderr
    last = stderr.splitlines()[-1]
    assert last.startswith("error[E-CLUSTER-VERSIONS] the worker on ")
    assert "tensorflow 2.21.0 there, 2.20.0 here; install requirements/runtime.lock on every node" in last
    assert not [event for event in history_of(tmp_path / "runs/r") if event["event"] == "started"]
