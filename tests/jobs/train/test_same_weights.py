"""The same command gives the same weights, however often it is killed, on how many CPUs, and beside which trials.

On some processors, weights depend on the number of threads.
"""

import json
import random
import signal
from pathlib import Path

import pytest

from benchmarks import survival
from mnist_lib.store.contents import MANIFEST
from mnist_lib.store.margins import MARGINS
from tests.support.job import hashes, pid_of, start, train
from tests.support.local_cluster import temporary_cluster

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return survival.write_pictures(tmp_path_factory.mktemp("pictures"), survival.FEW_PICTURES)


@pytest.fixture(scope="module")
def options(pictures: Path) -> tuple[str, ...]:
    """The options of six trials."""
    return ("--dataset", str(pictures), *survival.FEW, "--seeds", "3")


@pytest.fixture(scope="module")
def undisturbed(options: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> survival.CompletedRun:
    return survival.undisturbed_run(tmp_path_factory.mktemp("undisturbed"), None, *options)


@pytest.mark.parametrize("seed", [1, 2])
def test_x6_a_run_that_is_killed_five_times_has_the_weights_of_an_undisturbed_one(
    seed: int, options: tuple[str, ...], pictures: Path, undisturbed: survival.CompletedRun, tmp_path: Path
) -> None:
    killed = survival.kill_again_and_again(tmp_path / "store", None, random.Random(seed), *options)
    survival.require_same(undisturbed, killed)
    survival.require_reproduced(tmp_path / "store", pictures)


@pytest.mark.parametrize(("first", "then"), [(2, 1), (1, 2)])
def test_x6_a_run_that_is_resumed_on_another_number_of_cpus_keeps_its_threads(
    first: int, then: int, pictures: Path, data_dir: Path, tmp_path: Path
) -> None:
    def command(storage: str) -> tuple[str | Path, ...]:
        options = ("--dataset", pictures, "--data-dir", data_dir, "--storage", tmp_path / storage)
        return (*options, "--models=keras-cnn", "--epochs=15", "--run-name=r", "--json", "--checkpoint-seconds=0")

    with temporary_cluster(cpus=first) as cluster:
        code, whole, stderr = train(*command("whole"), "--address", cluster.address, home=tmp_path)
        assert code == 0, stderr
        driver = start(*command("resumed"), "--address", cluster.address, home=tmp_path)
        pid_of("keras-cnn-s0", tmp_path / "resumed/runs/r", epoch=3)
        driver.send_signal(signal.SIGKILL)
        driver.communicate()
    with temporary_cluster(cpus=then) as cluster:
        code, resumed, stderr = train(*command("resumed"), "--address", cluster.address, home=tmp_path)
    assert code == 0, stderr
    assert f"each trial keeps the threads of {first} CPU" in stderr
    assert hashes(resumed) == hashes(whole)
    version = tmp_path / "resumed/models/keras-cnn/versions/1"
    assert (version / MARGINS).read_bytes() == (tmp_path / "whole/models/keras-cnn/versions/1" / MARGINS).read_bytes()
    manifest = json.loads((version / MANIFEST).read_text())
    assert manifest["record"]["cpus"] == first


def test_a_trial_has_the_same_weights_alone_and_beside_one_that_needs_more_threads(
    pictures: Path, data_dir: Path, tmp_path: Path
) -> None:
    """The halves of a batch of `keras-cnn` share the CPUs, so that it needs a process of its own."""
    of_lane = ("--cpus-per-trial=2", "--max-concurrent=1", "--batch-size=128", "--epochs=3")
    options = ("--dataset", pictures, "--data-dir", data_dir, "--run-name=r", "--json", *of_lane)
    alone = train(*options, "--models=keras-cnn", "--storage", tmp_path / "alone", home=tmp_path)
    both = train(*options, "--models=keras,keras-cnn", "--storage", tmp_path / "both", home=tmp_path)
    assert (alone[0], both[0]) == (0, 0), alone[2] + both[2]
    assert hashes(alone[1])["keras-cnn-s0"] == hashes(both[1])["keras-cnn-s0"]
    survival.require_reproduced(tmp_path / "both", pictures)
