"""A folder of pictures with 3 classes, 5 x 7 pixels, 4 channels and groups, through every command."""

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jobs.models import __main__ as models
from tests.support.figures import assert_says_what_the_summary_says
from tests.support.job import ROOT, train
from tests.support.pictures import write_folder

pytestmark = [pytest.mark.slow, pytest.mark.long]

COLOURS = {"cherry red": (200, 30, 40), "leaf 2": (30, 160, 60), "leaf 10": (40, 60, 200)}


def icon(name: str, seed: int) -> Image.Image:
    """Return a picture of 7 x 5 pixels in about the colour of a class, partly transparent."""
    random = np.random.default_rng([seed, len(name), sum(COLOURS[name])])
    pixels = np.clip(random.normal((*COLOURS[name], 128), 40, (5, 7, 4)), 0, 255).astype(np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pictures = {f"{name}/{name}-{seed // 3}/{seed}.png": icon(name, seed) for name in COLOURS for seed in range(60)}
    # Two files of one picture, in groups of which only the second is for the test.
    original = icon("leaf 2", 1_000)
    pictures |= {"leaf 2/x2/original.png": original, "leaf 2/x5/copy.png": original.point(lambda level: 0.9 * level)}
    return write_folder(tmp_path_factory.mktemp("own") / "icons", {**pictures, "leaf 2/leaf 2-0/broken.png": b"broken"})


@pytest.fixture(scope="module")
def storage(folder: Path, data_dir: Path) -> Path:
    """The storage of a run on the folder."""
    home = folder.parent
    code, stdout, stderr = train(
        *(
            "--dataset",
            folder,
            "--data-dir",
            data_dir,
            "--storage",
            home / "results",
            "--models=keras,scratch,keras-cnn",
        ),
        *("--epochs=12", "--batch-size=16", "--group-by=folder", "--run-name=r", "--json"),
        home=home,
    )
    assert code == 9, stderr
    assert "icons: left out: leaf 2/leaf 2-0/broken.png: expected a picture" in stderr
    dataset = json.loads(stdout)["dataset"]
    assert dataset["damaged"] == 1
    assert dataset["near_copies"]["first"] == [{"test": "leaf 2/x5/copy.png", "train": "leaf 2/x2/original.png"}]
    assert "resembles a training image, such as leaf 2/x5/copy.png (leaf 2/x2/original.png)." in stderr
    return home / "results"


def run(module: str, *arguments: str | Path, silent: bool = True) -> str:
    """Run a command and return its standard output. `silent`: whether its standard error must be empty."""
    done = subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert not silent or not done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def summary(storage: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((storage / "runs/r/summary.json").read_text())
    return found


def test_it_is_described_with_the_names_of_its_classes(folder: Path, data_dir: Path, tmp_path: Path) -> None:
    where = ("--data-dir", data_dir, "--group-by=folder")
    shown = run("jobs.show", folder, *where, "--picture", tmp_path / "seen.png")
    assert "image        5 x 7 pixels, colour with transparency" in shown
    rows = [line.split()[:2] for line in shown.splitlines() if line.strip().startswith(("leaf ", "cherry"))]
    assert rows == [["cherry", "red"], ["leaf", "2"], ["leaf", "10"]]
    assert "left out: leaf 2/leaf 2-0/broken.png" in shown
    assert "resembles a training image, such as leaf 2/x5/copy.png (leaf 2/x2/original.png)." in shown
    (groups,) = re.findall("Groups by folder: ([0-9]+) for training and validation, ([0-9]+) for the test", shown)
    assert sum(map(int, groups)) == 62
    with Image.open(tmp_path / "seen.png") as drawn:
        assert drawn.mode == "RGB"


def test_every_model_learns_it_and_the_report_names_its_classes(storage: Path, summary: dict[str, Any]) -> None:
    assert summary["dataset"]["classes"] == ["cherry red", "leaf 2", "leaf 10"]
    assert summary["dataset"]["image_shape"] == [5, 7, 4]
    assert sum(summary["dataset"][split] for split in ("train", "validation", "test")) == 182
    assert summary["models"]["keras"]["distinct_test"]["total"] == summary["dataset"]["test"] - 1
    assert summary["dataset"]["groups"]["by"] == "folder"
    assert 3 * (summary["dataset"]["groups"]["test"] - 1) + 1 == summary["dataset"]["test"]  # the copy is alone
    assert summary["models"]["keras"]["mean_test_accuracy"] > 0.9
    assert summary["models"]["keras-cnn"]["mean_test_accuracy"] > 0.6
    page = (storage / "runs/r/report.html").read_text()
    assert_says_what_the_summary_says(page, summary)
    assert '<th scope="row">cherry red</th>' in page
    assert "Groups by folder: " in page
    assert 'alt="Four training images of each class, in columns: cherry red, leaf 2, leaf 10"' in page


@pytest.mark.usefixtures("tensorflow")
def test_a_stored_version_is_evaluated_and_reproduced(
    storage: Path, folder: Path, data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = (f"--storage={storage}", f"--data-dir={data_dir}", "--json")
    assert models.main(["evaluate", "keras-cnn@latest", f"--dataset={folder}", *where]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["matching"] == found["test"]["total"]
    # Training sets TensorFlow's threads, which only a new process can do.
    again = json.loads(run("jobs.models", "reproduce", "scratch@latest", f"--dataset={folder}", *where))
    assert again["verdict"] == "identical"
    assert models.main(["evaluate", "scratch@latest", *where]) == 2
    assert "was trained on icons; name it with --dataset DIR or tfds:NAME" in capsys.readouterr().err


@pytest.mark.usefixtures("tensorflow")
@pytest.mark.parametrize(("name", "form"), [("keras", "saved_model"), ("scratch", "litert"), ("keras-cnn", "onnx")])
def test_exports_give_the_stored_answers(
    storage: Path, folder: Path, data_dir: Path, tmp_path: Path, name: str, form: str
) -> None:
    where = (f"--storage={storage}", f"--data-dir={data_dir}", f"--dataset={folder}")
    assert models.main(["export", f"{name}@latest", f"--format={form}", f"--to={tmp_path}/exported", *where]) == 0
    assert names_in(tmp_path / "exported", form) == list(COLOURS)


def names_in(path: Path, form: str) -> list[str]:
    """Return the names of the classes in an exported file, as a program that uses it reads them."""
    if form == "saved_model":
        import tensorflow as tf

        return [name.decode() for name in tf.saved_model.load(str(path)).classes().numpy()]
    if form == "litert":
        with zipfile.ZipFile(path) as attached:
            return attached.read("labels.txt").decode().splitlines()
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names: list[str] = json.loads(session.get_modelmeta().custom_metadata_map["classes"])
    return names


def test_a_stored_version_is_listed_and_verified(storage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert models.main(["show", "keras@latest", f"--storage={storage}"]) == 0
    assert "icons" in capsys.readouterr().out
    assert models.main(["verify", "--all", f"--storage={storage}"]) == 0
    assert "icons" in (storage / "index.html").read_text()
