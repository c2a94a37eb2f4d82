"""Faults of processes, nodes and clusters: real kills of real processes. A run that recovers ends with the weights of
the calm run, bit for bit, and leaves no process behind."""

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from mnist_lib.store.local import LocalObjects
from tests.conftest import own_cluster
from tests.jobs.job import ROOT, history_of, pid_of, processes_of, start, train, wait_until
from tests.mnist_lib.store.invariants import all_verified

pytestmark = pytest.mark.slow

TRAINING = ("--epochs=40", "--checkpoint-seconds=0", "--gpus-per-trial=0", "--run-name=r", "--json")


@pytest.fixture(scope="module")
def calm(ray_address: str, data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The weights' hash of each trial of an undisturbed run."""
    home = tmp_path_factory.mktemp("calm")
    code, stdout, stderr = train(*at(ray_address, data_dir, home), "--seeds=2", home=home)
    assert code == 0, stderr
    return hashes(stdout)


def at(address: str, data_dir: Path, storage: Path) -> tuple[str | Path, ...]:
    return ("--address", address, "--data-dir", data_dir, "--storage", storage, *TRAINING)


def hashes(stdout: str) -> dict[str, str]:
    return {trial["id"]: trial["weights_sha256"] for trial in json.loads(stdout)["trials"]}


def starts_of(trial: str, run: Path) -> list[int]:
    """After how many epochs each attempt at it went on."""
    return [e["resumed_after"] for e in history_of(run) if e["trial"] == trial and e["event"] == "started"]


def test_f1_a_worker_that_is_killed_is_followed_by_one_that_goes_on_where_it_was(
    calm: dict[str, str], ray_address: str, data_dir: Path, tmp_path: Path
) -> None:
    driver = start(*at(ray_address, data_dir, tmp_path), "--models=scratch", home=tmp_path)
    os.kill(pid_of("scratch-s0", tmp_path / "runs/r", epoch=5), signal.SIGKILL)
    stdout, stderr = driver.communicate(timeout=100)
    assert driver.returncode == 0, stderr
    _, resumed_after = starts_of("scratch-s0", tmp_path / "runs/r")
    assert resumed_after >= 4
    assert f"attempt 1 of scratch-s0 died (worker killed); resuming at epoch {resumed_after + 1}" in stderr
    assert hashes(stdout) == {"scratch-s0": calm["scratch-s0"]}
    assert json.loads(stdout)["trials"][0]["attempts"] == 2
    assert all_verified(LocalObjects(tmp_path), "scratch") == [1]
    assert [path.name for path in (tmp_path / "runs/r/trials/scratch-s0").iterdir()] == ["result.json"]


KILLS_ITSELF = """
from jobs import worker
train_lane = worker.run_lane
def run_lane(dataset, resources, pace, specs, checkpoints):
    import os
    if specs[0].id in DYING:
        os.kill(os.getpid(), 9)
    yield from train_lane(dataset, resources, pace, specs, checkpoints)
worker.run_lane = run_lane
"""


def test_f2_a_trial_that_dies_each_time_ends_the_run_with_5(ray_address: str, data_dir: Path, tmp_path: Path) -> None:
    prelude = "DYING = ['keras-s0']" + KILLS_ITSELF
    code, _, stderr = train(*at(ray_address, data_dir, tmp_path), "--models=keras", home=tmp_path, prelude=prelude)
    assert code == 5, stderr
    assert stderr.splitlines()[-1].startswith("error[E-CRASH] keras-s0 failed after 4 attempts: worker killed")
    assert "run it again under another --run-name" in stderr.splitlines()[-1]
    assert "Traceback" not in stderr


def test_f2_when_others_have_ended_they_are_stored_and_the_run_ends_with_9(
    calm: dict[str, str], ray_address: str, data_dir: Path, tmp_path: Path
) -> None:
    prelude = "DYING = ['keras-s0']" + KILLS_ITSELF
    code, stdout, stderr = train(
        *at(ray_address, data_dir, tmp_path), "--max-failures=1", home=tmp_path, prelude=prelude
    )
    assert code == 9, stderr
    assert "keras-s0: failed: E-CRASH failed after 2 attempts: worker killed" in stderr
    rows = {trial["id"]: trial for trial in json.loads(stdout)["trials"]}
    assert rows["keras-s0"]["error"]["code"] == "E-CRASH"
    assert rows["scratch-s0"]["weights_sha256"] == calm["scratch-s0"]
    assert all_verified(LocalObjects(tmp_path), "scratch") == [1]
    assert not (tmp_path / "models/keras").exists()


def test_f3_when_a_node_is_lost_its_trial_goes_on_elsewhere(
    calm: dict[str, str], data_dir: Path, tmp_path: Path
) -> None:
    with own_cluster(cpus=0) as cluster:
        node = cluster.add_node(num_cpus=1, object_store_memory=80 << 20)
        driver = start(*at(cluster.address, data_dir, tmp_path), "--models=scratch", home=tmp_path)
        pid_of("scratch-s0", tmp_path / "runs/r", epoch=5)
        cluster.remove_node(node, allow_graceful=False)
        cluster.add_node(num_cpus=1, object_store_memory=80 << 20)
        stdout, stderr = driver.communicate(timeout=100)
    assert driver.returncode == 0, stderr
    assert "attempt 1 of scratch-s0 died (node lost); resuming at epoch" in stderr
    assert hashes(stdout) == {"scratch-s0": calm["scratch-s0"]}


def test_f4_a_worker_that_is_killed_for_memory_is_tried_once_more(data_dir: Path, tmp_path: Path) -> None:
    """The node counts as full as soon as anything is in use, but only once it has prepared the data."""
    with own_cluster(cpus=0) as cluster:
        threshold = {"RAY_memory_usage_threshold": "0.01", "RAY_memory_monitor_refresh_ms": "100"}
        with pytest.MonkeyPatch.context() as environment:
            for name, value in threshold.items():
                environment.setenv(name, value)
            cluster.add_node(num_cpus=1, object_store_memory=80 << 20)
        code, _, stderr = train(*at(cluster.address, data_dir, tmp_path), "--models=keras", home=tmp_path)
    assert code == 5, stderr
    last = stderr.splitlines()[-1]
    assert last.startswith("error[E-OOM] keras-s0 failed after 2 attempts: out of memory on ")
    assert "GB in use" in last
    assert "--cpus-per-trial" in last


@pytest.mark.parametrize("damage", [None, b"damaged"], ids=["whole", "damaged"])
def test_f5_f10_after_a_kill_of_the_driver_the_same_command_goes_on(
    calm: dict[str, str], data_dir: Path, tmp_path: Path, damage: bytes | None
) -> None:
    """On a cluster of its own, whose processes end with it; with the newest checkpoint damaged, from the one before."""
    command = ("--data-dir", data_dir, "--storage", tmp_path / "results", *TRAINING, "--cpus-per-trial=2", "--seeds=2")
    run = tmp_path / "results/runs/r"
    driver = start(*command, home=tmp_path)
    pid_of("keras-s1", run, epoch=5)
    driver.kill()
    driver.communicate()
    wait_until(lambda: not [p for p in processes_of(tmp_path) if "Agent" not in p], "processes are left", seconds=20)
    if damage is not None:
        sorted(run.glob("trials/keras-s1/checkpoints/*"))[-1].write_bytes(damage)
    code, stdout, stderr = train(*command, home=tmp_path)
    assert code == 0, stderr
    assert "resuming run r: 1 of 4 trial(s) have ended" in stderr
    assert ("keras-s1: the checkpoint of epoch" in stderr) == (damage is not None)
    assert starts_of("keras-s0", run) == [0]
    assert len(starts_of("keras-s1", run)) == 2
    assert starts_of("keras-s1", run)[1] >= 3
    assert hashes(stdout) == calm


@pytest.mark.parametrize("place", ["run.before_summary", "run.before_forget"])
def test_f6_a_driver_that_dies_at_the_end_of_storing_is_recognised_as_done(
    ray_address: str, data_dir: Path, tmp_path: Path, place: str
) -> None:
    command = (*at(ray_address, data_dir, tmp_path), "--models=keras", "--epochs=2")
    assert train(*command, home=tmp_path, MNIST_FAILPOINT=place)[0] == 86
    code, stdout, stderr = train(*command, home=tmp_path)
    assert code == 0, stderr
    assert starts_of("keras-s0", tmp_path / "runs/r") == [0]
    assert json.loads(stdout)["models"]["keras"]["version"] == 1
    assert all_verified(LocalObjects(tmp_path)) == [1]
    assert [path.name for path in (tmp_path / "runs/r/trials/keras-s0").iterdir()] == ["result.json"]


IMPATIENT = """
import dataclasses
from jobs.options import TrainOptions
limits = TrainOptions.limits
TrainOptions.limits = lambda self: dataclasses.replace(limits(self), silence_seconds=3.0, head_seconds=5.0)
"""


def test_f7_when_the_head_dies_the_run_ends_with_8_and_goes_on_with_another_cluster(
    ray_address: str, data_dir: Path, tmp_path: Path
) -> None:
    with own_cluster(cpus=0) as cluster:
        cluster.add_node(num_cpus=1, object_store_memory=80 << 20)
        driver = start(
            *at(cluster.address, data_dir, tmp_path),
            "--models=scratch",
            "--epochs=400",
            home=tmp_path,
            prelude=IMPATIENT,
        )
        pid_of("scratch-s0", tmp_path / "runs/r", epoch=5)
        cluster.head_node.kill_gcs_server()
        begin = time.monotonic()
        _, stderr = driver.communicate(timeout=100)
        assert time.monotonic() - begin < 40  # of 90, with 5 s in place of 30
    assert driver.returncode == 8, stderr
    assert "error[E-CLUSTER-LOST] the head of the cluster has not answered for" in stderr
    command = (*at(ray_address, data_dir, tmp_path), "--models=scratch", "--epochs=400")
    code, _, stderr = train(*command, home=tmp_path)
    assert code == 0, stderr
    assert "resuming run r: 0 of 1 trial(s) have ended" in stderr
    assert starts_of("scratch-s0", tmp_path / "runs/r")[1] >= 4


def test_f8_an_attempt_that_goes_silent_is_given_up_and_is_not_heard_when_it_comes_back(
    calm: dict[str, str], ray_address: str, data_dir: Path, tmp_path: Path
) -> None:
    driver = start(*at(ray_address, data_dir, tmp_path), "--models=scratch", home=tmp_path, prelude=IMPATIENT)
    silent = pid_of("scratch-s0", tmp_path / "runs/r", epoch=5)
    os.kill(silent, signal.SIGSTOP)
    wait_until(lambda: [e for e in history_of(tmp_path / "runs/r") if e["event"] == "died"], "it was not given up", 30)
    os.kill(silent, signal.SIGCONT)
    stdout, stderr = driver.communicate(timeout=100)
    assert driver.returncode == 0, stderr
    assert "attempt 1 of scratch-s0 died (no sign of life); resuming at epoch" in stderr
    assert hashes(stdout) == {"scratch-s0": calm["scratch-s0"]}
    assert all_verified(LocalObjects(tmp_path), "scratch") == [1]
    wait_until(lambda: not Path(f"/proc/{silent}").exists(), "the silent worker is still there", 20)


def test_f9_a_lane_that_dies_between_two_trials_gives_the_others_to_the_next_attempt(
    calm: dict[str, str], ray_address: str, data_dir: Path, tmp_path: Path
) -> None:
    run = tmp_path / "runs/r"
    driver = start(*at(ray_address, data_dir, tmp_path), "--seeds=2", "--cpus-per-trial=2", home=tmp_path)
    wait_until(lambda: [e for e in history_of(run) if e["event"] == "ended"], "no trial has ended")
    os.kill(next(e["pid"] for e in history_of(run) if e["event"] == "started"), signal.SIGKILL)
    stdout, stderr = driver.communicate(timeout=100)
    assert driver.returncode == 0, stderr
    assert "attempt 1 of keras-s1 died (worker killed)" in stderr
    assert [len(starts_of(trial, run)) for trial in ("keras-s0", "scratch-s0", "scratch-s1")] == [1, 1, 1]
    assert hashes(stdout) == calm


ONE_DIVERGES = """
from jobs import worker
train_lane = worker.run_lane
def run_lane(dataset, resources, pace, specs, checkpoints):
    import dataclasses
    specs = [dataclasses.replace(s, learning_rate=1e38) if s.id == "scratch-s0" else s for s in specs]
    yield from train_lane(dataset, resources, pace, specs, checkpoints)
worker.run_lane = run_lane
"""


def test_f11_f12_a_trial_that_diverges_is_a_row_is_not_tried_again_and_the_others_are_stored(
    ray_address: str, data_dir: Path, tmp_path: Path
) -> None:
    arguments = [argument for argument in at(ray_address, data_dir, tmp_path) if argument != "--json"]
    code, stdout, stderr = train(*arguments, "--seeds=2", "--epochs=2", home=tmp_path, prelude=ONE_DIVERGES)
    assert code == 9, stderr
    assert "scratch-s0 failed: E-NAN loss is not a finite number in epoch 1, step" in stdout
    assert "scratch-s0: failed: E-NAN loss is not a finite number in epoch 1, step" in stderr
    assert len(starts_of("scratch-s0", tmp_path / "runs/r")) == 1
    for model, trials in (("keras", 2), ("scratch", 1)):
        assert all_verified(LocalObjects(tmp_path), model) == [1]
        summary = json.loads((tmp_path / "runs/r/summary.json").read_text())
        assert summary["models"][model]["trials"] == trials


@contextlib.contextmanager
def every_cpu_taken() -> Iterator[None]:
    def sleep() -> None:
        time.sleep(600)

    def free_cpus() -> float:
        return float(ray.available_resources().get("CPU", 0))  # type: ignore[no-untyped-call]

    busy = [ray.remote(num_cpus=cpus, max_retries=0)(sleep).remote() for cpus in (1, 2)]
    wait_until(lambda: free_cpus() == 0, "the CPUs are not taken")
    try:
        yield
    finally:
        for task in busy:
            ray.cancel(task, force=True)
    wait_until(lambda: free_cpus() == 3, "the CPUs are not given back")


def test_f14_a_run_that_finds_every_node_busy_says_why_and_ends_with_4(
    ray_address: str, data_dir: Path, tmp_path: Path
) -> None:
    with every_cpu_taken():
        code, _, stderr = train(*at(ray_address, data_dir, tmp_path), "--wait-for-resources=12", home=tmp_path)
    assert code == 4, stderr
    lines = stderr.splitlines()
    assert any("waiting for" in line and "at most 12 (--wait-for-resources)" in line for line in lines), stderr
    assert any("0 of 2 CPU(s), 2 of 2 GPU(s) free" in line for line in lines), stderr
    assert lines[-1].startswith("error[E-RESOURCES] ")
    assert "wait longer with --wait-for-resources" in lines[-1]


def test_f15_a_node_that_joins_late_lets_the_run_begin(calm: dict[str, str], data_dir: Path, tmp_path: Path) -> None:
    with own_cluster(cpus=0) as cluster:
        command = (*at(cluster.address, data_dir, tmp_path), "--models=scratch")
        refused = train(*command, home=tmp_path)
        assert refused[0] == 4
        assert "the largest node has 0; add a node with CPUs" in refused[2]
        driver = start(*command, "--wait-for-resources=60", home=tmp_path)
        time.sleep(5)
        cluster.add_node(num_cpus=1, object_store_memory=80 << 20)
        stdout, stderr = driver.communicate(timeout=100)
    assert driver.returncode == 0, stderr
    assert hashes(stdout) == {"scratch-s0": calm["scratch-s0"]}


def test_f16_a_granted_gpu_that_tensorflow_cannot_see_ends_the_run_with_5(
    ray_address: str, data_dir: Path, tmp_path: Path
) -> None:
    command = ("--address", ray_address, "--data-dir", data_dir, "--storage", tmp_path, "--models=keras")
    code, _, stderr = train(*command, home=tmp_path)
    assert code == 5, stderr
    assert stderr.splitlines()[-1].startswith("error[E-GPU-INVISIBLE] keras-s0 1 GPU(s) granted, TensorFlow sees 0")
    assert "--allow-cpu" in stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("number", "word", "code", "seconds"),
    [(signal.SIGINT, "interrupted", 130, 2), (signal.SIGTERM, "terminated", 143, 2)],
)
def test_f17_f18_a_run_that_is_stopped_says_how_to_go_on_and_goes_on(
    calm: dict[str, str], data_dir: Path, tmp_path: Path, number: signal.Signals, word: str, code: int, seconds: float
) -> None:
    command = ("--data-dir", data_dir, "--storage", tmp_path / "results", *TRAINING, "--models=scratch")
    driver = start(*command, home=tmp_path)
    pid_of("scratch-s0", tmp_path / "results/runs/r", epoch=5)
    begin = time.monotonic()
    os.killpg(driver.pid, number)
    stdout, stderr = driver.communicate(timeout=30)
    assert time.monotonic() - begin < seconds
    assert (driver.returncode, stdout) == (code, ""), stderr
    said = stderr.splitlines()[-1]
    assert said.startswith(f"{word}; resume with: python -m jobs.train --resume r --storage ")
    assert "Traceback" not in stderr
    wait_until(lambda: not processes_of(tmp_path), f"processes are left: {processes_of(tmp_path)}", 10)
    arguments = shlex.split(said.partition("jobs.train ")[2])
    code, stdout, stderr = train(*arguments, home=tmp_path)
    assert code == 0, stderr
    assert "resuming run r" in stderr
    assert hashes(stdout) == {"scratch-s0": calm["scratch-s0"]}


