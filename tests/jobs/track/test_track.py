"""Copies of runs in a real MLflow server."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import yaml
from msgspec import structs

from jobs.track.__main__ import main
from mnist_lib.api import _load_pyfunc, load
from mnist_lib.data.dataset import Dataset
from mnist_lib.objects.local import LocalObjects
from mnist_lib.store.opening import open_run
from mnist_lib.store.runs import RunFolder
from tests.support.job import ROOT, history_of, train
from tests.support.made_run import made_run
from tests.support.tracking import mlflow_server

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with mlflow_server(tmp_path_factory.mktemp("mlflow")) as address:
        yield address


@pytest.fixture(scope="module")
def searched(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The storage of a search with a final trial and a report."""
    home = tmp_path_factory.mktemp("searched")
    vary = ("--vary=learning_rate=0.2..0.5:log", "--trials=3", "--epochs=3", "--final-seeds=1", "--run-name=r")
    at = ("--data-dir", data_dir, "--storage", home / "results", "--batch-size=64", "--cpus-per-trial=1")
    # Without folds, and with default settings that are far from the best ones.
    code, _, stderr = train(
        *vary, *at, "--validation-percent=10", "--optimizer=sgd", home=home, module="jobs.search.__main__"
    )
    assert code == 0, stderr
    return home / "results"


@pytest.fixture
def folder(tmp_path: Path, digits: Dataset) -> Iterator[RunFolder]:
    """The folder of an unfinished run with two trials, of which the second one has begun its first epoch."""
    (tmp_path / "results").mkdir()
    made = made_run(digits, seeds=2, models=("keras",))
    rows = {
        row.id: {name: getattr(row.spec, name) for name in ("model", "dataset", "seed", "arguments")}
        for row in made.summary.trials
    }
    with open_run(
        LocalObjects(tmp_path / "results"),
        "r",
        dataset="mnist-mini",
        terms={"trials": rows},
        command="jobs.train",
        configuration="seeds: 2\n",
    ) as opened:
        for entry in [*made.folder.history()][:6]:
            opened.append_history(structs.replace(entry, at=0.0))
        opened.flush()
        yield opened


@pytest.fixture
def complete(folder: RunFolder, digits: Dataset) -> RunFolder:
    folder.complete(structs.replace(made_run(digits, seeds=2, models=("keras",)).summary, run="r", models={}))
    return folder


def copy(*arguments: str | Path, uri: str, experiment: str) -> list[dict[str, Any]]:
    """Run the command as a user does, and return its document."""
    command = [sys.executable, "-m", "jobs.track", *map(str, arguments), "--experiment", experiment, "--json"]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": uri}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def mlflow_client(uri: str) -> "MlflowClient":
    from mlflow import MlflowClient  # takes more than a second, which a run of the fast tests saves

    return MlflowClient(uri)


def runs_of(uri: str, experiment: str) -> dict[str, "Run"]:
    """Return the runs of an experiment by their names, of which none may occur twice."""
    client = mlflow_client(uri)
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    runs = client.search_runs([found.experiment_id])
    by_name = {run.info.run_name: run for run in runs}
    assert len(by_name) == len(runs)
    return by_name


def steps(uri: str, run: "Run", metric: str) -> list[tuple[int, float]]:
    return sorted((value.step, value.value) for value in mlflow_client(uri).get_metric_history(run.info.run_id, metric))


@pytest.mark.long
@pytest.mark.usefixtures("tensorflow")
def test_a_search_is_copied_once_with_its_trials_report_and_model(uri: str, searched: Path, tmp_path: Path) -> None:
    (copied,) = copy("r", "--storage", searched, uri=uri, experiment="search")
    runs, summary = runs_of(uri, "search"), json.loads((searched / "runs/r/summary.json").read_text())
    assert runs.keys() == {"r", "keras-c0", "keras-c1", "keras-c2", "keras-s1"}
    assert (copied["run_id"], copied["copied"], copied["known"]) == (runs["r"].info.run_id, 4, 0)
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    for name, run in runs.items():
        assert run.data.tags.get("mlflow.parentRunId") == (None if name == "r" else copied["run_id"])
    model = summary["models"]["keras"]
    assert runs["r"].data.metrics["keras.mean_test_accuracy"] == model["mean_test_accuracy"]
    assert runs["r"].data.params["best_learning_rate"] == str(summary["search"]["settings"]["learning_rate"])
    document = json.loads((searched / "runs/r/search.json").read_text())
    for number, settings in document["configurations"].items():
        varied = {name: str(value) for name, value in settings.items()}
        assert runs[f"keras-c{number}"].data.params == varied
    final = runs["keras-s1"]
    assert (final.data.params["batch_size"], final.data.params["hidden_units"]) == ("64", "512")
    assert final.data.metrics["test_accuracy"] == summary["trials"][0]["test_accuracy"]
    epochs = [row for row in history_of(searched / "runs/r") if row["event"] == "epoch" and row["trial"] == "keras-s1"]
    assert steps(uri, final, "train_loss") == [(row["epoch"], row["loss"]) for row in epochs]

    client = mlflow_client(uri)
    artifacts = {file.path for file in client.list_artifacts(copied["run_id"])}
    assert artifacts == {"config.yaml", "plots", "report.html", "search.json", "summary.json"}
    stored = Path(client.download_artifacts(final.info.run_id, "model", str(tmp_path)))
    signature = yaml.safe_load((stored / "MLmodel").read_text())["signature"]
    assert [json.loads(part)[0]["tensor-spec"]["shape"] for part in signature.values()] == [[-1, 28, 28, 1], [-1, 10]]
    images = np.random.default_rng(0).integers(0, 256, (5, 28, 28, 1), np.uint8)
    expected = load("keras@1", searched).predict(images)
    assert np.array_equal(_load_pyfunc(str(stored / "storage")).predict(images), expected)

    (again,) = copy("--storage", searched, uri=uri, experiment="search")
    assert (again["run_id"], again["copied"], again["known"]) == (copied["run_id"], 0, 4)
    assert runs_of(uri, "search").keys() == runs.keys()


