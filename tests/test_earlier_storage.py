"""A storage that the version of 2026-12-01 wrote still opens: versions, champions, labels, splits and the schedule.

The archive contains the storage with its pictures, the commands that wrote it (`make.sh`) and what was in it at that
time (`expected.json`). A later version may prepare the images again, and need not resume its unfinished runs.
"""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mnist_lib import api
from mnist_lib.data.dataset import Dataset
from mnist_lib.data.prepare import prepare
from mnist_lib.data.request import DataRequest
from mnist_lib.objects.local import LocalObjects
from mnist_lib.store.contents import read_manifest
from mnist_lib.store.runs import RunFolder
from mnist_lib.store.versions import readable_versions
from tests.support.bounds import JOB_SECONDS
from tests.support.job import ROOT
from tests.support.shared import made_once

ARCHIVE = ROOT / "tests/support/storage-2026-12-01.zip"
SHAPE = (8, 8)
CHAMPIONS = {"keras@5", "keras-resnet@1", "fine_tuned@1"}


def extract(folder: Path) -> None:
    with zipfile.ZipFile(ARCHIVE) as archive:
        archive.extractall(folder)


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder with the storage `results`, the folder `pictures` and the user's model."""
    return made_once(tmp_path_factory.getbasetemp().parent / "earlier-storage", extract)


@pytest.fixture(scope="module")
def expected(earlier: Path) -> Any:
    return json.loads((earlier / "expected.json").read_text())


def run(folder: Path, command: str, *arguments: str) -> str:
    """Run a command in a folder as a user does, and return its standard output."""
    found = subprocess.run(
        [sys.executable, "-m", f"jobs.{command}", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=JOB_SECONDS,
    )
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout


def prepared(folder: Path) -> Dataset:
    pictures = str(folder / "pictures")
    return prepare(DataRequest(dataset=pictures, group_by="folder", image_size=SHAPE, data_dir=folder / "data"))


def images_of(folder: Path) -> dict[str, list[str]]:
    """Return the split and the class of each picture, by its hash."""
    dataset = prepared(folder)
    return {
        image.tobytes().hex(): [name, dataset.classes[label]]
        for name, split in (("train", dataset.train), ("test", dataset.test))
        for image, label in zip(split.hashes, split.labels, strict=True)
    }


def test_labels_corrections_groups_and_splits_are_the_same(earlier: Path, expected: Any) -> None:
    assert images_of(earlier) == expected["images"]


def test_its_trials_and_versions_have_records(earlier: Path) -> None:
    """They were written before there were records: settings stood among the results, those of versions in manifests."""
    folder = LocalObjects(earlier / "results")
    count = 0
    for path in (earlier / "results/runs").glob("*/summary.json"):
        summary = RunFolder(folder, path.parent.name).summary()
        assert summary is not None
        for trial, row in zip(summary.trials, json.loads(path.read_bytes())["trials"], strict=True):
            settings = {name: row[name] for name in ("model", "seed", "epochs", "learning_rate", "arguments", "score")}
            assert {name: getattr(trial.spec, name) for name in settings} == settings
            assert getattr(trial, "test_accuracy", None) == row.get("test_accuracy")
            count += 1
    assert count > 10
    for version in readable_versions(folder):
        if version.deleted:
            continue
        manifest = read_manifest(folder, version)
        record = manifest.record
        facts = version.facts
        assert manifest.schema == 2
        assert record.test_ci95 == facts.test_ci95
        assert record.test_balanced_accuracy == facts.test_balanced_accuracy
        assert (record.id, record.test, record.weights_sha256) == (facts.trial, facts.test, facts.weights_sha256)
        assert record.train_seconds > 0


@pytest.mark.usefixtures("tensorflow")
def test_its_versions_predict_the_same(earlier: Path, expected: Any) -> None:
    dataset = prepared(earlier)
    order = np.argsort([image.tobytes().hex() for image in dataset.test.hashes])
    for name, known in expected["versions"].items():
        own = {"model_file": earlier / "my_models.py"} if name.startswith("fine_tuned") else {}
        version = api.load(name, earlier / "results", **own)  # type: ignore[arg-type]
        answers = version.predict(np.asarray(dataset.test.images)[order]).argmax(axis=1)
        assert "".join(map(str, answers)) == known["answers"], name
        assert version.accuracy.value == known["accuracy"]


@pytest.mark.slow
@pytest.mark.long
def test_its_versions_stay_champions_and_evaluate(earlier: Path) -> None:
    rows = {
        f"{row['model']}@{row['number']}": row["champion_of"]
        for row in json.loads(run(earlier, "models", "list", "--json"))
    }
    assert {name for name, champion_of in rows.items() if champion_of} == CHAMPIONS
    assert rows.keys() == CHAMPIONS | {"keras@3", "keras@6", "scratch@3", "fine_tuned@2"}  # gc has deleted the others
    assert run(earlier, "models", "verify", "--all").startswith("7 versions intact, 0 damaged.")
    evaluated = run(earlier, "models", "evaluate", "keras@5", "--dataset=./pictures")
    assert evaluated.startswith("keras@5 gives the stored prediction for all 72 test images")
    complete = {record.name for record in api.runs(earlier / "results") if record.status == "complete"}
    assert {"first", "folds", "search", "corrected", "nightly-2026-12-01T07-13-41Z"} < complete


@pytest.mark.slow
@pytest.mark.long
def test_its_champion_is_rolled_back_and_its_schedule_goes_on(tmp_path: Path) -> None:
    extract(tmp_path)
    rolled_back = run(tmp_path, "models", "rollback", "keras")
    assert rolled_back.startswith("keras@3 is the champion of pictures: rolled back from keras@5")
    night = json.loads(run(tmp_path, "retrain", "--config=retrain.yaml", "--now", "--json"))
    assert (night["outcome"], night["models"]["scratch"]["version"]) == ("done", 4)
    unchanged = {"added": 0, "removed": 0, "relabelled": 0, "since": "nightly-2026-12-01T07-13-41Z", "corrected": 2}
    assert unchanged.items() <= night["data"].items()
    status = json.loads(run(tmp_path, "retrain", "status", "--config=retrain.yaml", "--last=10", "--json"))
    assert [entry["kind"] for entry in status["slots"]] == ["done", "done", "failed", "enrolled"]
