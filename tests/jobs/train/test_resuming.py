"""Runs whose driver dies: the same command resumes them, to the same weights, and stores each model only once."""

import json
import os
import pty
import shlex
import signal
import time
from pathlib import Path

import pytest

from mnist_lib.objects.local import LocalObjects
from tests.support.bounds import JOB_SECONDS, assert_at_most, wait_until
from tests.support.job import (
    IMPATIENT,
    TRAINING,
    end_of,
    end_orphans,
    hashes,
    history_of,
    options_for,
    pid_of,
    processes_of,
    start,
    starts_of,
    train,
)
from tests.support.local_cluster import temporary_cluster
from tests.support.store.invariants import all_verified
from tests.support.untrained import UNTRAINED, untrained_weights

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("nothing_is_left")]


FOUR_TRIALS = (*TRAINING, "--cpus-per-trial=2", "--seeds=2")  # one after the other
WEIGHTS = {"scratch-s0": untrained_weights("scratch", epochs=20)}


@pytest.mark.long
def test_f6_a_run_whose_driver_died_after_storing_is_not_repeated(
    ray_address: str, data_dir: Path, tmp_path: Path
) -> None:
    command = (*options_for(ray_address, data_dir, tmp_path), "--models=keras", "--epochs=2")
    assert train(*command, home=tmp_path, prelude=UNTRAINED, MNIST_FAILPOINT="run.before_summary")[0] == 86
    code, stdout, stderr = train(*command, home=tmp_path, prelude=UNTRAINED)
    assert code == 0, stderr
    assert starts_of("keras-s0", tmp_path / "runs/r") == [0]
    assert json.loads(stdout)["models"]["keras"]["version"] == 1
    assert all_verified(LocalObjects(tmp_path)) == [1]
    left = [path.name for path in (tmp_path / "runs/r/trials/keras-s0").rglob("*")]
    assert sorted(left) == ["events.out.tfevents.keras-s0", "result.json", "tb"]


@pytest.mark.long
def test_f7_a_run_whose_head_dies_ends_with_exit_code_8_and_resumes_elsewhere(
    ray_address: str, data_dir: Path, tmp_path: Path
) -> None:
    with temporary_cluster(cpus=0) as cluster:
        cluster.add_nodes(cpus=1)
        driver = start(
            *options_for(cluster.address, data_dir, tmp_path),
            "--models=scratch",
            "--epochs=160",
            home=tmp_path,
            prelude=IMPATIENT + UNTRAINED,
        )
        pid_of("scratch-s0", tmp_path / "runs/r", epoch=5)
        cluster.kill_gcs()
        begin = time.monotonic()
        code, _, stderr = end_of(driver)
        assert_at_most(40, since=begin)  # IMPATIENT waits 5 s for the head, not 30 s
    assert code == 8, stderr
    assert "error[E-CLUSTER-LOST] the head of the cluster has not answered for" in stderr
    command = (*options_for(ray_address, data_dir, tmp_path), "--models=scratch", "--epochs=160")
    code, _, stderr = train(*command, home=tmp_path, prelude=UNTRAINED)
    assert code == 0, stderr
    assert "resuming run r: 0 of 1 trial ended" in stderr
    assert starts_of("scratch-s0", tmp_path / "runs/r")[1] >= 4


@pytest.mark.long
def test_f17_an_interrupted_run_prints_a_command_that_resumes_it(data_dir: Path, tmp_path: Path) -> None:
    command = ("--data-dir", data_dir, "--storage", tmp_path / "results", *TRAINING, "--models=scratch")
    driver = start(*command, home=tmp_path, prelude=UNTRAINED)
    pid_of("scratch-s0", tmp_path / "results/runs/r", epoch=5)
    begin = time.monotonic()
    os.killpg(driver.pid, signal.SIGINT)
    code, stdout, stderr = end_of(driver)
    assert_at_most(5, since=begin)  # a process ends only when the file system has finished its write
    assert (code, stdout) == (130, ""), stderr
    last = stderr.splitlines()[-1]
    assert last.startswith("interrupted; resume with: python -m jobs.train --run-name=r ")
    assert "Traceback" not in stderr
    wait_until(lambda: not processes_of(tmp_path), "processes still run")
    arguments = shlex.split(last.partition("jobs.train ")[2])
    code, stdout, stderr = train(*arguments, home=tmp_path, prelude=UNTRAINED)
    assert code == 0, stderr
    assert "resuming run r" in stderr
    assert hashes(stdout) == WEIGHTS