@pytest.mark.long
def test_a_run_in_progress_is_copied_when_it_is_complete_with_each_epoch_once(
    uri: str, folder: RunFolder, digits: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = Path(folder.where).parents[1]
    options = ["r", "--storage", str(storage), "--tracking-uri", uri, "--experiment", "resumed"]
    assert copy("--storage", storage, uri=uri, experiment="resumed") == []
    assert main(options) == 2
    assert "runs: expected a complete run, got r, which has not ended" in capsys.readouterr().err
    made = made_run(digits, seeds=2, models=("keras",))
    for entry in made.folder.history():  # a resumed trial repeats epochs
        folder.append_history(structs.replace(entry, at=0.0))
    folder.complete(structs.replace(made.summary, run="r", models={}))
    copy("r", "--storage", storage, uri=uri, experiment="resumed")
    runs = runs_of(uri, "resumed")
    assert {run.info.status for run in runs.values()} == {"FINISHED", "FAILED"}
    for name in ("keras-s0", "keras-s1"):
        assert [step for step, _ in steps(uri, runs[name], "train_loss")] == list(range(1, 9))


@pytest.mark.long
def test_an_interrupted_copy_is_replaced_by_a_whole_one(
    uri: str, searched: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import mlflow

    options = ["r", "--storage", str(searched), "--tracking-uri", uri, "--experiment", "interrupted"]
    for name, calls in (("log_artifacts", 0), ("log_artifacts", 1), ("end_run", 2), ("start_run", 1)):
        with monkeypatch.context() as interrupted:
            interrupted.setattr(mlflow, name, interrupted_after(calls, getattr(mlflow, name)))
            assert main(options) == 130
    assert main(options) == 0
    assert "r: 4 trials copied; experiment interrupted" in capsys.readouterr().out
    runs = runs_of(uri, "interrupted")
    assert len(runs) == 5
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert [step for step, _ in steps(uri, runs["keras-s1"], "test_accuracy")] == [0]


def interrupted_after(calls: int, method: Callable[..., Any]) -> Callable[..., Any]:
    """Return a method that works so many times; the next call is interrupted, as by Ctrl-C."""
    left = iter(range(calls))

    def call(*arguments: Any, **named: Any) -> Any:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return method(*arguments, **named)

    return call


@pytest.mark.long
def test_a_damaged_run_is_named_and_the_others_are_copied(
    uri: str, searched: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = tmp_path / "results"
    shutil.copytree(searched, storage)
    (storage / "runs/broken").mkdir()
    (storage / "runs/broken/run.json").write_text("{}")
    (storage / "runs/broken/summary.json").write_text("{}")
    assert main(["--storage", str(storage), "--tracking-uri", uri, "--experiment", "damaged"]) == 7
    shown = capsys.readouterr()
    assert "error[E-INTEGRITY] broken is not copied completely: " in shown.err
    assert "r: 4 trials copied" in shown.out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (
            [],
            2,
            "error[E-USAGE] tracking_uri: expected the URI of an MLflow server, got none; use --tracking-uri URI or",
        ),
        (["x", "--tracking-uri=http://h"], 2, "error[E-USAGE] runs: expected names of runs in "),
        (["../x", "--tracking-uri=http://h"], 2, "error[E-USAGE] run_name: expected "),
        (
            ["--tracking-uri=http://a:canary@127.0.0.1:9"],
            6,
            "error[E-TRACKING] r is not copied completely: http://***@127.0.0.1:9: expected MLflow to accept",
        ),
    ],
)
def test_an_error_is_one_line(
    arguments: list[str],
    code: int,
    message: str,
    complete: RunFolder,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert main([*arguments, "--storage", str(Path(complete.where).parents[1])]) == code
    shown = capsys.readouterr()
    assert shown.err.startswith(message)
    assert shown.err.count("\n") == 1
    assert "canary" not in f"{shown.err} {shown.out} {dict(os.environ)}"


def test_without_mlflow_the_message_says_what_to_install(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    assert main(["--tracking-uri=http://h", "--storage", str(Path(folder.where).parents[1])]) == 2
    assert 'install it: pip install "mnist-jobs[track]"' in capsys.readouterr().err
