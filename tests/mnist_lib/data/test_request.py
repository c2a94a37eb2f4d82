"""Which options of a dataset apply together."""

from pathlib import Path

import pytest

from mnist_lib.data.request import DataRequest
from mnist_lib.errors import SpecError


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"dataset": "mnist", "image_size": (28, 28)},
            "image_size: expected a folder or tfds:NAME as --dataset, got mnist",
        ),
        ({"dataset": "mnist-mini", "data_source": Path("/x")}, "data_source: expected .* not part of this package as"),
        (
            {"dataset": "./x", "data_source": Path("/x")},
            "data_source: expected a dataset of the catalog that is not part of this package as --dataset, got /",
        ),
        ({"dataset": "./x", "image_size": (0, 10)}, r"image_size: expected sides from 1 to 224, got \(0, 10\)"),
        ({"dataset": "./x", "channels": 2}, "channels: expected 1 or 3 or 4, got 2"),
        ({"dataset": "mnits"}, "dataset: 'mnits' is not known; did you mean mnist"),
        (
            {"dataset": "mnist", "dataset_name": "x"},
            "dataset_name: expected a folder of pictures .*, got mnist; omit",
        ),
        (
            {"dataset": "tfds:x", "dataset_name": "x"},
            "dataset_name: expected a folder of pictures .*, got tfds:x",
        ),
        (
            {"dataset": "./x", "dataset_name": "mnist"},
            "dataset_name: expected .*, and no name of the catalog, got 'mni",
        ),
        ({"dataset": "./x", "dataset_name": "a/b"}, "dataset_name: expected up to 60 letters, .* got 'a/b'; choose"),
        ({"dataset": "./x", "dataset_name": "a" * 61}, "dataset_name: expected up to 60 letters, .*; choose another"),
    ],
)
def test_options_that_do_not_apply_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        DataRequest(**options)  # type: ignore[arg-type]


def test_a_folder_without_a_slash_is_suggested_if_it_exists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "letters").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SpecError, match=r"dataset: 'letters' is not known; did you mean \./letters\? known: mnist"):
        DataRequest(dataset="letters")
    for name in ("letter", "x" * 300):
        with pytest.raises(SpecError, match=rf"dataset: '{name}' is not known; known: "):
            DataRequest(dataset=name)


@pytest.mark.parametrize("dataset", ["./new", "s3://bucket/new"])
def test_a_renamed_folder_may_keep_its_name(dataset: str) -> None:
    assert DataRequest(dataset=dataset).name == "new"
    assert DataRequest(dataset=dataset, dataset_name="letters").name == "letters"


def test_a_request_for_a_shape_keeps_the_size_and_the_channels_that_it_names() -> None:
    request = DataRequest(dataset="./x")
    assert request.shaped(None) == request
    assert request.shaped((20, 30, 3)) == DataRequest(dataset="./x", image_size=(20, 30), channels=3)
    assert DataRequest(dataset="./x", channels=1).shaped((20, 30, 3)).channels == 1
    assert DataRequest(dataset="./x", image_size=(8, 8)).shaped((20, 30, 3)).image_size == (8, 8)
    assert DataRequest(dataset="mnist").shaped((20, 30, 3)) == DataRequest(dataset="mnist")
