"""The page of the first day, followed with a folder of three classes: every command, the report and the review."""

import csv
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image, ImageDraw
from playwright.sync_api import Browser

from tests.support.bounds import JOB_SECONDS
from tests.support.browser import PHONE, assert_good, chromium, look_at
from tests.support.documents import ROOT, blocks
from tests.support.pictures import write_folder

PAGE = "docs/first-day.md"
CLASSES = {"red circle": (200, 40, 40), "square": (40, 160, 60), "triangle": (50, 60, 200)}
# The picture that can be decided about, by its name.
SHOWN = """() => !document.querySelector("#classes button")?.disabled && document.querySelector("#name").textContent"""
# How the two trainings of the page are shortened.
TRAININGS = (("--seeds 3", "--epochs 20"), ("--seeds 3", "--epochs 1"))


class Step(NamedTuple):
    """A command of the page, and what it wrote."""

    command: str
    code: int
    stdout: str
    stderr: str


def shape(name: str, seed: int) -> Image.Image:
    """Return a picture of 16 x 16 pixels with a shape in about the colour of its class, on a transparent ground."""
    random = np.random.default_rng([seed, len(name)])
    colour = tuple(int(level) for level in np.clip(random.normal(CLASSES[name], 20), 0, 255))
    picture = Image.new("RGBA", (16, 16))
    sides = {"red circle": 40, "square": 4, "triangle": 3}[name]
    ImageDraw.Draw(picture).regular_polygon((*random.uniform(7, 9, 2), 6), sides, int(random.integers(90)), colour)
    return picture


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder as the page expects it: sorted `pictures`, one of which is broken, and unsorted ones."""
    pictures = {f"{name}/{seed}.png": shape(name, seed) for name in CLASSES for seed in range(50)}
    write_folder(tmp_path / "pictures", {**pictures, "red circle/broken.png": b"broken"})
    write_folder(tmp_path / "more", {f"{name}.png": shape(name, 1_000) for name in CLASSES})
    write_folder(
        tmp_path / "others", {f"{name}/{seed}.png": shape(name, 2_000 + seed) for name in CLASSES for seed in range(9)}
    )
    write_folder(tmp_path / "new", {f"{name}.png": shape(name, 1_001).resize((48, 48)) for name in CLASSES})
    return tmp_path


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_page_of_the_first_day_can_be_followed_to_its_end(home: Path) -> None:
    text = "".join(block.text for block in blocks("sh") if block.document == PAGE)
    commands = [line for line in (line.partition(" #")[0].strip() for line in text.splitlines()) if "python" in line]
    trainings = iter(TRAININGS)
    with chromium() as browser:
        steps = [
            review(command, home, browser)
            if "jobs.review" in command
            else type_in(command.replace(*next(trainings)) if "jobs.train" in command else command, home)
            for command in commands
        ]
        (first, _) = sorted(home.glob("results/runs/*/report.html"))
        assert_good(look_at(browser, first, PHONE, "light"))
    show, train, checked, added, again, *tested, listed, promoted, back, table, _ = steps
    assert {step.command: step.stderr for step in steps if step.code != (9 if step is train else 0)} == {}
    assert "left out: red circle/broken.png" in show.stdout
    assert "pictures: left out: red circle/broken.png: expected a picture" in train.stderr
    assert "keras-resnet@1 is the first champion" in train.stdout
    assert checked.stdout.endswith(f"Reviewed 1 picture: 1 corrected. Labels: {home}/pictures/labels.jsonl\n")
    assert "Reviewed 3 pictures: 3 added to the dataset." in added.stdout
    assert "Data: 3 images added" in again.stdout
    assert "Corrections: 1 image relabelled" in again.stdout
    assert [step.stdout.partition(" on others: ")[0] for step in tested] == ["keras-resnet@1", "keras-resnet@2"]
    assert all(" of 27 images correct, " in step.stdout for step in tested)
    versions = sorted(line.split()[0] for line in listed.stdout.splitlines() if line.startswith("keras-resnet@"))
    assert versions == ["keras-resnet@1", "keras-resnet@2"]
    assert "keras-resnet@2 is now the champion" in promoted.stdout
    assert "keras-resnet@1 is the champion" in back.stdout
    answers = csv.DictReader((home / "answers.csv").read_text().splitlines())
    assert {answer["picture"]: answer["class"] for answer in answers} == {f"new/{name}.png": name for name in CLASSES}
    assert all(f"new/{name}.png" in table.stdout for name in CLASSES)
    assert (home / "results/index.html").exists()


def type_in(command: str, home: Path) -> Step:
    """Run a command in a shell."""
    done = subprocess.run(command, shell=True, cwd=home, env=environment(home), capture_output=True, text=True)
    return Step(command, done.returncode, done.stdout, done.stderr)


def environment(home: Path) -> dict[str, str]:
    """Return the variables of a shell in which the environment of this project is activated."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "HOME": str(home)}


def review(command: str, home: Path, browser: Browser) -> Step:
    """Review as the page says: correct the label of one picture, or label all new ones by their names."""
    process = subprocess.Popen(
        [*shlex.split(command), "--no-browser"],
        cwd=home,
        env=environment(home),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        label_pictures(browser, process.stdout.readline(), "more/" in command)
    finally:
        process.terminate()
    stdout, stderr = process.communicate(timeout=JOB_SECONDS)
    return Step(command, process.returncode, stdout, stderr)


def label_pictures(browser: Browser, address: str, are_added: bool) -> None:
    page = browser.new_page()
    page.set_default_timeout(120_000)  # milliseconds; on a busy machine, a request takes many seconds
    page.goto(address)
    for count in range(1, len(CLASSES) + 1 if are_added else 2):
        path = Path(str(page.wait_for_function(SHOWN).json_value()))
        label = path.stem if are_added else next(name for name in CLASSES if name != path.parent.name)
        page.keyboard.press(page.locator("#classes button", has_text=label).locator("kbd").inner_text())
        page.wait_for_function(f"() => document.body.innerText.includes('{count} reviewed')")
    page.close()