@pytest.mark.long
def test_f17_two_interrupts_end_a_run_at_once_and_leave_no_process(data_dir: Path, tmp_path: Path) -> None:
    command = ("--data-dir", data_dir, "--storage", tmp_path / "results", *TRAINING)
    driver = start(*command, home=tmp_path, prelude=UNTRAINED)
    wait_until(lambda: history_of(tmp_path / "results/runs/r"), "the run has not begun")
    begin = time.monotonic()
    for _ in range(2):
        os.killpg(driver.pid, signal.SIGINT)
        time.sleep(0.01)
    code, stdout, stderr = end_of(driver)
    assert_at_most(5, since=begin)
    assert (code, stdout) == (130, ""), stderr
    assert stderr.splitlines()[-1].startswith("interrupted; resume with: python -m jobs.train --run-name=r ")
    assert "Traceback" not in stderr


@pytest.mark.long
def test_f18_a_terminated_run_ends_even_if_its_stderr_is_closed(data_dir: Path, tmp_path: Path) -> None:
    """`ray job stop` is tested in test_submit.py."""
    command = ("--data-dir", data_dir, "--storage", tmp_path / "results", *TRAINING, "--models=scratch")
    with start(
        *command, home=tmp_path, prelude=UNTRAINED
    ) as driver:  # the `with` statement closes the driver's streams
        pid_of("scratch-s0", tmp_path / "results/runs/r")
        assert driver.stderr is not None
        driver.stderr.close()
        os.killpg(driver.pid, signal.SIGTERM)
        begin = time.monotonic()
        assert driver.wait(JOB_SECONDS) == 143
        assert_at_most(3, since=begin)


@pytest.mark.long
def test_u7_closing_the_terminal_ends_the_run_with_exit_code_129(data_dir: Path, tmp_path: Path) -> None:
    command = ("--data-dir", data_dir, "--storage", tmp_path / "results", *TRAINING, "--models=scratch")
    ours, its_own = pty.openpty()
    driver = start(*command, home=tmp_path, prelude=UNTRAINED, terminal=its_own)
    os.close(its_own)
    pid_of("scratch-s0", tmp_path / "results/runs/r", epoch=5)
    os.close(ours)
    begin = time.monotonic()
    assert driver.wait(JOB_SECONDS) == 129
    assert_at_most(5, since=begin)


@pytest.mark.long
def test_u7_a_run_whose_own_node_dies_ends_with_one_line_and_exit_code_8(data_dir: Path, tmp_path: Path) -> None:
    command = ("--data-dir", data_dir, "--storage", tmp_path / "results", *TRAINING, "--models=scratch", "--quiet")
    driver = start(*command, home=tmp_path, prelude=UNTRAINED)
    pid_of("scratch-s0", tmp_path / "results/runs/r")
    running = processes_of(tmp_path)
    assert not any(service in line for service in ("monitor.py", "dashboard.py") for line in running)  # not needed
    (node,) = [line.split()[0] for line in running if "raylet/raylet" in line]
    os.kill(int(node), signal.SIGKILL)
    code, stdout, stderr = end_of(driver)
    assert (code, stdout) == (8, ""), stderr
    assert stderr.startswith("error[E-CLUSTER-LOST] Ray's process on this node has died; resume with: ")
    assert len(stderr.splitlines()) == 1


@pytest.mark.long
def test_f5_f10_the_same_command_resumes_a_run_whose_driver_was_killed(data_dir: Path, tmp_path: Path) -> None:
    """The newest checkpoint is damaged, so the one before it is used. The driver's own cluster ends with it."""
    command = ("--data-dir", data_dir, "--storage", tmp_path / "results", *FOUR_TRIALS)
    run = tmp_path / "results/runs/r"
    driver = start(*command, home=tmp_path, prelude=UNTRAINED)
    pid_of("keras-s1", run, epoch=5)
    driver.kill()
    driver.communicate()
    end_orphans(tmp_path)
    sorted(run.glob("trials/keras-s1/checkpoints/*"))[-1].write_bytes(b"damaged")
    code, stdout, stderr = train(*command, home=tmp_path, prelude=UNTRAINED)
    assert code == 0, stderr
    assert "resuming run r: 1 of 4 trials ended" in stderr
    assert "keras-s1: the checkpoint after " in stderr
    assert starts_of("keras-s0", run) == [0]
    assert len(starts_of("keras-s1", run)) == 2
    assert starts_of("keras-s1", run)[1] >= 3
    assert hashes(stdout) == {
        f"{model}-s{seed}": untrained_weights(model, seed, epochs=20)
        for model in ("keras", "scratch")
        for seed in (0, 1)
    }
    assert len(list(run.glob("trials/*/tb/*"))) == 4
