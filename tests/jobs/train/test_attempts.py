"""Real faults of workers, nodes and trials. Trials that recover end with the weights of an undisturbed run."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.survival import running_workers
from mnist_lib.objects.local import LocalObjects
from mnist_lib.store.history import AttemptDied
from mnist_lib.store.runs import RunFolder
from mnist_lib.wording import counted
from tests.support.job import (
    ROOT,
    end_of,
    hashes,
    options_for,
    pid_of,
    start,
    starts_of,
    train,
)
from tests.support.local_cluster import LocalCluster, temporary_cluster
from tests.support.store.invariants import all_verified
from tests.support.untrained import UNTRAINED, untrained_weights

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("nothing_is_left")]


@pytest.mark.long
def test_f1_f9_a_trial_resumes_after_its_worker_is_killed_with_the_weights_of_an_undisturbed_one(
    ray_address: str, data_dir: Path, tmp_path: Path
) -> None:
    run = tmp_path / "runs/r"
    driver = start(*options_for(ray_address, data_dir, tmp_path), "--cpu-replicas=2", home=tmp_path)
    os.kill(pid_of("scratch-s0", run, epoch=5), signal.SIGKILL)
    code, stdout, stderr = end_of(driver)
    assert code == 0, stderr
    _, resumed_after = starts_of("scratch-s0", run)
    assert resumed_after >= 4
    assert f"attempt 1 of scratch-s0 died (worker killed); resuming after {counted(resumed_after, 'epoch')}" in stderr
    assert starts_of("keras-s0", run) == [0]  # it had ended in the same worker
    assert {trial["id"]: trial["attempts"] for trial in json.loads(stdout)["trials"]} == {
        "keras-s0": 1,
        "scratch-s0": 2,
    }
    assert sorted(path.name for path in (run / "trials/scratch-s0").iterdir()) == ["result.json", "tb"]
    assert [all_verified(LocalObjects(tmp_path), model) for model in ("keras", "scratch")] == [[1], [1]]
    again = ["reproduce", "scratch@latest", "--json", f"--data-dir={data_dir}", f"--storage={tmp_path}"]
    done = subprocess.run([sys.executable, "-m", "jobs.models", *again], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert (found["verdict"], found["differing"], found["again"]) == ("identical", {}, found["stored"])


KILL_ITSELF = """
from jobs.train import worker
train_lane = worker.run_lane
def run_lane(assignments, *arguments):
    import os
    def checked():
        for assignment in assignments:
            if assignment.spec.id in KILLED:
                os.kill(os.getpid(), 9)
            yield assignment
    yield from train_lane(checked(), *arguments)
