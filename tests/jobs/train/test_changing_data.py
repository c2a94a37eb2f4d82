"""Runs on data that change between them or while they are interrupted: what they train on, and what they report."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mnist_lib.catalog import DIGITS
from mnist_lib.data.corrections import NONE, labels_file
from mnist_lib.data.dataset import Dataset
from mnist_lib.data.prepare import prepare
from mnist_lib.data.request import DataRequest
from mnist_lib.errors import DataError
from mnist_lib.objects.local import LocalObjects
from mnist_lib.objects.storage import open_storage
from mnist_lib.results import Accuracy
from mnist_lib.store import images
from mnist_lib.store.datasets import begun_with
from mnist_lib.store.predictions import Predictions
from mnist_lib.store.runs import RunFolder
from mnist_lib.store.versions import find
from tests.support.corrections import correct, correction
from tests.support.digits import ORDER, add_digits
from tests.support.job import options_for, train
from tests.support.pictures import classes, noise, write_folder
from tests.support.untrained import UNTRAINED

pytestmark = pytest.mark.slow


def run(address: str, data_dir: Path, home: Path, name: str, *arguments: str | Path) -> dict[str, Any]:
    options = [*options_for(address, data_dir, home / "results"), "--models=scratch", "--epochs=1"]
    code, stdout, stderr = train(*options, "--run-name", name, *arguments, home=home, prelude=UNTRAINED)
    assert code == 0, stderr
    summary: dict[str, Any] = json.loads(stdout)
    (home / "stderr").write_text(stderr)
    return summary


@pytest.mark.long
def test_a_run_says_what_has_changed_since_the_last_one(
    ray_address: str, data_dir: Path, tmp_path: Path, digits: Dataset
) -> None:
    folder, report = tmp_path / "digits", "--report"
    add_digits(folder, digits, 0, 200)
    first = run(ray_address, data_dir, tmp_path, "first", "--dataset", folder, report)
    assert "changes" not in first["dataset"]
    lines = (tmp_path / "stderr").read_text()
    # The number of images decides the batch size, and lanes import TensorFlow before it is known.
    assert lines.index("starting 1 lane") < lines.index("training images") < lines.index("--batch-size=")
    add_digits(folder, digits, 200, 300)
    gone, wrong, nothing = ORDER[:3]
    (folder / str(digits.train.labels[gone]) / f"{gone}.png").unlink()
    label, images = str((digits.train.labels[wrong] + 1) % 10), digits.train.images
    correct(folder, correction(images[wrong], label, "disputed"), correction(images[nothing], NONE))
    second = run(ray_address, data_dir, tmp_path, "second", "--dataset", folder, report)
    changes = second["dataset"]["changes"]
    totals = {
        kind: sum(sum(by_class.values()) for by_class in changes[kind].values())
        for kind in ("added", "removed", "relabelled")
    }
    assert totals == {"added": 100, "removed": 2, "relabelled": 1}
    assert (changes["since"], changes["at"]) == ("first", first["ended"])
    assert second["dataset"]["corrections"] | {"holdout": 0, "disputed_holdout": 0} == {
        **{"applied": 1, "confirmed": 0, "removed": 1, "holdout": 0, "disputed_holdout": 0, "unknown": 0}
    }
    added = sum(changes["added"]["test"].values())
    assert second["models"]["scratch"]["new_test"]["total"] == added > 0
    assert "digits: 100 images added (" in (tmp_path / "stderr").read_text()
    page = (tmp_path / "results/runs/second/report.html").read_text()
    assert " since run first." in page
    third = run(ray_address, data_dir, tmp_path, "third", "--dataset", folder)
    assert third["dataset"]["changes"] | {"at": ""} == {
        **{"since": "second", "at": "", "added": {"train": {}, "test": {}}},
        **{"removed": {"train": {}, "test": {}}, "relabelled": {"train": {}, "test": {}}},
    }
    assert "new_test" not in third["models"]["scratch"]
    hashes = (tmp_path / "results/datasets/digits/hashes").read_bytes().splitlines()
    assert len({*hashes}) == len(hashes) == 300  # each picture once
    assert "digits: no image has changed since run second" in (tmp_path / "stderr").read_text()
    renamed = folder.rename(tmp_path / "renamed")  # another dataset, of which there is no earlier run
    assert "changes" not in run(ray_address, data_dir, tmp_path, "fourth", "--dataset", renamed)["dataset"]
    hint = "renamed is new in this storage, which has champions for digits; if it is one of them and was renamed, use"
    assert f"{hint} --dataset-name digits" in (tmp_path / "stderr").read_text()
    same = run(ray_address, data_dir, tmp_path, "fifth", "--dataset", renamed, "--dataset-name=digits")["dataset"]
    assert (same["name"], same["changes"]["since"]) == ("digits", "third")
    objects, data = LocalObjects(tmp_path / "results"), DataRequest(dataset=f"{renamed}/", data_dir=data_dir)
    check_old_versions(objects, data)


@pytest.mark.long
def test_a_dataset_keeps_the_shape_of_its_images(ray_address: str, data_dir: Path, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "pictures", {**classes(*DIGITS[1:]), **classes(DIGITS[0], size=(9, 8))})
    dataset = ("--dataset", folder)
    assert run(ray_address, data_dir, tmp_path, "first", *dataset)["dataset"]["image_shape"] == [8, 8, 1]
    write_folder(folder, {f"0/large{number}.png": noise(number, (60, 40), "RGB") for number in range(400)})
    second = run(ray_address, data_dir, tmp_path, "second", *dataset)["dataset"]
    assert (second["image_shape"], "objections" in second) == ([8, 8, 1], False)
    shape = ("--image-size=12", "--channels=3", "--promote=never")
    other = run(ray_address, data_dir, tmp_path, "third", *dataset, *shape)["dataset"]
    assert (other["image_shape"], other["objections"]) == ([12, 12, 3], ["images are 12 x 12 x 3, not 8 x 8 x 1"])
    assert run(ray_address, data_dir, tmp_path, "fourth", *dataset)["dataset"]["image_shape"] == [8, 8, 1]
    objects = LocalObjects(tmp_path / "results")
    begun = begun_with(RunFolder(objects, "third"))
    assert begun is not None
    assert begun.image_shape == (12, 12, 3)


def check_old_versions(objects: LocalObjects, data: DataRequest) -> None:
    """Check that each version is evaluated with the labels that it was tested with, although the data have changed."""
    for number in (1, 2, 3, 4):
        version = find(objects, "scratch", number)
        assert version is not None
        tested = Predictions.read(objects, version)
        try:
            split = images.tested_split(objects, version, data)
        except DataError:
            assert number == 1  # the deleted picture was in its test split
            continue
        assert np.array_equal(split.labels, tested.labels)
        assert np.array_equal(split.hashes, tested.hashes)
        assert np.array_equal(
            images.load_dataset(data, objects, used=images.used_labels(objects, version)).classes, tested.classes
        )


@pytest.mark.long
def test_a_correction_of_a_published_dataset_is_applied_and_its_published_accuracy_is_stored(
    ray_address: str, data_dir: Path, tmp_path: Path
) -> None:
    objects, request = open_storage(str(tmp_path / "results")), DataRequest(dataset="mnist-mini", data_dir=data_dir)
    before = run(ray_address, data_dir, tmp_path, "before", "--dataset=mnist-mini")
    assert "published_test" not in before["models"]["scratch"]
    test = prepare(request).test
    label = str((test.labels[3] + 1) % 10)
    corrections = [correction(test.images[3], label, "disputed"), correction(test.images[999], NONE)]
    corrections += [correction(test.images[n], str(test.labels[n])) for n in (0, 1, 600)]
    labels_file(request, objects).add(corrections)
    after = run(ray_address, data_dir, tmp_path, "after", "--dataset=mnist-mini")
    assert after["dataset"]["test"] == 999
    assert after["dataset"]["corrections"]["disputed_holdout"] == 1
    model = after["models"]["scratch"]
    # The stand-in for a model answers the first half with the current labels, so it misses the published one.
    assert trial_correct(after) == 499
    assert model["published_test"] == {"correct": 498, "total": 999}
    assert model["reviewed_test"] == {"correct": 2, "total": 3}
    assert model["reviewed_test_ci95"] == [*Accuracy(2, 3).interval()]
    assert after["dataset"]["changes"]["relabelled"]["test"] == {label: 1}


def trial_correct(summary: dict[str, Any]) -> int:
    correct: int = summary["trials"][0]["test"]["correct"]
    return correct


@pytest.mark.long
def test_a_resumed_run_keeps_the_labels_that_it_began_with(
    ray_address: str, data_dir: Path, tmp_path: Path, digits: Dataset
) -> None:
    folder = tmp_path / "digits"
    add_digits(folder, digits, 0, 200)
    correct(folder, correction(digits.train.images[ORDER[0]], "0"))
    command = [*options_for(ray_address, data_dir, tmp_path / "results"), "--models=scratch", "--epochs=1"]
    command += ["--dataset", folder]
    code, _, stderr = train(*command, home=tmp_path, prelude=UNTRAINED, MNIST_FAILPOINT="run.before_summary")
    assert code == 86, stderr
    correct(folder, *(correction(digits.train.images[index], NONE) for index in ORDER[:100]))
    code, stdout, stderr = train(*command, home=tmp_path, prelude=UNTRAINED)
    assert code == 0, stderr
    corrections = json.loads(stdout)["dataset"]["corrections"]
    assert (corrections["removed"], corrections["applied"] + corrections["confirmed"]) == (0, 1)
    after = run(ray_address, data_dir, tmp_path, "next", "--dataset", folder)
    assert after["dataset"]["corrections"]["removed"] == 100
