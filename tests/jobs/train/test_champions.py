"""The champion of each dataset, from one run to the next: what is trained, compared, promoted and used to predict."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mnist_lib.data.split import Dataset
from mnist_lib.objects.local import LocalObjects
from tests.support.job import train
from tests.support.pictures import write_folder
from tests.support.store.invariants import champions

pytestmark = pytest.mark.slow

SMALL = ("--models=scratch", "--hidden-units=16", "--gpus-per-trial=0", "--no-report", "--json")


def run(
    address: str, data_dir: Path, storage: Path, *options: str | Path, prelude: str = ""
) -> tuple[dict[str, Any], str]:
    """Train a small model, and return its row of the summary and what was logged."""
    command = ("--address", address, "--data-dir", data_dir, "--storage", storage, *SMALL, *options)
    code, stdout, stderr = train(*command, home=storage.parent, prelude=prelude)
    assert code == 0, stderr
    row: dict[str, Any] = json.loads(stdout)["models"]["scratch"]
    return row, stderr


def pictures(digits: Dataset, numbers: range) -> dict[str, Image.Image]:
    images, labels = digits.train.images[..., 0], digits.train.labels
    return {f"{labels[number]}/{number}.png": Image.fromarray(images[number]) for number in numbers}


@pytest.mark.long
def test_a_folder_that_grows_keeps_its_champion_which_a_better_model_replaces(
    ray_address: str, data_dir: Path, digits: Dataset, tmp_path: Path
) -> None:
    folder, storage = tmp_path / "letters", tmp_path / "results"
    shuffled = np.random.default_rng(0).permutation(4_000)
    some, more = (
        pictures(Dataset.of("d", "1", digits.train.take(shuffled[:count]), digits.test), range(count))
        for count in (1_500, 1_600)
    )
    write_folder(folder, some)
    row, _ = run(ray_address, data_dir, storage, "--dataset", folder, "--epochs=60")
    assert row["champion"], row
    write_folder(folder, more)
    row, stderr = run(ray_address, data_dir, storage, "--dataset", folder, "--epochs=150", "--max-class-drop=1")
    assert "scratch@1 predicts" in stderr  # the new images
    assert (row["champion"], row["version"]) == (True, 2), row
    first, second = champions(LocalObjects(storage), "scratch", "letters")
    assert (first.kind, second.kind, second.replaced) == ("promote", "promote", 1)
    assert first.test is not None
    assert second.test is not None
    assert second.test.total > first.test.total
