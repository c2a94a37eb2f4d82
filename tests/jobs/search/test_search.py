"""Real searches: the same decisions and weights on one lane and on two, even if processes are killed."""

import json
import os
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.bounds import wait_until
from tests.support.job import end_orphans, hashes, history_of, start, train

pytestmark = pytest.mark.slow

MODULE = "jobs.search.__main__"
ONE_CPU = ("--cpus-per-trial=1",)
SPACE = ("--vary=learning_rate=1e-4..1e-1:log", "--vary=hidden_units=16,32", "--seed=3")


def search_document(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "search.json").read_text())
    return found


@pytest.mark.long
def test_a_search_stores_its_winner_and_reports_its_accuracy_with_fresh_seeds(data_dir: Path, tmp_path: Path) -> None:
    options = ("--trials=4", "--epochs=3", "--validation-percent=10", "--final-seeds=2", "--run-name=r", *ONE_CPU)
    at = ("--data-dir", data_dir, "--storage", tmp_path / "results")
    code, stdout, stderr = train(*at, *SPACE, *options, home=tmp_path, module=MODULE)
    assert code == 0, stderr
    run = tmp_path / "results/runs/r"
    found, summary = search_document(run), json.loads((run / "summary.json").read_text())
    assert [(made["bracket"], made["rung"], len(made["scores"])) for made in found["decisions"]] == [
        *[(0, 0, 3), (0, 1, 2)],  # the best of two, and the default settings
        *[(1, 0, 1), (1, 1, 1)],
    ]
    assert [trial["id"] for trial in summary["trials"]] == ["keras-s4", "keras-s5"]
    settings = summary["search"]["settings"]
    assert settings == found["configurations"][str(found["best"]["configuration"])]
    assert {trial["spec"]["learning_rate"] for trial in summary["trials"]} == {settings["learning_rate"]}
    rate = settings["learning_rate"]
    assert f"Search: 4 configurations, 10 epochs in total; the best has learning_rate {rate}, hidden_units " in stdout
    assert re.search(r"% on average with fresh seeds; on test [\d.]+%, [+-][\d.]+ points from the search\n", stdout)
    (again,) = re.findall(r"To train with these settings: python -m jobs.train (.*)", stdout)
    assert {f"--data-dir={data_dir}", f"--learning-rate={rate}", "--models=keras"} <= {*again.split()}
    page = (run / "report.html").read_text()
    assert "4 configurations" in page
    assert "python -m jobs.search --config" in page
    assert f"--learning-rate={rate}" in page
    assert (run / "plots/search-settings.png").exists()
    assert [*(run / "trials").glob("*-c*")] == []
    again = train(*at, *SPACE, *options, home=tmp_path, module=MODULE)
    timed = re.compile(r"^Time: .*$", re.M)  # the stored total ends when the models are stored
    assert (again[0], timed.sub("", again[1])) == (0, timed.sub("", stdout))
    assert "run r is complete; for another run, use another --run-name" in again[2]


@pytest.mark.long
def test_a_search_that_compares_by_folds_by_default_holds_out_no_images(data_dir: Path, tmp_path: Path) -> None:
    """The final trials are trained on all images, which is what the summary and the report say."""
    options = ("--trials=2", "--epochs=1", "--final-seeds=1", "--run-name=r", *ONE_CPU)
    at = ("--data-dir", data_dir, "--storage", tmp_path / "results")
    code, _, stderr = train(*at, *SPACE, *options, home=tmp_path, module=MODULE)
    assert code == 0, stderr
    summary = json.loads((tmp_path / "results/runs/r/summary.json").read_text())
    assert (summary["search"]["folds"], summary["dataset"]["validation"]) == (3, 0)
    assert [trial["validation"] for trial in summary["trials"]] == [None]


@pytest.mark.long
def test_f5_a_search_whose_processes_are_killed_equals_one_on_a_single_lane(data_dir: Path, tmp_path: Path) -> None:
    options = (
        "--trials=4",
        "--epochs=9",
        "--folds=2",
        "--score=balanced-accuracy",
        "--final-seeds=1",
        "--cpus-per-trial=1",
        "--checkpoint-seconds=0",
        "--no-report",
    )
    results = []
    for name, lanes in (("calm", 1), ("killed", 2)):
        at = ("--data-dir", data_dir, "--storage", tmp_path / name, "--run-name=r", f"--max-concurrent={lanes}")
        run = tmp_path / name / "runs/r"
        if name == "killed":
            driver = start(*at, *SPACE, *options, home=tmp_path, module=MODULE)
            wait_until(lambda: epochs_of(run) >= 5, "fewer than 5 epochs")  # noqa: B023  # called at once
            wait_until(lambda: kill_newest_worker(run), "no worker is running")  # noqa: B023
            reached = epochs_of(run)
            wait_until(lambda: epochs_of(run) > reached + 5, "the search does not go on")  # noqa: B023
            driver.kill()
            driver.communicate()
            end_orphans(tmp_path)
        code, stdout, stderr = train(*at, *SPACE, *options, "--json", home=tmp_path, module=MODULE)
        assert code == 0, stderr
        results.append((search_document(run), hashes(stdout)))
    assert results[0] == results[1]
    shutil.rmtree(tmp_path / "killed")


def kill_newest_worker(run: Path) -> bool:
    """Kill the worker that has started last, or return False if that was one of an earlier driver."""
    pid = next((entry["pid"] for entry in reversed(history_of(run)) if "pid" in entry), None)
    if pid is None or not psutil.pid_exists(pid):
        return False
    os.kill(pid, signal.SIGKILL)
    return True


def epochs_of(run: Path) -> int:
    return sum(entry["event"] == "epoch" for entry in history_of(run))
