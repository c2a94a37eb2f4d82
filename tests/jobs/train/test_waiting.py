"""Runs that wait for resources, are refused, or end early."""

import json
import time
from pathlib import Path

import pytest

from cluster.local import temporary_cluster
from tests.support.bounds import assert_at_most
from tests.support.clusters import every_cpu_taken
from tests.support.job import (
    hashes,
    history_of,
    options_for,
    start,
    train,
    with_limits,
)
from tests.support.untrained import UNTRAINED, untrained_weights

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("nothing_is_left")]


def test_f14_a_run_that_finds_every_node_busy_says_why_and_ends_with_exit_code_4(
    ray_address: str, data_dir: Path, tmp_path: Path
) -> None:
    command = (*options_for(ray_address, data_dir, tmp_path), "--wait-for-resources=3")
    with every_cpu_taken(600):
        code, _, stderr = train(*command, home=tmp_path, prelude=with_limits(log_interval_seconds=1.0))
    assert code == 4, stderr
    lines = stderr.splitlines()
    assert any("waiting for" in line and "at most 3 (--wait-for-resources)" in line for line in lines), stderr
    assert any("0 of 2 CPUs, 2 of 2 GPUs free" in line for line in lines), stderr
    assert lines[-1].startswith("error[E-RESOURCES] ")
    assert "wait longer with --wait-for-resources" in lines[-1]


@pytest.mark.long
def test_f15_a_run_starts_when_a_late_node_joins(data_dir: Path, tmp_path: Path) -> None:
    with temporary_cluster(cpus=0) as cluster:
        command = (*options_for(cluster.address, data_dir, tmp_path), "--models=scratch")
        refused = train(*command, home=tmp_path)
        assert refused[0] == 4
        assert "the largest node has 0; add a node with CPUs" in refused[2]
        driver = start(*command, "--wait-for-resources=60", home=tmp_path, prelude=UNTRAINED)
        time.sleep(5)
        cluster.add_nodes(cpus=1)
        stdout, stderr = driver.communicate(timeout=200)
    assert driver.returncode == 0, stderr
    assert hashes(stdout) == {"scratch-s0": untrained_weights("scratch", epochs=20)}


OTHER_VERSION = """
from importlib import metadata
version = metadata.version
metadata.version = lambda name: "2.20.0" if name == "tensorflow" else version(name)
"""


def test_f22_workers_with_different_packages_are_refused_before_training(
    ray_address: str, data_dir: Path, tmp_path: Path
) -> None:
    code, _, stderr = train(*options_for(ray_address, data_dir, tmp_path), home=tmp_path, prelude=OTHER_VERSION)
    assert code == 8, stderr
    last = stderr.splitlines()[-1]
    assert last.startswith("error[E-CLUSTER-VERSIONS] the worker on ")
    assert "tensorflow 2.21.0 there, 2.20.0 here; install requirements/runtime.lock on every node" in last
    assert not [event for event in history_of(tmp_path / "runs/r") if event["event"] == "started"]


@pytest.mark.long
def test_a_run_whose_time_is_up_trains_fewer_epochs_and_says_so(
    ray_address: str, data_dir: Path, tmp_path: Path
) -> None:
    command = (*options_for(ray_address, data_dir, tmp_path), "--models=scratch", "--epochs=100000", "--max-seconds=12")
    begin = time.monotonic()
    code, stdout, stderr = train(*command, home=tmp_path)
    assert code == 0, stderr
    assert_at_most(40, since=begin)
    (trial,) = json.loads(stdout)["trials"]
    assert 1 <= trial["trained_epochs"] < 100_000
    assert f"after {trial['trained_epochs']} of 100000 epochs: out of time" in stderr
    assert trial["test"]["total"] == 1_000
