"""Pictures per second that `python -m jobs.predict` reads from a disk and predicts, without its start-up."""

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.record import setting
from mnist_lib.data.embedded import FOLDER

BOUND = 2_000  # pictures/s, on two cores


def write_pictures(folder: Path, count: int) -> None:
    """Write PNG files of 28 x 28 pixels."""
    with np.load(FOLDER / "mnist-mini.npz") as arrays:
        images = np.concatenate([arrays["train_images"], arrays["test_images"]])[..., 0]
    for number in range(count):
        Image.fromarray(images[number % len(images)]).save(folder / f"{number:06d}.png")


def train(storage: Path) -> None:
    command = [sys.executable, "-m", "jobs.train", "--models=keras", "--epochs=10", f"--storage={storage}"]
    subprocess.run(command, check=True, capture_output=True)


def pictures_per_second(storage: Path, pictures: Path) -> float:
    """Return the rate that the command reports: from the first file that it opens to the last prediction."""
    command = [sys.executable, "-m", "jobs.predict", str(pictures), f"--storage={storage}", "--json"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    (rate,) = re.findall(r"([\d,]+) pictures/s", done.stderr)
    return float(rate.replace(",", ""))


def report(rates: Sequence[float], pictures: int) -> str:
    """Return the record in Markdown."""
    spread = f"{min(rates):,.0f} to {max(rates):,.0f}"
    return "\n".join(
        [
            setting(len(os.sched_getaffinity(0))),
            f"{pictures:,} PNG files of 28 x 28 pixels; n = {len(rates)} commands.",
            "",
            "| pictures/s, median | min to max | bound |",
            "|---|---|---|",
            f"| {statistics.median(rates):,.0f} | {spread} | {BOUND:,} |",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", help="ignored: this benchmark uses the embedded digits")
    parser.add_argument("--rounds", type=int, default=5, help="number of rounds (default: 5)")
    parser.add_argument("--pictures", type=int, default=10_000, help="number of pictures (default: 10000)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        storage, pictures = Path(folder, "results"), Path(folder, "pictures")
        pictures.mkdir()
        write_pictures(pictures, options.pictures)
        train(storage)
        rates = [pictures_per_second(storage, pictures) for _ in range(options.rounds)]
    print(report(rates, options.pictures))


if __name__ == "__main__":
    main()
