"""`jobs.show`: a dataset as JSON, as tables, as a picture, and in a terminal."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jobs import show
from jobs.console.output import as_text
from mnist_lib.catalog import DATASETS
from mnist_lib.data.corrections import labels_file
from mnist_lib.data.dataset import Dataset
from mnist_lib.data.embedded import FOLDER
from mnist_lib.data.prepare import prepare
from mnist_lib.data.request import DataRequest
from mnist_lib.data.table import Table
from mnist_lib.objects.local import LocalObjects
from mnist_lib.report.dataset import EXAMPLES, choose, dataset_tables, describe, draw_examples
from tests.support.corrections import correct, correction
from tests.support.job import ROOT
from tests.support.pictures import classes, noise, write_folder

TOP, LEFT = 86, 72  # pixels above and to the left of the first image

# TFDS starts TensorFlow, which other tests of this process need with two devices.
pytestmark = pytest.mark.usefixtures("tensorflow")


@pytest.fixture
def command(data_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Return a function that runs the command and returns (exit code, stdout, stderr)."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")  # the command sets it; monkeypatch restores it

    def run(*arguments: str) -> tuple[int, str, str]:
        code = show.main([*arguments, f"--data-dir={data_dir}"])
        return code, *capsys.readouterr()

    return run


def embedded(name: str) -> Dataset:
    with np.load(FOLDER / f"{name}.npz") as arrays:
        train, test = (Table.of(arrays[f"{split}_images"], arrays[f"{split}_labels"]) for split in ("train", "test"))
    return Dataset.of(name, "1.0.0", train, test)


def test_the_folder_of_the_pictures_is_not_called_prepared_and_notices_follow_each_other(tmp_path: Path) -> None:
    dataset = embedded("sklearn-digits").reporting(notices=("left out: a.pdf", "left out: b.png"))
    dataset = replace(dataset, name="letters")
    text = as_text(dataset_tables(describe(dataset, None, folder=tmp_path)))
    assert f"  folder       {tmp_path}" in text.splitlines()
    assert "prepared" not in text
    assert text.endswith("\n\nleft out: a.pdf\nleft out: b.png")


@pytest.mark.slow
@pytest.mark.usefixtures("tensorflow")
@pytest.mark.parametrize("name", ["mnist-mini", "sklearn-digits"])
def test_the_json_and_the_table_describe_what_is_in_the_files(name: str, command: Any) -> None:
    code, stdout, _ = command(name, "--json")
    assert code == 0
    document, dataset = json.loads(stdout), embedded(name)
    assert document["image_shape"] == list(dataset.image_shape)
    assert Path(document["prepared_in"], f"{name}.npz").is_file()
    for split, examples in (("train", dataset.train), ("test", dataset.test)):
        found, pixels = document["splits"][split], np.asarray(examples.images)
        assert found["images"] == len(examples.labels)
        assert found["per_class"] == [int((examples.labels == label).sum()) for label in range(10)]
        assert (found["lowest_pixel"], found["highest_pixel"]) == (pixels.min(), pixels.max())
        assert found["mean_pixel"] == pytest.approx(pixels.mean())
    code, stdout, stderr = command(name)
    assert (code, stderr) == (0, "")
    assert "\x1b" not in stdout
    lines = stdout.splitlines()
    assert lines[0] == f"{name} {document['version']}: {DATASETS[name].about}"
    assert f"  fingerprint  {document['fingerprint']}" in lines
    rows = [line.split() for line in lines[-10:]]
    per_class = [document["splits"][split]["per_class"] for split in ("train", "test")]
    assert [(row[1], row[2]) for row in rows] == [(str(a), str(b)) for a, b in zip(*per_class, strict=True)]


@pytest.mark.slow
@pytest.mark.usefixtures("tensorflow")
def test_the_picture_has_a_row_of_ten_different_images_for_each_class(command: Any, tmp_path: Path) -> None:
    code, stdout, _ = command("sklearn-digits", "--picture", str(tmp_path / "a.png"))
    assert code == 0
    assert stdout.endswith(f"\nTraining images of each class are in {tmp_path}/a.png\n")
    train = embedded("sklearn-digits").train
    ink = 255 - np.asarray(Image.open(tmp_path / "a.png").convert("L"))
    for label in range(10):
        known = {image.tobytes() for image in train.images[train.labels == label]}
        y = TOP + 94 * label
        row = {ink[y : y + 80 : 10, x : x + 80 : 10].tobytes() for x in range(LEFT, LEFT + 940, 94)}
        assert row <= known
        assert len(row) == 10


@pytest.mark.slow
def test_twelve_training_images_are_above_what_augmentation_makes_of_them(command: Any, tmp_path: Path) -> None:
    path = tmp_path / "augmented.png"
    known = {image.tobytes() for image in embedded("sklearn-digits").train.images}

    def pairs(*options: str) -> list[tuple[bytes, bytes]]:
        code, stdout, stderr = command("sklearn-digits", "--augmented", str(path), *options)
        assert code == 0, stderr
        assert stdout.endswith(f" makes of them are in {path}\n")
        pixels = np.asarray(Image.open(path).convert("L"))
        corners = [(14 + row * 188, 14 + column * 94) for row in range(2) for column in range(6)]
        images = (
            (pixels[y : y + 80 : 10, x : x + 80 : 10], pixels[y + 82 :][:80:10, x : x + 80 : 10]) for y, x in corners
        )
        return [(before.tobytes(), after.tobytes()) for before, after in images]

    drawn = pairs("--augment", "photos,flip=horizontal", "--seed=3")
    assert {before for before, _ in drawn} <= known
    assert len({before for before, _ in drawn}) == 12
    assert all(before != after for before, after in drawn)
    assert pairs("--augment", "photos,flip=horizontal", "--seed=3") == drawn
    assert all(before == after for before, after in pairs("--augment", "none"))
    code, _, stderr = command("sklearn-digits", "--augment", "photo")
    assert (code, "augment: expected auto, none, digits, photos" in stderr) == (2, True)


def test_the_seed_decides_which_images_are_drawn(tmp_path: Path) -> None:
    dataset = embedded("mnist-mini")
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        draw_examples(dataset, seed, tmp_path / name)
    one, again, other = ((tmp_path / name).read_bytes() for name in "abc")
    assert one == again != other


def test_a_class_with_few_images_has_a_short_row(tmp_path: Path) -> None:
    dataset = embedded("mnist-mini")
    kept = np.flatnonzero((dataset.train.labels != 3) | (np.cumsum(dataset.train.labels == 3) <= 4))
    few = Dataset.of("mnist-mini", "1", dataset.train.take(kept), dataset.test)
    chosen = choose(few, seed=0)
    assert [len(indices) for indices in chosen] == [EXAMPLES] * 3 + [4] + [EXAMPLES] * 6
    assert all((few.train.labels[indices] == label).all() for label, indices in enumerate(chosen))
    draw_examples(few, 0, tmp_path / "few.png")
    row = np.asarray(Image.open(tmp_path / "few.png"))[TOP + 3 * 98 : TOP + 4 * 98, LEFT:]
    assert (row[:, 4 * 98 :] == 255).all()
    assert all((row[:, place * 98 : (place + 1) * 98] < 128).any() for place in range(4))


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("mnist-mni", "dataset: 'mnist-mni' is not known; did you mean mnist-mini?"),
        ("--seed=-1", "seed: expected a whole number from 0 to 2147483647, got -1"),
        ("--picture=digits.jpg", "picture: expected a name that ends in .png, got digits.jpg"),
        ("--pictur=digits.png", "--pictur is not an option; did you mean --picture?"),
    ],
)
def test_a_wrong_command_line_gives_one_error_line(argument: str, message: str, command: Any) -> None:
    code, stdout, stderr = command(argument)
    assert (code, stdout, stderr.count("\n")) == (2, "", 1)
    assert stderr.startswith(f"error[E-USAGE] {message}")


@pytest.mark.slow
@pytest.mark.usefixtures("tensorflow")
def test_a_dataset_that_cannot_be_obtained_gives_exit_code_3(command: Any, tmp_path: Path) -> None:
    code, stdout, stderr = command("kmnist", f"--data-source={tmp_path}")
    assert (code, stdout) == (3, "")
    assert stderr.splitlines()[-1].startswith("error[E-DATA-MISSING] kmnist: ")


@pytest.mark.slow
def test_a_picture_for_which_there_is_no_space_is_an_error_and_leaves_no_file(data_dir: Path, tmp_path: Path) -> None:
    prepare(DataRequest(data_dir=data_dir))
    code = (
        "import resource, signal, sys; from jobs.show import main;"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000));"
        "sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, f"--data-dir={data_dir}", f"--picture={tmp_path}/a.png"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    expected = f"error[E-OUTPUT] {tmp_path}/a.png cannot be written (File too large); name another place\n"
    assert (done.returncode, done.stdout, done.stderr) == (74, "", expected)
    assert not [*tmp_path.iterdir()]


def test_a_picture_in_a_missing_folder_is_refused_before_data_are_read(command: Any, tmp_path: Path) -> None:
    code, stdout, stderr = command("kmnist", f"--picture={tmp_path}/absent/a.png")
    assert (code, stdout) == (2, "")
    assert stderr == f"error[E-USAGE] picture: expected a file in an existing folder, got {tmp_path}/absent/a.png\n"


def test_corrections_in_a_folder_and_in_the_storage_are_shown(command: Any, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "f", classes("a", "b"))
    correct(folder, correction(noise(1), "b"), correction(noise(2), "none"), correction("0" * 32, "a"))
    code, stdout, _ = command(str(folder), "--json")
    shown = json.loads(stdout)
    assert (code, sum(sum(split["per_class"]) for split in shown["splits"].values())) == (0, 59)
    assert (shown["corrections"]["applied"], shown["corrections"]["removed"], shown["corrections"]["unknown"]) == (
        1,
        1,
        1,
    )
    assert "Corrections: 1 image relabelled, 1 image removed, 0 images confirmed." in command(str(folder))[1]
    (folder / "labels.jsonl").write_text("x\n")  # without its end, the line would be one that is being written
    code, _, stderr = command(str(folder))
    assert (code, stderr.count("\n")) == (3, 1)
    assert re.search(r"error\[E-DATA\] \S+/f/labels\.jsonl: line 1: expected the correction of a label", stderr)


@pytest.mark.slow
@pytest.mark.usefixtures("tensorflow")
def test_corrections_of_a_published_dataset_are_those_in_the_storage(command: Any, tmp_path: Path) -> None:
    storage = LocalObjects(tmp_path / "results")
    image = embedded("sklearn-digits").train.images[0]
    labels_file(DataRequest(dataset="sklearn-digits"), storage).add([correction(image, "none")])
    shown = [
        json.loads(command("sklearn-digits", "--json", *option)[1])
        for option in ((), ("--storage", str(tmp_path / "results")))
    ]
    assert [document["splits"]["train"]["images"] for document in shown] == [1_437, 1_436]
