"""Runs that fail in part or completely: the error message and the exit code."""

import time
from pathlib import Path

import pytest

from tests.support.bounds import assert_at_most
from tests.support.job import train

pytestmark = pytest.mark.slow


def test_a_run_without_its_dataset_says_what_to_do_and_ends_with_exit_code_3(ray_address: str, tmp_path: Path) -> None:
    begin = time.monotonic()
    code, stdout, stderr = train(
        *("--address", ray_address, "--dataset=mnist", "--data-dir", tmp_path, "--data-source", tmp_path),
        *("--storage", tmp_path),
        home=tmp_path,
    )
    assert_at_most(15, since=begin)
    assert (code, stdout) == (3, "")
    last = stderr.splitlines()[-1]
    for message in ("error[E-DATA-MISSING] mnist: ", "a network", "--data-source DIR", "--dataset mnist-mini"):
        assert message in last
    assert not [*tmp_path.glob("runs/*"), *tmp_path.glob("unfinished/*")]  # no run is left to resume


def test_f13_more_gpus_than_any_node_has_give_exit_code_4_within_10_seconds(ray_address: str, tmp_path: Path) -> None:
    begin = time.monotonic()
    code, _, stderr = train(*("--address", ray_address, "--gpus-per-trial=3", "--storage", tmp_path), home=tmp_path)
    assert_at_most(10, since=begin)
    assert code == 4
    assert "each trial asks for 3 GPUs, the largest node has 2; use --gpus-per-trial 2 or fewer" in stderr
