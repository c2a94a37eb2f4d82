"""A trial on n nodes ends with the same weights as with n replicas on one node, even if a process is killed."""

import contextlib
import os
import signal
from pathlib import Path

import psutil
import pytest

from tests.support.bounds import wait_until
from tests.support.job import end_of, hashes, history_of, options_for, pid_of, start, starts_of, train

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("nothing_is_left")]

SMALL = ("--epochs=30", "--dataset=sklearn-digits")


@pytest.fixture(scope="module")
def expected(ray_address: str, data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The hash of the weights that two replicas on one node end with."""
    home = tmp_path_factory.mktemp("one-node")
    command = (*options_for(ray_address, data_dir, home), *SMALL, "--models=keras", "--cpu-replicas=2")
    code, stdout, stderr = train(*command, home=home)
    assert code == 0, stderr
    return hashes(stdout)


@pytest.mark.long
def test_a_group_whose_processes_are_killed_ends_with_the_weights_of_two_replicas_on_one_node(
    ray_address: str, data_dir: Path, tmp_path: Path, expected: dict[str, str]
) -> None:
    command = (*options_for(ray_address, data_dir, tmp_path), *SMALL, "--models=keras", "--nodes-per-trial=2")
    driver = start(*command, home=tmp_path)
    run = tmp_path / "runs/r"
    pid_of("keras-s0", run, epoch=3)
    os.kill(other_pid(), signal.SIGKILL)
    wait_until(lambda: len(starts_of("keras-s0", run)) == 2, "the trial has not been resumed")
    os.kill(pid_of("keras-s0", run, epoch=10), signal.SIGKILL)
    code, stdout, stderr = end_of(driver)
    assert code == 0, stderr
    assert "1 lane of 1 CPU on each of 2 nodes" in stderr
    (started, *_) = [event for event in history_of(run) if event["event"] == "started"]
    assert started["devices"] == ["0/CPU:0", "1/CPU:0"]
    assert "attempt 1 of keras-s0 died (worker killed); resuming after" in stderr
    assert "attempt 2 of keras-s0 died (worker killed); resuming after" in stderr
    _, second, third = starts_of("keras-s0", run)
    assert second >= 2
    assert third >= 9
    assert hashes(stdout)["keras-s0"] == expected["keras-s0"]
    wait_until(lambda: not others(), "a process of the group still runs")


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
