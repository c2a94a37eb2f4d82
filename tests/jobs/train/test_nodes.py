"""A trial on n nodes ends with the same weights as with n replicas on one node, even if a process is killed."""

import contextlib
import os
import signal
from pathlib import Path

import psutil
import pytest

from tests.support.clusters import wait_until
from tests.support.job import hashes, history_of, options_for, pid_of, start, starts_of, train

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("nothing_is_left")]

SHORT = "--epochs=12"


def on_one_node(model: str, address: str, data_dir: Path, home: Path) -> dict[str, str]:
    """Return the hash of the weights that two replicas on one node end with."""
    command = (*options_for(address, data_dir, home), SHORT, f"--models={model}", "--cpu-replicas=2")
    code, stdout, stderr = train(*command, home=home)
    assert code == 0, stderr
    return hashes(stdout)


@pytest.mark.long
@pytest.mark.parametrize("model", ["keras", "scratch"])
def test_two_nodes_produce_the_same_weights_as_two_replicas_on_one_node(
    ray_address: str, data_dir: Path, tmp_path: Path, model: str
) -> None:
    expected = on_one_node(model, ray_address, data_dir, tmp_path / "one-node")
    command = (*options_for(ray_address, data_dir, tmp_path), SHORT, f"--models={model}", "--nodes-per-trial=2")
    code, stdout, stderr = train(*command, home=tmp_path)
    assert code == 0, stderr
    assert "1 lane of 1 CPU on each of 2 nodes" in stderr
    assert hashes(stdout) == expected
    (started, *_) = [event for event in history_of(tmp_path / "runs/r") if event["event"] == "started"]
    assert started["devices"] == ["0/CPU:0", "1/CPU:0"]


@pytest.mark.long
@pytest.mark.parametrize("which", ["first", "other"])
def test_a_group_resumes_from_its_checkpoint_when_a_process_is_killed(
    ray_address: str, data_dir: Path, tmp_path: Path, which: str
) -> None:
    expected = on_one_node("keras", ray_address, data_dir, tmp_path / "one-node")
    command = (*options_for(ray_address, data_dir, tmp_path), SHORT, "--models=keras", "--nodes-per-trial=2")
    driver = start(*command, home=tmp_path)
    first = pid_of("keras-s0", tmp_path / "runs/r", epoch=5)
    os.kill(first if which == "first" else other_pid(), signal.SIGKILL)
    stdout, stderr = driver.communicate(timeout=150)
    assert driver.returncode == 0, stderr
    assert "attempt 1 of keras-s0 died (worker killed); resuming at epoch" in stderr
    assert starts_of("keras-s0", tmp_path / "runs/r")[1] >= 4
    assert hashes(stdout) == expected
    wait_until(lambda: not others(), "a process of the group still runs", 20)


@pytest.mark.long
def test_all_members_of_a_group_end_early_when_time_is_up(ray_address: str, data_dir: Path, tmp_path: Path) -> None:
    command = (
        *options_for(ray_address, data_dir, tmp_path),
        "--models=scratch",
        "--nodes-per-trial=2",
        "--epochs=100000",
    )
    code, _, stderr = train(*command, "--max-seconds=12", home=tmp_path)
    assert code == 0, stderr
    assert "of 100000 epochs: out of time" in stderr


def other_pid() -> int:
    (process,) = others()
    return process.pid


def others() -> list[psutil.Process]:
    """Return the other members of the group, which are descendants of the test process."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if "ray::_run_member" in process.cmdline():
                found.append(process)
    return found
