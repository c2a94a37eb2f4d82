"""Real faults of workers, nodes and trials. Trials that recover end with the weights of an undisturbed run."""

import json
import os
import re
import signal
import time
from pathlib import Path

import pytest

from cluster.local import temporary_cluster
from mnist_lib.objects.local import LocalObjects
from tests.support.clusters import wait_until
from tests.support.job import (
    IMPATIENT,
    hashes,
    history_of,
    options_for,
    pid_of,
    start,
    starts_of,
    train,
)
from tests.support.store.invariants import all_verified
from tests.support.untrained import UNTRAINED, untrained_weights

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("nothing_is_left")]


def test_f1_a_trial_resumes_from_its_checkpoint_after_its_worker_is_killed(
    ray_address: str, data_dir: Path, tmp_path: Path
) -> None:
    command = (*options_for(ray_address, data_dir, tmp_path / "calm"), "--models=scratch")
    code, calm, stderr = train(*command, home=tmp_path)
    assert code == 0, stderr
    driver = start(*options_for(ray_address, data_dir, tmp_path), "--models=scratch", home=tmp_path)
    os.kill(pid_of("scratch-s0", tmp_path / "runs/r", epoch=5), signal.SIGKILL)
    stdout, stderr = driver.communicate(timeout=100)
    assert driver.returncode == 0, stderr
    _, resumed_after = starts_of("scratch-s0", tmp_path / "runs/r")
    assert resumed_after >= 4
    assert f"attempt 1 of scratch-s0 died (worker killed); resuming at epoch {resumed_after + 1}" in stderr
    assert hashes(stdout) == hashes(calm)
    assert json.loads(stdout)["trials"][0]["attempts"] == 2
    assert all_verified(LocalObjects(tmp_path), "scratch") == [1]
    assert sorted(path.name for path in (tmp_path / "runs/r/trials/scratch-s0").iterdir()) == ["result.json", "tb"]


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


def test_f2_a_run_whose_only_trial_dies_in_every_attempt_ends_with_exit_code_5(
    ray_address: str, data_dir: Path, tmp_path: Path
) -> None:
    prelude = UNTRAINED + "KILLED = ['keras-s0']" + KILL_ITSELF
    command = (*options_for(ray_address, data_dir, tmp_path), "--models=keras", "--max-failures=1")
    code, _, stderr = train(*command, home=tmp_path, prelude=prelude)
    assert code == 5, stderr
    assert stderr.splitlines()[-1].startswith("error[E-CRASH] keras-s0: failed after 2 attempts: worker killed")
    assert "start a run with another --run-name" in stderr.splitlines()[-1]
    assert "Traceback" not in stderr


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
    rows = {trial["id"]: trial for trial in json.loads(stdout)["trials"]}
    assert rows["keras-s0"]["error"]["code"] == "E-CRASH"
    assert rows["scratch-s0"]["weights_sha256"] == untrained_weights("scratch", epochs=20)
    assert all_verified(LocalObjects(tmp_path), "scratch") == [1]
    assert not (tmp_path / "models/keras").exists()


