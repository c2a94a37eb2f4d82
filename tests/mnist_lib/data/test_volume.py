"""What a plan says about the images of a dataset is what a run needs."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mnist_lib.data.reading import folder as folder_module
from mnist_lib.data.reading.folder import volume_of
from mnist_lib.data.request import DataRequest
from mnist_lib.data.table import TEST_SHARE
from tests.support.pictures import classes, noise, read, write_folder


@pytest.mark.parametrize("options", [{}, {"image_size": (5, 7), "channels": 3}])
def test_the_volume_of_a_folder_is_the_same_before_and_after_its_preparation(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    folder = write_folder(tmp_path / "f", {**classes("a", "b", pictures=80), "a/large.png": noise(9_999, (9, 9))})
    request = DataRequest(dataset=str(folder), data_dir=tmp_path / "prepared", **options)
    before = volume_of(request)
    assert before is not None
    assert not (tmp_path / "prepared").exists()
    dataset = read(folder, **options)
    assert before == replace(before, images=161, image_shape=dataset.image_shape)
    assert before.disk_bytes == math.prod(dataset.table.images.shape)
    assert abs(before.train - len(dataset.train)) < 10  # the hashes decide
    assert volume_of(request) == replace(before, train=len(dataset.train), exact=True)
    write_folder(folder, {"a/new.png": noise(9_998)})
    assert volume_of(request) == replace(before, images=162, train=162 - round(TEST_SHARE * 162))


def test_a_plan_says_how_much_memory_the_images_take_in_a_lane(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request = DataRequest(dataset=str(write_folder(tmp_path / "f", classes("a", "b"))), data_dir=tmp_path)
    monkeypatch.setattr(folder_module, "MAX_HELD_BYTES", 60 * 64)
    held = volume_of(request)
    assert str(held) == "60, probably of 8 x 8 x 1, about 0.0 MB on disk, held in the memory of each lane"
    monkeypatch.setattr(folder_module, "MAX_HELD_BYTES", 60 * 64 - 1)
    end = "0.0 MB on disk, read as needed; each lane holds up to 120.0 MB of them"
    assert str(held) == f"60, probably of 8 x 8 x 1, about {end}"
    read(tmp_path / "f")
    assert str(volume_of(replace(request, data_dir=tmp_path / "prepared"))) == f"60 of 8 x 8 x 1, {end}"
    assert volume_of(DataRequest()) is None  # digits of the package
