"""How true the reported accuracy is with `--group-by` and without, where several pictures show the same thing.

objects: 120 drawn objects, each in ten near-copies, with a random label of two classes. No model can know the label of
an object that it has not seen, so the true accuracy on new objects is 50%.
letters: capital letters in random fonts, each letter of a font drawn five times; a font is a group. The accuracy on
further fonts, of the model that was trained with groups, is what a user of new fonts gets.
"""

import argparse
import os
import statistics
import string
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from benchmarks.drawings import Pixels, Random, font_files, glyphs, varied
from benchmarks.record import setting
from benchmarks.trials import train_trial
from mnist_lib.data.dataset import Dataset
from mnist_lib.data.prepare import prepare
from mnist_lib.data.request import DataRequest
from mnist_lib.data.table import TEST
from mnist_lib.documents import Interval
from mnist_lib.spec import TrialSpec
from mnist_lib.training.assignment import Resources
from mnist_lib.wording import percent

NUM_OBJECTS, COPIES = 120, 10
FONTS, OTHER_FONTS, DRAWN = 40, 20, 5  # fonts to train with and others, pictures of each letter of a font
SIDE = 28  # pixels
SPEC = TrialSpec.of("keras-cnn", dataset="pictures", epochs=20, global_batch_size=32)


@dataclass(frozen=True)
class Measured:
    """A result on the test images of a dataset: the accuracy and its 95% interval."""

    accuracy: float
    interval: Interval

    @property
    def contains_chance(self) -> bool:
        return self.interval[0] <= 0.5 <= self.interval[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", type=int, default=20, help="number of datasets of each kind (default: 20)")
    parser.add_argument("--sources", type=Path, help="folder of benchmarks.sources (default: no letters)")
    parser.add_argument("--only", choices=["objects", "letters"], help="one kind (default: both)")
    options = parser.parse_args()
    resources, numbers = Resources(cpus=len(os.sched_getaffinity(0))), range(options.datasets)
    print(setting(resources.cpus))
    if options.only != "letters":
        print(objects_report([objects(number, resources) for number in numbers]))
    if options.sources is not None and options.only != "objects":
        print(letters_report([letters(number, options.sources, resources) for number in numbers]))


def objects(
    seed: int, resources: Resources, spec: TrialSpec = SPEC, count: int = NUM_OBJECTS
) -> tuple[Measured, Measured]:
    """Return the results on objects without groups and with them.

    Args:
        resources: of the trials; a process can set the number of its threads only once.
    """
    random = np.random.default_rng(seed)
    with TemporaryDirectory() as home:
        for number in range(count):
            folder = Path(home, "objects", "ab"[random.integers(2)], f"object{number}")
            write(folder, [near_copy(picture, random) for picture in [drawn_object(random)] for _ in range(COPIES)])
        datasets = read(home, "objects"), read(home, "objects", "folder")
        results = [measured(dataset, replace(spec, seed=seed), resources) for dataset in datasets]
    print(f"objects {seed}: {', '.join(map(text, results))}", file=sys.stderr)
    return results[0], results[1]


def letters(
    seed: int,
    sources: Path,
    resources: Resources,
    spec: TrialSpec = SPEC,
    fonts: tuple[int, int] = (FONTS, OTHER_FONTS),
) -> tuple[Measured, Measured, Measured]:
    """Return the results on letters without groups, with them, and on other fonts."""
    random = np.random.default_rng(seed)
    with TemporaryDirectory() as home:
        for name, part, count in zip(("letters", "others"), ("calibration", "evaluation"), fonts, strict=True):
            write_letters(Path(home, name), sources / part / "fonts", count, random)
        grouped = read(home, "letters", "folder")
        datasets = read(home, "letters"), grouped, tested_on(grouped, read(home, "others", "folder"))
        results = [measured(dataset, replace(spec, seed=seed), resources) for dataset in datasets]
    print(f"letters {seed}: {', '.join(map(text, results))}", file=sys.stderr)
    return results[0], results[1], results[2]


def drawn_object(random: Random) -> Pixels:
    """Return a picture of soft shapes: [SIDE, SIDE]."""
    coarse = Image.fromarray(random.integers(0, 256, (7, 7), np.uint8))
    return np.asarray(coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def near_copy(picture: Pixels, random: Random) -> Pixels:
    """Return the picture moved by up to two pixels, with another brightness and noise."""
    moved = np.roll(picture, random.integers(-2, 3, 2), axis=(0, 1)) * random.uniform(0.85, 1.15)
    return np.clip(moved + random.normal(0, 8, moved.shape), 0, 255).astype(np.uint8)


def write_letters(folder: Path, fonts: Path, count: int, random: Random) -> None:
    """Write CLASS/FONT/picture for random fonts that have all capital letters."""
    written = 0
    for file in random.permutation(np.array(font_files(fonts, {}, 1, random))):
        known = glyphs(file, string.ascii_uppercase)
        if len(known) < len(string.ascii_uppercase) or written == count:
            continue
        for letter, picture in known.items():
            drawn = [Image.fromarray(varied(picture, random, 0.5)).resize((SIDE, SIDE)) for _ in range(DRAWN)]
            write(folder / letter / file.stem, [np.asarray(image) for image in drawn])
        written += 1
    if written < count:
        raise SystemExit(f"{fonts}: expected {count} fonts with all capital letters, got {written}; fetch more")


def write(folder: Path, pictures: Sequence[Pixels]) -> None:
    folder.mkdir(parents=True)
    for number, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / f"{number}.png")


def read(home: str, name: str, group_by: str | None = None) -> Dataset:
    return prepare(
        DataRequest(dataset=f"{home}/{name}", dataset_name=SPEC.dataset, data_dir=Path(home), group_by=group_by)
    )


def tested_on(dataset: Dataset, others: Dataset) -> Dataset:
    """Return the train images of a dataset with all images of another one as test images."""
    train, test = (replace(table, files=table.files[:, :0]) for table in (dataset.train, others.table))
    table = train.followed_by(replace(test, splits=np.full(len(test), TEST, np.uint8)))
    dataset = replace(dataset, table=table)
    return replace(dataset, fingerprint=dataset.fingerprint_of_splits())


def measured(dataset: Dataset, spec: TrialSpec, resources: Resources) -> Measured:
    """Train, and return the result on the test images."""
    result = train_trial(spec, dataset, resources)
    return Measured(result.record.test_accuracy, result.record.test_ci95)


def text(result: Measured) -> str:
    return f"{percent(result.accuracy)} ({percent(result.interval[0])} to {percent(result.interval[1])})"


def objects_report(found: Sequence[tuple[Measured, Measured]]) -> str:
    lines = ["| objects | accuracy, mean | lowest to highest | 95% interval contains 50% |", "|---|---|---|---|"]
    for name, results in zip(("without groups", "--group-by folder"), zip(*found, strict=True), strict=True):
        contains = sum(result.contains_chance for result in results)
        lines.append(f"| {name} | {accuracies(results)} | {contains} of {len(results)} |")
    return "\n".join(["", *lines, "", f"n = {len(found)} datasets of {NUM_OBJECTS} objects, {COPIES} pictures each."])


def letters_report(found: Sequence[tuple[Measured, Measured, Measured]]) -> str:
    names = ("without groups", "--group-by folder", "on other fonts")
    lines = ["| letters | accuracy, mean | lowest to highest |", "|---|---|---|"]
    lines += [
        f"| {name} | {accuracies(results)} |" for name, results in zip(names, zip(*found, strict=True), strict=True)
    ]
    return "\n".join(["", *lines, "", f"n = {len(found)} datasets of {FONTS} fonts, {OTHER_FONTS} others."])


def accuracies(results: Sequence[Measured]) -> str:
    values = [result.accuracy for result in results]
    return f"{percent(statistics.fmean(values))} | {percent(min(values))} to {percent(max(values))}"


if __name__ == "__main__":
    main()
