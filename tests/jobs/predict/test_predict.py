"""Predictions for realistic pictures, by a model that the job has trained and stored."""

import csv
import io
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mnist_lib.catalog import DIGITS
from mnist_lib.data.dataset import Dataset
from tests.support.bounds import wait_until
from tests.support.drawing import KINDS, drawn, header_only, png
from tests.support.hostile import HOSTILE, is_harmless
from tests.support.hostile_pictures import many_scans, of_numbers
from tests.support.job import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("tensorflow")]

NO_TENSORFLOW = """
import sys
from jobs.predict.__main__ import main
status = main(sys.argv[1:])
assert not {'tensorflow', 'keras', 'tensorflow_datasets'} & set(sys.modules)
sys.exit(status)
"""


@pytest.fixture(scope="module")
def storage(gpu_run: tuple[dict[str, Any], Path]) -> Path:
    """A storage with champions of mnist-mini, of which that of keras is the more accurate one."""
    _, home = gpu_run
    return home / "results"


@pytest.fixture(scope="module")
def folder(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 40 drawn digits, with labels in the file names, and the 40 original images as hidden files."""
    folder = tmp_path_factory.mktemp("pictures")
    for number, index in enumerate(np.random.default_rng(1).choice(1_000, 40, replace=False)):
        mode, format = KINDS[number % len(KINDS)]
        name = f"{number:02d}-{digits.test.labels[index]}-{mode}.{format.lower()}"
        (folder / name).write_bytes(drawn(digits.test.images[index, ..., 0], number))
        Image.fromarray(digits.test.images[index, ..., 0]).save(folder / f".{number:02d}.png")
    return folder


def digits_of(stdout: str) -> list[int]:
    return [int(np.argmax(row["probabilities"])) for row in json.loads(stdout)["pictures"]]


def test_drawn_digits_are_predicted_like_the_originals(
    storage: Path, folder: Path, tmp_path: Path, predict: Any
) -> None:
    code, stdout, stderr = predict(folder, "--storage", storage, "--json")
    assert code == 0
    document = json.loads(stdout)
    assert document["model"] == "keras@1"
    assert document["failed"] == []
    rows = document["pictures"]
    assert [row["picture"] for row in rows] == sorted(str(path) for path in folder.glob("[!.]*"))
    labels = np.array([int(Path(row["picture"]).name.split("-")[1]) for row in rows])
    plain = np.array(digits_of(predict(*sorted(folder.glob(".*")), "--as-is", "--storage", storage, "--json")[1]))
    readable = plain == labels  # some digits of MNIST are too hard for this model
    assert readable.mean() > 0.85
    assert (np.array(digits_of(stdout)) == labels)[readable].mean() >= 0.97
    assert sum(row["not_one_digit"] for row in rows) <= 1
    assert all(row["resized"] for row in rows)
    lines = stderr.splitlines()
    assert lines[0].startswith("predicting with keras@1, whose test accuracy on mnist-mini is 9")
    assert re.fullmatch(r"40 pictures in [\d.]+ s \([\d,]+ pictures/s\)", lines[1])
    assert lines[2:] == ["40 of 40 pictures resized to 28 x 28"]


@pytest.mark.long
def test_each_bad_file_gives_one_error_line_and_the_others_are_predicted(
    storage: Path, digits: Dataset, tmp_path: Path
) -> None:
    bad = {
        "empty.png": (b"", "got an empty file"),
        "letter\x1b[31m\n.png": (b"Dear Sir", "expected a picture (PNG, "),
        "bomb.png": (header_only(60_000, 60_000), "expected at most 50,000,000 pixels"),
        "large.png": (bytes(11_000_000), "expected at most 10 MB, got 11.0"),
        "cut.png": (png(digits.test.images[0, ..., 0])[:-30], "got a damaged one"),
        "blank.png": (png(np.full((90, 90), 250, np.uint8)), "too little contrast"),
        "slow.jpg": (many_scans(), "expected a picture that is read within 6 s of processor time"),
        "numbers.tif": (of_numbers(np.nan), "got infinity or NaN"),
    }
    for name, (content, _) in bad.items():
        (tmp_path / name).write_bytes(content)
    for name in ("endless.png", "pipe.png"):
        bad[name] = (b"", "got a device, a pipe or a socket")
    (tmp_path / "endless.png").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "good, 'yes'.png").write_bytes(png(digits.test.images[0, ..., 0]))
    (tmp_path / "nothing").mkdir()
    pictures = [str(tmp_path), str(tmp_path / "nothing"), "long/" * 1_000 + "path.png"]
    pictures += [str(tmp_path / name) for name in ("endless.png", "pipe.png")]  # else they are left out
    command = [sys.executable, "-m", "jobs.predict", "--storage", str(storage), *pictures]
    begin = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    seconds = time.monotonic() - begin
    assert done.returncode == 9, done.stderr
    (reported,) = re.findall(r"^8 pictures in ([\d.]+) s ", done.stderr, re.MULTILINE)
    assert float(reported) < seconds
    errors = [line for line in done.stderr.splitlines() if line.startswith("error[E-IMAGE] ")]
    assert len(errors) == len(bad) + 2
    for name, (_, message) in bad.items():
        shown = str(tmp_path / name).replace("\x1b", "\\x1b").replace("\n", "\\n")
        assert any(shown in line and message in line for line in errors)
    first = "".join(errors[:5])  # reported before the model is loaded
    assert "got a folder without any" in first
    assert "path.png: expected a file that can be read, got: File name too long" in first
    expected = ("error[", "predicting with ", f"{tmp_path}: left out, ", "8 pictures in")
    assert all(line.startswith(expected) for line in done.stderr.splitlines())
    heading, answer = done.stdout.splitlines()
    assert heading.split() == ["picture", "class", "probability", "next", "probability"]
    assert answer.startswith(str(tmp_path / "good, 'yes'.png"))


def test_if_no_picture_can_be_predicted_the_exit_code_is_2(storage: Path, tmp_path: Path, predict: Any) -> None:
    path = tmp_path / "gone.png"
    code, stdout, stderr = predict(path, "--storage", storage, "--json")
    assert code == 2
    assert json.loads(stdout)["failed"][0]["picture"] == str(path)
    assert f"error[E-IMAGE] {path}: expected a file or a folder" in stderr
    assert predict(path, "--storage", storage)[:2] == (2, "")


def test_csv_quotes_names_with_commas_quotes_and_line_breaks(
    storage: Path, digits: Dataset, tmp_path: Path, predict: Any
) -> None:
    paths = [tmp_path / name for name in ('a "b", c.png', "two\nlines.png", "-x.png", "=1+1.png")]
    for path in paths:
        path.write_bytes(png(digits.test.images[700, ..., 0]))
    code, stdout, _ = predict(*paths, "--storage", storage, "--csv")
    assert code == 0
    assert stdout.endswith("\r\n")
    rows = list(csv.DictReader(io.StringIO(stdout, newline="")))
    assert [row["picture"] for row in rows] == [str(path) for path in paths]
    assert {row["class"] for row in rows} == {"7"}
    assert all(float(row["probability"]) >= float(row["next_probability"]) for row in rows)


def test_names_of_files_do_not_act_on_the_terminal(
    storage: Path, digits: Dataset, tmp_path: Path, predict: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = ["-1.png", "=1.png", os.fsdecode(b"\x1b[2J\xff\xe2\x80\xae.png")]
    for name in names:
        Path(name).write_bytes(png(digits.test.images[700, ..., 0]))
    bad = f"bad{HOSTILE.replace(chr(0), '').replace(chr(0xD800), '')}.png"
    Path(bad).write_bytes(b"no picture")
    command = ("--storage", storage, "--", *names, bad)
    for form in ("--csv", "--json", "--no-csv"):
        code, stdout, stderr = predict(form, *command)
        assert code == 9
        assert is_harmless(stdout.replace("\r\n", "\n"))
        assert is_harmless(stderr)
        assert [line for line in stderr.splitlines() if line.startswith(r"error[E-IMAGE] badb\x1b]0;x\x07")]
    documents = json.loads(predict("--json", *command)[1])
    assert [row["picture"] for row in documents["pictures"]] == names
    rows = csv.DictReader(io.StringIO(predict("--csv", *command)[1], newline=""))
    assert [row["picture"] for row in rows] == ["-1.png", "=1.png", r"\x1b[2J\udcff\u202e.png"]


def test_lost_predictions_are_an_error(
    storage: Path, digits: Dataset, tmp_path: Path, predict: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.png").write_bytes(png(digits.test.images[700, ..., 0]))
    with Path("/dev/full").open("w") as full, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", full)
        command = (tmp_path / "a.png", "--storage", storage, "--csv")
        code, _, stderr = predict(*command)
    assert (code, stderr.count("error[E-OUTPUT] standard output cannot be written (No space left")) == (74, 1)


def test_a_picture_without_a_likely_digit_is_marked_as_unsure(
    storage: Path, digits: Dataset, tmp_path: Path, predict: Any
) -> None:
    images = digits.test.images[..., 0].astype(float)
    for number in range(20):  # the mean of two to five digits
        mixed = images[number * 50 :: 999 // (2 + number % 4)].mean(axis=0)
        (tmp_path / f"{number}.png").write_bytes(png(mixed.astype(np.uint8)))
    command = (tmp_path, "--as-is", "--accept-all", "--storage", storage)
    rows = json.loads(predict(*command, "--json")[1])["pictures"]
    unsure = [row["picture"] for row in rows if row["probability"] < 0.5]
    assert unsure
    table = predict(*command)[1].splitlines()
    assert [line.split()[0] for line in table if line.endswith("  unsure")] == unsure
    assert table[-1] == f"unsure: {len(unsure)} of 20 pictures."
    rejected = json.loads(predict(*command, "--no-accept-all", "--json")[1])["pictures"]
    assert sum(row["unsure"] or row["not_one_digit"] for row in rejected) > len(unsure)


def test_what_is_not_one_digit_is_not_predicted_unless_all_is_accepted(
    storage: Path, digits: Dataset, tmp_path: Path, predict: Any
) -> None:
    zero, *others = (digits.test.images[index, ..., 0] for index in (0, 310, 150, 450))
    (tmp_path / "0.png").write_bytes(png(zero))
    (tmp_path / "314.png").write_bytes(png(np.concatenate(others, axis=1)))
    code, stdout, _ = predict(tmp_path, "--storage", storage)
    assert code == 0
    *_, first, second, note = stdout.splitlines()
    assert first.split()[:2] == [str(tmp_path / "0.png"), "0"], stdout
    assert second.split() == [str(tmp_path / "314.png"), "not", "one", "digit"], stdout
    assert note == "not one digit: 1 of 2 pictures; --accept-all predicts all."
    code, stdout, _ = predict(tmp_path, "--storage", storage, "--accept-all", "--csv")
    assert code == 0
    assert all(row["class"] in DIGITS for row in csv.DictReader(io.StringIO(stdout, newline="")))


def test_pictures_read_by_several_processes_keep_their_order(
    storage: Path, digits: Dataset, tmp_path: Path, predict: Any
) -> None:
    for number in range(250):
        content = b"" if number == 120 else png(digits.test.images[number * 4, ..., 0])
        (tmp_path / f"{number:03d}.png").write_bytes(content)
    code, stdout, stderr = predict(tmp_path, "--as-is", "--storage", storage, "--json")
    assert code == 9
    assert stderr.count("error[E-IMAGE]") == 1
    rows = json.loads(stdout)["pictures"]
    assert [Path(row["picture"]).stem for row in rows] == [f"{number:03d}" for number in range(250) if number != 120]
    labels = [int(digits.test.labels[int(Path(row["picture"]).stem) * 4]) for row in rows]
    assert np.mean([int(row["class"]) == label for row, label in zip(rows, labels, strict=True)]) > 0.9
    assert "28 x 28" not in stderr  # none was resized


@pytest.mark.long
def test_a_cluster_predicts_the_same_and_the_driver_does_not_load_tensorflow(
    storage: Path, folder: Path, digits: Dataset, ray_address: str, tmp_path: Path, predict: Any
) -> None:
    (tmp_path / "bad.png").write_bytes(b"bad")
    (tmp_path / "several.png").write_bytes(png(np.concatenate([*digits.test.images[300:302, ..., 0]], axis=1)))
    arguments = (folder, tmp_path, "--storage", storage, "--json")
    here = predict(*arguments)
    command = [sys.executable, "-c", NO_TENSORFLOW, *map(str, arguments), "--address", ray_address]
    there = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert there.returncode == here[0] == 9, there.stderr
    assert f"error[E-IMAGE] {tmp_path / 'bad.png'}: expected a picture" in there.stderr
    one, other = json.loads(here[1]), json.loads(there.stdout)
    assert other["failed"] == one["failed"]
    for row, same in zip(one["pictures"], other["pictures"], strict=True):
        assert (row["picture"], row["class"]) == (same["picture"], same["class"])
        assert row["not_one_digit"] == same["not_one_digit"] == row["picture"].endswith("several.png")
        np.testing.assert_allclose(row["probabilities"], same["probabilities"], atol=1e-4)


def processes_below(pid: int) -> list[int]:
    import psutil

    return [child.pid for child in psutil.Process(pid).children(recursive=True)]


@pytest.mark.long
def test_no_process_outlives_a_killed_command(storage: Path, digits: Dataset, tmp_path: Path) -> None:
    import psutil

    for number in range(200):
        (tmp_path / f"{number}.png").write_bytes(png(digits.test.images[number, ..., 0]))
    command = [sys.executable, "-m", "jobs.predict", str(tmp_path), "--storage", str(storage)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    cpus = len(os.sched_getaffinity(0))
    wait_until(lambda: len(processes_below(process.pid)) >= cpus, lambda: f"no readers: exit code {process.poll()}")
    time.sleep(0.5)
    below = processes_below(process.pid)
    process.kill()
    process.wait()
    wait_until(lambda: not any(map(psutil.pid_exists, below)), "the readers outlive their command")
