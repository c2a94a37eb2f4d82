"""What a tired person does to a folder at midnight: nights of `jobs.retrain` with real training.

At no time is a model the champion that knows fewer classes, or was trained on a fifth fewer pictures, without a
person's word, and the night after the repair goes on as if nothing had been.
"""

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mnist_lib.data.dataset import Dataset
from mnist_lib.data.table import hashes_of, is_held_out
from mnist_lib.objects.local import LocalObjects
from tests.support.digits import ORDER, add_digits
from tests.support.job import ROOT
from tests.support.schedule import HOUR, HOURLY, Schedule
from tests.support.store.invariants import champions

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("tensorflow")]

TRAIN = ("--models=keras", "--hidden-units=64", "--epochs=12", "--no-report")


class Nights:
    """The nights of a folder of digits."""

    def __init__(self, schedule: Schedule, digits: Dataset) -> None:
        self.schedule, self.digits, self.folder, self.count = schedule, digits, schedule.folder / "digits", 0
        schedule.trains = True

    def add(self, first: int, last: int, folder: Path | None = None) -> None:
        add_digits(folder or self.folder, self.digits, first, last)

    def sleep(self, *train: str, code: int = 0) -> dict[str, Any]:
        """Run the next night, and return its notice."""
        options = (f"--dataset={self.folder}/", *TRAIN, *train)
        later, self.count = self.count * HOUR, self.count + 1
        got, stdout = self.schedule.run("--once", HOURLY, "--skip-unchanged", "--json", train=options, later=later)
        assert got == code, self.schedule.log()
        notice: dict[str, Any] = json.loads(stdout)
        return notice

    @property
    def champion(self) -> int:
        return champions(LocalObjects(self.schedule.storage), "keras", "digits")[-1].version


@pytest.fixture
def nights(schedule: Schedule, digits: Dataset) -> Nights:
    return Nights(schedule, digits)


def run_as_printed(command: str) -> None:
    """Run a command that a notice prints."""
    words = [sys.executable if word == "python" else word for word in shlex.split(command)]
    subprocess.run(words, cwd=ROOT, check=True, capture_output=True)


def test_x1_an_incomplete_folder_makes_no_champion_and_leaves_no_trace(nights: Nights) -> None:
    nights.add(0, 800)
    assert nights.sleep()["events"] == ["success", "promotion"]
    away = nights.schedule.folder / "away"
    for name in "23456789":
        shutil.move(nights.folder / name, away / name)
    incomplete = nights.sleep(code=10)
    assert incomplete["events"] == ["rejection", "dataset-changed"]
    assert incomplete["text"].startswith("nightly: digits has changed unexpectedly, so no model was promoted. Slot ")
    gone = incomplete["data"]["objections"]
    assert gone[0] == "8 of 10 classes are gone (2, 3, 4, 5, 6 and 3 more)"
    assert gone[1].endswith(" of 800 pictures are gone")
    status = nights.schedule.run("status")[1]
    assert "jobs.models accept" in "".join(status.split("\n"))
    assert nights.champion == 1
    assert nights.sleep(code=10)["outcome"] == "done"  # not skipped, although nothing has changed since
    for name in "23456789":
        shutil.move(away / name, nights.folder / name)
    nights.add(800, 1_000)
    repaired = nights.sleep()
    assert repaired["events"][:2] == ["success", "promotion"], repaired["models"]["keras"]["why"]
    assert "not worse, with" in repaired["models"]["keras"]["why"]
    assert nights.champion == repaired["models"]["keras"]["version"] == 4


def test_a_person_accepts_a_folder_with_fewer_classes(nights: Nights) -> None:
    nights.add(0, 500)
    nights.sleep()
    for name in "89":
        shutil.rmtree(nights.folder / name)
    command = nights.sleep(code=10)["next_command"]
    assert command.startswith("python -m jobs.models accept digits --state ")
    nights.add(500, 520)  # pictures that have arrived since, in the other classes, too
    for name in "89":
        shutil.rmtree(nights.folder / name, ignore_errors=True)
    run_as_printed(command)
    accepted = nights.sleep()
    assert accepted["data"]["name"] == "digits"
    assert "dataset-changed" not in accepted["events"]


def test_x2_five_classes_that_grow_to_ten_are_promoted(nights: Nights) -> None:
    nights.add(0, 800)
    later = nights.schedule.folder / "later"
    for name in "56789":
        shutil.move(nights.folder / name, later / name)
    nights.sleep()
    for name in "56789":
        shutil.move(later / name, nights.folder / name)
    grown = nights.sleep()
    assert nights.champion == 2, grown["models"]["keras"]["why"]


def test_x1_an_archive_that_is_unpacked_in_the_folder_makes_no_champion(nights: Nights) -> None:
    nights.add(0, 800)
    nights.sleep()
    nights.add(800, 1_000, nights.folder / "train")
    nights.add(1_000, 1_100, nights.folder / "test")
    unpacked = nights.sleep(code=10)
    assert unpacked["data"]["objections"] == [
        *("all 800 pictures are gone; for another dataset, use --dataset-name", "folders train and test have appeared")
    ]
    assert nights.champion == 1
    for name in ("train", "test"):
        shutil.rmtree(nights.folder / name)
    nights.add(1_100, 1_700)
    repaired = nights.sleep()
    assert nights.champion == 3, repaired["models"]["keras"]["why"]


def test_x3_a_stray_picture_changes_neither_the_images_nor_the_champion(nights: Nights) -> None:
    nights.add(0, 800)
    nights.sleep()
    Image.new("RGB", (30, 40), "red").save(nights.folder / "5/stray.png")
    nights.add(800, 1_000)
    stray = nights.sleep("--init-from=@champion")
    assert nights.champion == 2, stray["models"]["keras"]["why"]
    assert "resized and cropped to 28 x 28, the size of most pictures: 1 (5/stray.png)" in nights.schedule.log()
    summary = json.loads((nights.schedule.storage / f"runs/{stray['run']}/summary.json").read_text())
    assert summary["dataset"]["image_shape"] == [28, 28, 1]


def test_x3_one_test_picture_in_a_mistyped_class_does_not_hide_a_better_model(nights: Nights) -> None:
    nights.add(0, 800)
    options = ("--score=balanced-accuracy", "--promote=if-significant")
    nights.sleep(*options, "--epochs=1")
    images = nights.digits.train.images[ORDER[800:900]]
    index = int(np.flatnonzero(is_held_out(hashes_of(images)))[0])
    (nights.folder / "tpyo").mkdir()
    Image.fromarray(images[index, ..., 0]).save(nights.folder / "tpyo/1.png")
    better = nights.sleep(*options)
    assert nights.champion == 2, better["models"]["keras"]["why"]


def test_x4_a_picture_that_can_never_be_read_is_an_alarm_once(nights: Nights) -> None:
    nights.add(0, 300)
    (nights.folder / "3/broken.png").write_bytes(b"x")
    first = nights.sleep(code=9)
    assert {*first["events"]} == {"promotion", "damaged"}
    assert first["text"].startswith("nightly: 1 picture cannot be read; new champion: keras@1, with ")
    nights.add(300, 310)
    second = nights.sleep()
    assert "damaged" not in second["events"]
    assert nights.schedule.log().count("left out: 3/broken.png: ") == 2
    (nights.folder / "4/broken.png").write_bytes(b"x")
    assert "damaged" in nights.sleep(code=9)["events"]