OTHER_VERSION = """
from importlib import metadata
version = metadata.version
metadata.version = lambda name: "2.20.0" if name == "tensorflow" else version(name)
"""


def test_f22_other_versions_on_the_workers_are_refused_before_training(
    ray_address: str, data_dir: Path, tmp_path: Path
) -> None:
    code, _, stderr = train(*at(ray_address, data_dir, tmp_path), home=tmp_path, prelude=OTHER_VERSION)
    assert code == 8, stderr
    last = stderr.splitlines()[-1]
    assert last.startswith("error[E-CLUSTER-VERSIONS] the worker on ")
    assert "tensorflow 2.21.0 there, 2.20.0 here; install requirements/runtime.lock on every node" in last
    assert not [event for event in history_of(tmp_path / "runs/r") if event["event"] == "started"]


def test_a_run_whose_time_is_up_trains_fewer_epochs_and_says_so(
    ray_address: str, data_dir: Path, tmp_path: Path
) -> None:
    command = (*at(ray_address, data_dir, tmp_path), "--models=scratch", "--epochs=100000", "--max-seconds=12")
    begin = time.monotonic()
    code, stdout, stderr = train(*command, home=tmp_path)
    assert code == 0, stderr
    assert time.monotonic() - begin < 40
    (trial,) = json.loads(stdout)["trials"]
    assert 1 <= trial["trained_epochs"] < 100_000
    assert f"after {trial['trained_epochs']} of 100000 epochs: time was up" in stderr
    assert trial["test"]["total"] == 1_000


