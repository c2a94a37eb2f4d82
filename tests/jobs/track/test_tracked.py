"""What is copied of runs, searches and damaged documents."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from jobs.track.tracked import key_of, tracked_run
from mnist_lib.data.dataset import Dataset
from mnist_lib.errors import IntegrityError
from mnist_lib.objects.local import LocalObjects
from mnist_lib.results import Accuracy, Balanced, EpochDone, HistoryEntry
from mnist_lib.run_documents import SearchSummary, Summary
from mnist_lib.store.history import RungScored
from mnist_lib.store.opening import open_run
from mnist_lib.store.runs import RunFolder
from tests.support.made_run import made_run
from tests.support.memory import peak_bytes
from tests.support.results import with_fields

TRIAL = {
    "model": "keras",
    "dataset": "letters",
    "seed": 0,
    "epochs": 9,
    "global_batch_size": 64,
    "optimizer": "sgd",
    "learning_rate": 0.01,
    "momentum": 0.9,
    "arguments": {"hidden_units": 32, "momentum": 0.99},
    "source_sha256": "0" * 64,
}
SEARCH = {
    "schema": 1,
    "space": {"optimizer": ["sgd", "adam"], "hidden_units": [32, 64]},
    "strategy": "halving",
    "rungs": [1, 3],
    "configurations": {
        "0": {"optimizer": "adam", "hidden_units": 64},
        "1": {"optimizer": "sgd", "hidden_units": 32, "learning_rate": 0.5},
    },
    "decisions": [],
    "cut": None,
    "best": None,
}
VALIDATION = Accuracy(9, 10, Balanced(1.5, 2.0, 1.1))
EPOCH = EpochDone(trial="keras-c0", epoch=1, loss=0.5, train=Accuracy(5, 10), validation=VALIDATION, seconds=20.0)


@pytest.fixture(scope="module")
def summary(digits: Dataset) -> Summary:
    """The summary of a run with one trial, whose model has an argument with the name of a setting."""
    made = made_run(digits, seeds=1, models=("keras",)).summary
    trials = [with_fields(trial, **TRIAL) for trial in made.trials]
    return structs.replace(made, run="r", models={}, trials=trials)


def run_with(folder: Path, summary: Summary, terms: Mapping[str, Any], *history: HistoryEntry) -> RunFolder:
    folder.mkdir(exist_ok=True)
    with open_run(
        LocalObjects(folder), "r", dataset="letters", terms=terms, command="jobs.train", configuration=""
    ) as opened:
        for entry in history:
            opened.append_history(entry)
        opened.flush()
        opened.complete(summary)
    return opened


def test_a_search_has_its_configurations_with_what_is_known_of_them(summary: Summary, tmp_path: Path) -> None:
    terms = {"trials": {"keras-s0": TRIAL}, "search": {"trials": 2}}
    failed = RungScored(trial="keras-c1", epoch=1, validation=None, status="failed")
    folder = run_with(tmp_path / "results", structs.replace(summary, trials=()), terms, EPOCH, failed)
    folder.write_json("search.json", SEARCH)
    tracked = tracked_run(folder)
    adam, sgd = tracked.parts
    assert (adam.name, adam.failed, sgd.name, sgd.failed) == ("keras-c0", False, "keras-c1", True)
    assert adam.metrics[0].step == 1
    assert adam.metrics[0].values == {
        **{"train_loss": 0.5, "train_accuracy": 0.5, "validation_accuracy": 0.9},
        "validation_balanced_accuracy": 0.75,
    }
    assert adam.parameters == {"optimizer": "adam", "hidden_units": "64"}
    assert sgd.parameters == {"optimizer": "sgd", "learning_rate": "0.5", "hidden_units": "32"}


def test_each_fold_of_a_configuration_has_the_settings_of_the_configuration(summary: Summary, tmp_path: Path) -> None:
    search = SearchSummary(settings={}, configurations=2, epochs=4, validation=Accuracy(8, 10), train=(), folds=2)
    terms, epoch = {"trials": {"keras-s0": TRIAL}}, structs.replace(EPOCH, trial="keras-c0-f1")
    folder = run_with(tmp_path / "results", structs.replace(summary, trials=(), search=search), terms, epoch)
    folder.write_json("search.json", SEARCH)
    parts = {part.name: part for part in tracked_run(folder).parts}
    assert [*parts] == ["keras-c0-f1"]
    assert parts["keras-c0-f1"].parameters["optimizer"] == "adam"
    assert parts["keras-c0-f1"].metrics


def test_an_argument_with_the_name_of_a_setting_is_told_apart(summary: Summary, tmp_path: Path) -> None:
    (part,) = tracked_run(run_with(tmp_path / "results", summary, {"trials": {"keras-s0": TRIAL}})).parts
    assert (part.parameters["momentum"], part.parameters["argument momentum"]) == ("0.9", "0.99")


def test_runs_of_the_same_name_in_two_storages_are_different_runs(summary: Summary, tmp_path: Path) -> None:
    terms = {"trials": {"keras-s0": TRIAL}}
    one, other = (run_with(tmp_path / name, summary, terms) for name in ("one", "other"))
    assert key_of(one) == key_of(one)
    assert key_of(one) != key_of(other)


def test_a_damaged_document_is_an_integrity_error(summary: Summary, tmp_path: Path) -> None:
    folder = run_with(tmp_path / "results", summary, {"trials": {"keras-s0": TRIAL}})
    folder.write("search.json", json.dumps({**SEARCH, "configurations": {"x": {}}}).encode())
    with pytest.raises(IntegrityError, match=r"search.json: .* at `key` in `\$.configurations`"):
        tracked_run(folder)


@pytest.mark.slow
def test_the_files_of_a_run_are_copied_one_at_a_time(tmp_path: Path) -> None:
    for number in range(8):
        path = tmp_path / f"runs/r/plots/{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.truncate(20_000_000)
    setup = f"""
from pathlib import Path
from unittest import mock
import mlflow
from jobs.track import server
from jobs.track.tracked import Part
from mnist_lib.objects.local import LocalObjects
from mnist_lib.store.runs import RunFolder
folder = RunFolder(LocalObjects(Path({str(tmp_path)!r})), "r")
run = Part(name="r", parameters={{}}, files=folder.names("plots"))
for name in ("set_experiment", "start_run", "log_params", "log_artifacts", "set_tag", "end_run"):
    setattr(mlflow, name, mock.MagicMock())
mlflow.search_runs = lambda **named: []
server.tracked_run = lambda folder: run
copier = server.Server("x")
"""
    assert peak_bytes(setup, "copier.copy(folder, 'x'); mlflow.log_artifacts.assert_called_once()") < 60_000_000