worker.run_lane = run_lane
"""


@pytest.mark.long
def test_f2_if_one_trial_dies_the_others_are_stored_and_the_exit_code_is_9(
    ray_address: str, data_dir: Path, tmp_path: Path
) -> None:
    prelude = UNTRAINED + "KILLED = ['keras-s0']" + KILL_ITSELF
    code, stdout, stderr = train(
        *options_for(ray_address, data_dir, tmp_path), "--max-failures=1", home=tmp_path, prelude=prelude
    )
    assert code == 9, stderr
    assert "keras-s0: failed: E-CRASH failed after 2 attempts: worker killed" in stderr
    assert "then start a run with another --run-name" in stderr
    rows = {trial["id"]: trial for trial in json.loads(stdout)["trials"]}
    assert rows["keras-s0"]["error"]["code"] == "E-CRASH"
    assert rows["scratch-s0"]["weights_sha256"] == untrained_weights("scratch", epochs=20)
    assert all_verified(LocalObjects(tmp_path), "scratch") == [1]
    assert not (tmp_path / "models/keras").exists()


@pytest.mark.long
def test_f2_with_require_all_nothing_is_stored_until_the_same_command_has_trained_the_lost_trial(
    ray_address: str, data_dir: Path, tmp_path: Path
) -> None:
    command = (*options_for(ray_address, data_dir, tmp_path), "--epochs=2", "--max-failures=0", "--require-all")
    prelude = UNTRAINED + "KILLED = ['keras-s0']" + KILL_ITSELF
    code, stdout, stderr = train(*command, home=tmp_path, prelude=prelude)
    assert (code, stdout) == (5, ""), stderr
    assert stderr.splitlines()[-1].startswith("error[E-CRASH] keras-s0: failed after 1 attempt: worker killed")
    assert "; nothing is stored yet; the same command trains what is missing" in stderr.splitlines()[-1]
    assert not (tmp_path / "models").exists()
    code, stdout, stderr = train(*command, home=tmp_path, prelude=UNTRAINED)
    assert code == 0, stderr
    assert "resuming run r: 1 of 2 trials ended" in stderr
    assert starts_of("scratch-s0", tmp_path / "runs/r") == [0]
    assert [all_verified(LocalObjects(tmp_path), model) for model in ("keras", "scratch")] == [[1], [1]]


@pytest.mark.long
def test_f3_the_trial_of_a_lost_node_resumes_on_another_node(data_dir: Path, tmp_path: Path) -> None:
    with temporary_cluster(cpus=0) as cluster:
        (node,) = cluster.add_nodes(cpus=1)
        command = (*options_for(cluster.address, data_dir, tmp_path), "--models=scratch")
        driver = start(*command, home=tmp_path, prelude=UNTRAINED)
        pid_of("scratch-s0", tmp_path / "runs/r", epoch=5)
        cluster.kill(node)
        cluster.add_nodes(cpus=1)
        code, stdout, stderr = end_of(driver)
    assert code == 0, stderr
    # The worker ends with its node, and either may be noticed first.
    assert re.search(r"attempt 1 of scratch-s0 died \((node lost|worker killed)\); resuming after [1-9]", stderr)
    assert hashes(stdout) == {"scratch-s0": untrained_weights("scratch", epochs=20)}


@pytest.mark.long
def test_f23_trials_whose_workers_and_nodes_die_at_random_end_with_the_weights_of_an_undisturbed_run(
    data_dir: Path, tmp_path: Path
) -> None:
    with temporary_cluster(cpus=0) as cluster:
        nodes = cluster.add_nodes(3, cpus=1)
        options = ("--address", cluster.address, "--data-dir", data_dir, "--seeds=3", "--epochs=6", "--max-failures=9")
        command = (*options, "--cpus-per-trial=1", "--checkpoint-seconds=0", "--run-name=r", "--json", "--no-report")
        code, undisturbed, stderr = train(*command, "--storage", tmp_path / "undisturbed", home=tmp_path)
        assert code == 0, stderr
        (storage := tmp_path / "disturbed").mkdir()
        driver = start(*command, "--storage", storage, home=tmp_path)
        folder = RunFolder(LocalObjects(storage), "r")
        kill_at_random(folder, driver, cluster, nodes)
        code, disturbed, stderr = end_of(driver)
    assert code == 0, stderr
    assert len(hashes(undisturbed)) == 6
    assert hashes(disturbed) == hashes(undisturbed)
    assert sum(isinstance(entry, AttemptDied) for entry in folder.history()) >= 4


def kill_at_random(folder: RunFolder, driver: "subprocess.Popen[str]", cluster: LocalCluster, nodes: list[int]) -> None:
    """Kill three workers and then a node, when the run's history has random numbers of entries."""
    chance = random.Random(7)
    moments = sorted(chance.sample(range(1, 36), 4))  # 36 epochs are trained in all
    while moments and driver.poll() is None:
        history = [*folder.history()]
        running = running_workers(history)
        if len(history) >= moments[0] and running:
            moments.pop(0)
            if moments:
                os.kill(running[chance.choice(sorted(running))], signal.SIGKILL)
            else:
                cluster.kill(chance.choice(nodes))
        time.sleep(0.5)  # the run notices the death meanwhile


@pytest.mark.long
def test_f4_a_trial_that_runs_out_of_memory_is_retried_once(data_dir: Path, tmp_path: Path) -> None:
    """The node that trains counts as full at 1% of its memory; the head, which prepares the data, does not."""
    with temporary_cluster(cpus=0) as cluster:
        threshold = {"RAY_memory_usage_threshold": "0.01", "RAY_memory_monitor_refresh_ms": "100"}
        with pytest.MonkeyPatch.context() as environment:
            for name, value in threshold.items():
                environment.setenv(name, value)
            cluster.add_nodes(cpus=1)
        command = (*options_for(cluster.address, data_dir, tmp_path), "--models=keras", "--epochs=1000")
        code, _, stderr = train(*command, home=tmp_path, prelude=UNTRAINED)
    assert code == 5, stderr
    last = stderr.splitlines()[-1]
    assert last.startswith("error[E-OOM] keras-s0: failed after 2 attempts: out of memory on ")
    assert "GB in use" in last
    assert "--cpus-per-trial" in last


ONE_DIVERGES = """
from jobs.train import worker
train_lane = worker.run_lane
def run_lane(assignments, *arguments):
    from dataclasses import replace
    def changed():
        for given in assignments:
            diverges = given.spec.id == "scratch-s0"
            yield replace(given, spec=replace(given.spec, learning_rate=1e38)) if diverges else given
    yield from train_lane(changed(), *arguments)
worker.run_lane = run_lane
"""


@pytest.mark.long
def test_f11_f12_a_diverged_trial_is_not_retried_and_the_others_are_stored(
    ray_address: str, data_dir: Path, tmp_path: Path
) -> None:
    arguments = [argument for argument in options_for(ray_address, data_dir, tmp_path) if argument != "--json"]
    command = (*arguments, "--models=scratch", "--seeds=2", "--epochs=2", "--max-concurrent=1")
    code, stdout, stderr = train(*command, home=tmp_path, prelude=ONE_DIVERGES)
    assert code == 9, stderr
    assert "scratch-s0 failed: E-NAN the loss of epoch 1, step" in stdout
    assert "scratch-s0: failed: E-NAN the loss of epoch 1, step" in stderr
    assert len(starts_of("scratch-s0", tmp_path / "runs/r")) == 1
    assert all_verified(LocalObjects(tmp_path), "scratch") == [1]
    assert json.loads((tmp_path / "runs/r/summary.json").read_text())["models"]["scratch"]["trials"] == 1