def test_a_trial_that_takes_longer_than_it_may_is_given_up(ray_address: str, data_dir: Path, tmp_path: Path) -> None:
    command = (*at(ray_address, data_dir, tmp_path), "--models=scratch", "--epochs=100000", "--trial-timeout=8")
    code, _, stderr = train(*command, home=tmp_path)
    assert code == 5, stderr
    last = stderr.splitlines()[-1]
    assert last.startswith("error[E-TIMEOUT] scratch-s0 failed after 1 attempt: took too long more than 8 s")


def test_a_second_driver_of_a_run_is_refused_with_75_naming_the_first(
    ray_address: str, data_dir: Path, tmp_path: Path
) -> None:
    first = start(*at(ray_address, data_dir, tmp_path), "--models=scratch", home=tmp_path)
    wait_until((tmp_path / "unfinished/r.lock").exists, "the run has not begun")
    code, _, stderr = train(*at(ray_address, data_dir, tmp_path), "--models=scratch", home=tmp_path)
    assert code == 75
    assert f"r.lock: held by process {first.pid} on " in stderr
    first.communicate(timeout=100)
    assert first.returncode == 0
    assert not list((tmp_path / "unfinished").iterdir())


@pytest.fixture(autouse=True)
def nothing_is_left(tmp_path: Path) -> Iterator[None]:
    """Two agents of Ray's try for a minute to tell that their cluster was killed, then they end."""
    yield
    wait_until(lambda: not processes_of(tmp_path), f"processes are left: {processes_of(tmp_path)}", 75)
    assert not list(tmp_path.rglob(".*.????????????????????????????????"))


