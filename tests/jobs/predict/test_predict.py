"""Pictures as people have them, asked of a model that was trained and stored by the job."""

import csv
import io
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jobs.predict import __main__ as predict
from mnist_lib.data.split import Dataset, Split
from tests.support.drawing import KINDS, drawn, header_only, png
from tests.support.job import ROOT, train

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("tensorflow")]

NO_TENSORFLOW = """
import sys
from jobs.predict.__main__ import main
status = main(sys.argv[1:])
assert not {'tensorflow', 'keras', 'tensorflow_datasets'} & set(sys.modules)
sys.exit(status)
"""


@pytest.fixture(scope="module")
def storage(ray_address: str, data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a champion of keras, trained on mnist-mini."""
    home = tmp_path_factory.mktemp("predict")
    command = ("--address", ray_address, "--data-dir", data_dir, "--models=keras", "--epochs=20", "--gpus-per-trial=0")
    code, _, stderr = train(*command, "--storage", home / "results", home=home)
    assert code == 0, stderr
    return home / "results"


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., tuple[int, str, str]]]:
    """The command in this process, which has TensorFlow already."""
    loggers = [logging.getLogger(package) for package in ("jobs", "mnist_lib", "cluster")]
    before = [(logger.level, [*logger.handlers]) for logger in loggers]

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        code = predict.main([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    yield run
    for logger, (level, handlers) in zip(loggers, before, strict=True):
        logger.setLevel(level)
        logger.handlers[:] = handlers


@pytest.fixture(scope="module")
def folder(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 drawn digits, each named with what it is."""
    folder = tmp_path_factory.mktemp("pictures")
    for number, index in enumerate(np.random.default_rng(1).choice(1_000, 40, replace=False)):
        mode, format = KINDS[number % len(KINDS)]
        name = f"{number:02d}-{digits.test.labels[index]}-{mode}.{format.lower()}"
        (folder / name).write_bytes(drawn(digits.test.images[index, ..., 0], number))
        Image.fromarray(digits.test.images[index, ..., 0]).save(folder / f".{number:02d}.png")  # as it was
    return folder


def digits_of(stdout: str) -> list[int]:
    return [row["digit"] for row in json.loads(stdout)["pictures"]]


def test_drawn_digits_are_read_like_those_of_the_dataset_and_shown(
    storage: Path, folder: Path, tmp_path: Path, told: Any
) -> None:
    code, stdout, stderr = told(folder, "--storage", storage, "--json", "--picture", tmp_path / "seen.png")
    assert code == 0
    document = json.loads(stdout)
    assert document["model"] == "keras@1"
    assert document["failed"] == []
    rows = document["pictures"]
    assert [row["picture"] for row in rows] == sorted(str(path) for path in folder.glob("[!.]*"))
    labels = np.array([int(Path(row["picture"]).name.split("-")[1]) for row in rows])
    plain = np.array(digits_of(told(*sorted(folder.glob(".*")), "--as-is", "--storage", storage, "--json")[1]))
    readable = plain == labels  # by this model at all
    assert readable.mean() > 0.85
    assert (np.array([row["digit"] for row in rows]) == labels)[readable].mean() >= 0.97
    assert all(row["resized"] for row in rows)
    lines = stderr.splitlines()
    assert lines[0].startswith("keras@1 answers; it is right on 9")
    assert lines[1].startswith("40 pictures in ")
    assert lines[1].endswith(" pictures/s")
    assert lines[2:] == ["40 of 40 pictures were of another size; resized to 28 x 28"]
    with Image.open(tmp_path / "seen.png") as seen:
        assert seen.width < 1_500
        assert seen.height < 1_500


def test_bad_files_are_named_each_in_one_line_and_keep_no_other_from_being_read(
    storage: Path, digits: Dataset, tmp_path: Path
) -> None:
    bad = {
        "empty.png": (b"", "got an empty file"),
        "letter\x1b[31m\n.png": (b"Dear Sir", "expected a picture (PNG, "),
        "bomb.png": (header_only(60_000, 60_000), "expected at most 50,000,000 pixels"),
        "large.png": (bytes(11_000_000), "expected at most 10 MB, got 11.0"),
        "cut.png": (png(digits.test.images[0, ..., 0])[:-30], "got a damaged one"),
        "blank.png": (png(np.full((90, 90), 250, np.uint8)), "nothing stands out"),
    }
    for name, (content, _) in bad.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "good, 'yes'.png").write_bytes(png(digits.test.images[0, ..., 0]))
    (tmp_path / "nothing").mkdir()
    command = [
        sys.executable,
        "-m",
        "jobs.predict",
        "--storage",
        str(storage),
        str(tmp_path),
        str(tmp_path / "nothing"),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 9, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error[E-IMAGE] ")]
    assert len(errors) == len(bad) + 1
    for name, (_, message) in bad.items():
        shown = str(tmp_path / name).replace("\x1b", "\\x1b").replace("\n", "\\n")
        assert any(shown in line and message in line for line in errors)
    assert "got a folder without any" in errors[-1]
    assert not [
        line for line in done.stderr.splitlines() if not line.startswith(("error[", "keras@1 ", "8 pictures in"))
    ]
    heading, answer = done.stdout.splitlines()
    assert heading.split() == ["picture", "digit", "probability", "next", "probability"]
    assert answer.startswith(str(tmp_path / "good, 'yes'.png"))


def test_where_nothing_could_be_predicted_the_exit_code_is_2(storage: Path, tmp_path: Path, told: Any) -> None:
    path = tmp_path / "gone.png"
    code, stdout, stderr = told(path, "--storage", storage, "--json")
    assert code == 2
    assert json.loads(stdout)["failed"][0]["picture"] == str(path)
    assert f"error[E-IMAGE] {path}: expected a file or a folder" in stderr
    assert told(path, "--storage", storage)[:2] == (2, "")


def test_csv_holds_whatever_a_name_does(storage: Path, digits: Dataset, tmp_path: Path, told: Any) -> None:
    paths = [tmp_path / name for name in ('a "b", c.png', "two\nlines.png", "-x.png", "=1+1.png")]
    for path in paths:
        path.write_bytes(png(digits.test.images[700, ..., 0]))
    code, stdout, _ = told(*paths, "--storage", storage, "--csv")
    assert code == 0
    assert stdout.endswith("\r\n")
    rows = list(csv.DictReader(io.StringIO(stdout, newline="")))
    assert [row["picture"] for row in rows] == [str(path) for path in paths]
    assert {row["digit"] for row in rows} == {"7"}
    assert all(float(row["probability"]) >= float(row["next_probability"]) for row in rows)


def test_test_images_come_with_their_labels_and_are_those_of_the_seed(storage: Path, data_dir: Path, told: Any) -> None:
    from mnist_lib.data.prepare import prepare

    labels = prepare("mnist-mini", data_dir, None).test.labels
    command = ("--from-test=10", "--storage", storage, "--data-dir", data_dir)
    code, stdout, _ = told(*command, "--json")
    assert code == 0
    rows = json.loads(stdout)["pictures"]
    assert len({row["picture"] for row in rows}) == 10
    for row in rows:
        assert row["label"] == labels[int(row["picture"].split()[-1])]
        assert row["right"] == (row["label"] == row["digit"])
    assert told(*command, "--json")[1] == stdout
    assert told(*command, "--json", "--seed=1")[1] != stdout
    assert f"{sum(row['right'] for row in rows)} of 10 are right." in told(*command)[1]
    assert told("--from-test=1001", "--storage", storage, "--data-dir", data_dir)[0] == 2


def test_what_no_digit_is_likely_for_is_marked(storage: Path, digits: Dataset, tmp_path: Path, told: Any) -> None:
    images = digits.test.images[..., 0].astype(float)
    for number in range(20):  # between two digits
        mixed = (images[number * 50] + images[999 - number * 37]) / 2
        (tmp_path / f"{number}.png").write_bytes(png(mixed.astype(np.uint8)))
    rows = json.loads(told(tmp_path, "--as-is", "--storage", storage, "--json")[1])["pictures"]
    unsure = [row["picture"] for row in rows if row["probability"] < 0.5]
    assert unsure
    table = told(tmp_path, "--as-is", "--storage", storage)[1].splitlines()
    assert [line.split()[0] for line in table if line.endswith("  unsure")] == unsure
    assert table[-1].startswith(f"unsure: of {len(unsure)} of 20 ")


def test_many_pictures_are_read_by_several_processes_in_their_order(
    storage: Path, digits: Dataset, tmp_path: Path, told: Any
) -> None:
    for number in range(250):
        content = b"" if number == 120 else png(digits.test.images[number * 4, ..., 0])
        (tmp_path / f"{number:03d}.png").write_bytes(content)
    code, stdout, stderr = told(tmp_path, "--as-is", "--storage", storage, "--json")
    assert code == 9
    assert stderr.count("error[E-IMAGE]") == 1
    rows = json.loads(stdout)["pictures"]
    assert [Path(row["picture"]).stem for row in rows] == [f"{number:03d}" for number in range(250) if number != 120]
    labels = [int(digits.test.labels[int(Path(row["picture"]).stem) * 4]) for row in rows]
    assert np.mean([row["digit"] == label for row, label in zip(rows, labels, strict=True)]) > 0.9
    assert "28 x 28" not in stderr  # none was resized


def test_a_cluster_answers_as_this_machine_does_and_the_driver_loads_no_tensorflow(
    storage: Path, folder: Path, ray_address: str, tmp_path: Path, told: Any
) -> None:
    (tmp_path / "bad.png").write_bytes(b"bad")
    arguments = (folder, tmp_path, "--storage", storage, "--json")
    here = told(*arguments)
    command = [sys.executable, "-c", NO_TENSORFLOW, *map(str, arguments), "--address", ray_address]
    there = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert there.returncode == here[0] == 9, there.stderr
    assert f"error[E-IMAGE] {tmp_path / 'bad.png'}: expected a picture" in there.stderr
    one, other = json.loads(here[1]), json.loads(there.stdout)
    assert other["failed"] == one["failed"]
    for row, same in zip(one["pictures"], other["pictures"], strict=True):
        assert (row["picture"], row["digit"]) == (same["picture"], same["digit"])
        np.testing.assert_allclose(row["probabilities"], same["probabilities"], atol=1e-4)


def processes_below(pid: int) -> list[int]:
    import psutil

    return [child.pid for child in psutil.Process(pid).children(recursive=True)]


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="on one CPU it reads in its own process")
def test_no_process_outlives_a_command_that_is_killed(storage: Path, digits: Dataset, tmp_path: Path) -> None:
    import psutil

    for number in range(200):
        (tmp_path / f"{number}.png").write_bytes(png(digits.test.images[number, ..., 0]))
    command = [sys.executable, "-m", "jobs.predict", str(tmp_path), "--storage", str(storage)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(below := processes_below(process.pid)) < 2:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    time.sleep(0.5)
    process.kill()
    process.wait()
    while any(map(psutil.pid_exists, below)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture(scope="module")
def mnist(
    mnist_source: Path, data_dir: Path, ray_address: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Split]:
    """A storage with a champion of at least 98% on the full MNIST, and 1,000 test images."""
    from mnist_lib.data.prepare import prepare

    home = tmp_path_factory.mktemp("predict-mnist")
    data = ("--dataset=mnist", "--data-dir", data_dir, "--data-source", mnist_source)
    where = ("--address", ray_address, "--gpus-per-trial=0", "--storage", home / "results")
    how = ("--models=keras", "--epochs=8", "--optimizer=adam", "--schedule=one-cycle", "--learning-rate=0.003")
    code, stdout, stderr = train(*data, *where, *how, "--json", home=home)
    assert code == 0, stderr
    assert json.loads(stdout)["trials"][0]["test_accuracy"] >= 0.98
    test = prepare("mnist", data_dir, mnist_source).test
    return home / "results", test.take(np.random.default_rng(0).choice(10_000, 1_000, replace=False))


def _jpeg(image: Image.Image) -> bytes:
    content = io.BytesIO()
    image.save(content, "JPEG")
    return content.getvalue()


def _scaled(image: Image.Image, side: int) -> Image.Image:
    return image.resize((side, side), Image.Resampling.BICUBIC)


VARIANTS: dict[str, Callable[[Image.Image], bytes]] = {
    "PNG": lambda image: png(np.asarray(image)),
    "JPEG": _jpeg,
    "inverted": lambda image: png(255 - np.asarray(image)),
    "three times as large": lambda image: png(np.asarray(_scaled(image, 84))),
    "smaller": lambda image: png(np.asarray(_scaled(image, 22))),
    "large, as JPEG, dark on light": lambda image: _jpeg(Image.fromarray(255 - np.asarray(_scaled(image, 300)))),
}


@pytest.mark.mnist
@pytest.mark.parametrize("variant", VARIANTS)
def test_of_a_thousand_digits_of_mnist_97_percent_are_read_however_they_were_saved(
    variant: str, mnist: tuple[Path, Split], tmp_path: Path, told: Any
) -> None:
    storage, test = mnist
    for number, image in enumerate(test.images[..., 0]):
        (tmp_path / f"{number:04d}").write_bytes(VARIANTS[variant](Image.fromarray(image)))
    code, stdout, _ = told(*sorted(tmp_path.iterdir()), "--storage", storage, "--json")
    assert code == 0
    assert (np.array(digits_of(stdout)) == test.labels).mean() >= 0.97


@pytest.mark.mnist
def test_drawn_digits_of_mnist_are_read_nearly_as_well(mnist: tuple[Path, Split], tmp_path: Path, told: Any) -> None:
    storage, test = mnist
    for number in range(40):
        (tmp_path / f"{number:04d}").write_bytes(drawn(test.images[number, ..., 0], number))
    code, stdout, _ = told(*sorted(tmp_path.iterdir()), "--storage", storage, "--json")
    assert code == 0
    assert (np.array(digits_of(stdout)) == test.labels[:40]).mean() >= 0.95