def test_with_require_all_nothing_is_stored_until_the_same_command_has_trained_the_lost_trial(
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
        stdout, stderr = driver.communicate(timeout=100)
    assert driver.returncode == 0, stderr
    # The worker ends with its node, and either may be noticed first.
    assert re.search(r"attempt 1 of scratch-s0 died \((node lost|worker killed)\); resuming at epoch", stderr)
    assert hashes(stdout) == {"scratch-s0": untrained_weights("scratch", epochs=20)}


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


@pytest.mark.long
def test_f8_a_silent_attempt_is_abandoned_and_its_late_events_are_ignored(
    ray_address: str, data_dir: Path, tmp_path: Path
) -> None:
    command = (*options_for(ray_address, data_dir, tmp_path), "--models=scratch")
    driver = start(*command, home=tmp_path, prelude=IMPATIENT + UNTRAINED)
    silent = pid_of("scratch-s0", tmp_path / "runs/r", epoch=2)
    os.kill(silent, signal.SIGSTOP)
    wait_until(
        lambda: [e for e in history_of(tmp_path / "runs/r") if e["event"] == "died"],
        "the attempt was not abandoned",
        30,
    )
    os.kill(silent, signal.SIGCONT)
    stdout, stderr = driver.communicate(timeout=100)
    assert driver.returncode == 0, stderr
    assert "attempt 1 of scratch-s0 died (silent); resuming at epoch" in stderr
    assert hashes(stdout) == {"scratch-s0": untrained_weights("scratch", epochs=20)}
    assert all_verified(LocalObjects(tmp_path), "scratch") == [1]
    wait_until(lambda: not Path(f"/proc/{silent}").exists(), "the silent worker still runs", 20)


STOPS_AT_THE_END = """
from jobs.train import worker
train_lane = worker.run_lane
def run_lane(*arguments):
    import os, signal
    yield from train_lane(*arguments)
    os.kill(os.getpid(), signal.SIGSTOP)
worker.run_lane = run_lane
"""


def test_u2_a_worker_that_stops_after_its_last_result_is_killed_and_its_run_ends(
    ray_address: str, data_dir: Path, tmp_path: Path
) -> None:
    begin = time.monotonic()
    command = (*options_for(ray_address, data_dir, tmp_path), "--models=scratch", "--epochs=2")
    code, _, stderr = train(*command, home=tmp_path, prelude=UNTRAINED + STOPS_AT_THE_END)
    assert code == 0, stderr
    assert time.monotonic() - begin < 60


@pytest.mark.long
def test_f9_the_unfinished_trials_of_a_dead_lane_go_to_the_next_attempt(
    ray_address: str, data_dir: Path, tmp_path: Path
) -> None:
    run = tmp_path / "runs/r"
    command = (*options_for(ray_address, data_dir, tmp_path), "--seeds=2", "--cpus-per-trial=2")
    driver = start(*command, home=tmp_path, prelude=UNTRAINED)
    wait_until(lambda: [e for e in history_of(run) if e["event"] == "ended"], "no trial has ended")
    os.kill(next(e["pid"] for e in history_of(run) if e["event"] == "started"), signal.SIGKILL)
    stdout, stderr = driver.communicate(timeout=100)
    assert driver.returncode == 0, stderr
    assert "attempt 1 of keras-s1 died (worker killed)" in stderr
    assert [len(starts_of(trial, run)) for trial in ("keras-s0", "scratch-s0", "scratch-s1")] == [1, 1, 1]
    assert hashes(stdout) == {
        f"{model}-s{seed}": untrained_weights(model, seed, epochs=20)
        for model in ("keras", "scratch")
        for seed in (0, 1)
    }


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


def test_f16_a_granted_gpu_that_tensorflow_does_not_see_gives_exit_code_5(
    ray_address: str, data_dir: Path, tmp_path: Path
) -> None:
    command = ("--address", ray_address, "--data-dir", data_dir, "--storage", tmp_path, "--models=keras")
    code, _, stderr = train(*command, "--no-report", home=tmp_path)
    assert code == 5, stderr
    assert stderr.splitlines()[-1].startswith(
        "error[E-GPU-INVISIBLE] keras-s0: expected TensorFlow to see 1 GPU, got 0"
    )
    assert "--allow-cpu" in stderr.splitlines()[-1]


def test_a_trial_that_exceeds_its_timeout_is_abandoned(ray_address: str, data_dir: Path, tmp_path: Path) -> None:
    command = (
        *options_for(ray_address, data_dir, tmp_path),
        "--models=scratch",
        "--epochs=100000",
        "--trial-timeout=3",
    )
    code, _, stderr = train(*command, home=tmp_path, prelude=UNTRAINED)
    assert code == 5, stderr
    last = stderr.splitlines()[-1]
    assert last.startswith("error[E-TIMEOUT] scratch-s0: failed after 1 attempt: timed out after 3 s")