def test_f23_under_fire_every_trial_ends_with_the_weights_of_the_calm_run(data_dir: Path, tmp_path: Path) -> None:
    command = ("--chaos=7", "--seeds=10", "--epochs=15", "--checkpoint-seconds=0", "--data-dir", data_dir, "--json")
    code, stdout, stderr = train(*command, "--storage", tmp_path, home=tmp_path)
    assert code == 0, stderr
    found = json.loads(stdout)
    assert (found["trials"], found["identical"]) == (20, 20)
    assert found["nodes_lost"] == 1
    assert found["workers_killed"] >= 3
    assert len(found["recovery_seconds"]) >= 3
    assert not list(tmp_path.glob("runs"))  # nothing of it is kept


def test_a_stored_version_that_is_trained_again_comes_out_the_same_or_it_is_said_what_differs(
    ray_address: str, data_dir: Path, tmp_path: Path
) -> None:
    command = (*at(ray_address, data_dir, tmp_path), "--epochs=3", "--cpu-replicas=2")
    assert train(*command, home=tmp_path)[0] == 0
    for model in ("keras", "scratch"):
        again = ["reproduce", model, "--json", f"--data-dir={data_dir}", f"--storage={tmp_path}"]
        done = subprocess.run([sys.executable, "-m", "jobs.models", *again], cwd=ROOT, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        found = json.loads(done.stdout)
        assert (found["verdict"], found["differing"], found["again"]) == ("identical", {}, found["stored"])
