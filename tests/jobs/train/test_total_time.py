"""The total time of a command is that from the start of its process to its last line."""

import contextlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import jobs
from jobs import MAX_IMPORT_SECONDS, begin_of_command
from jobs.train.__main__ import run_job
from jobs.train.options import TrainOptions
from jobs.train.plan import Plan
from jobs.train.run import Run
from mnist_lib.environment import steady_time
from mnist_lib.run_documents import Summary
from tests.support.job import ROOT
from tests.support.made_run import small_summary

SLEEPER = """
import time; began = time.clock_gettime(time.CLOCK_BOOTTIME)
import jobs.train.__main__
from jobs import begin_of_command
from mnist_lib.environment import steady_time
time.sleep(1)
print(time.clock_gettime(time.CLOCK_BOOTTIME) - began, steady_time() - begin_of_command())
"""


def test_the_printed_total_ends_with_the_last_line_and_is_the_sum_of_its_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    begin = steady_time() - 50  # which the start, the cluster and the report took

    def work(run: Run[Plan]) -> Summary:
        return small_summary([0, 1, 2, 3])  # 36 s until the models were stored

    monkeypatch.setattr("jobs.train.run.run_on_cluster", lambda *_: contextlib.nullcontext())
    result = run_job(Plan.of(TrainOptions(storage=str(tmp_path / "s"), quiet=True)), begin, work)
    took = steady_time() - begin
    (line,) = [line for line in result.lines if isinstance(line, str) and line.startswith("Time: ")]
    total, *parts = map(float, re.findall(r"([\d.]+) s ", line))
    assert took - 5 < total <= took + 0.1
    assert sum(parts) == pytest.approx(total, abs=0.3)
    assert len(parts) == 4


def test_a_command_begins_with_its_process_and_not_after_its_imports() -> None:
    done = subprocess.run([sys.executable, "-c", SLEEPER], cwd=ROOT, capture_output=True, text=True, check=True)
    since_start, since_begin = map(float, done.stdout.split())
    assert since_begin == pytest.approx(since_start, abs=0.5)


def test_a_command_that_another_program_calls_begins_with_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "_imported_at", steady_time() - MAX_IMPORT_SECONDS)
    assert begin_of_command() == pytest.approx(steady_time(), abs=1)
