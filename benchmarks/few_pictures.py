"""Accuracy of models that are trained on a few hundred pictures with the default options.

Without --sets, each draw takes other pictures of MNIST's training set, for training and validation together, and
another seed. All are measured on MNIST's 10,000 test images.

With --sets, networks are trained on the pictures of `benchmarks.pictures`, in several sizes. For each seed, all of them
are trained and measured on the same pictures. Two trials run at a time, with one thread each.
"""

import argparse
import functools
import os
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.digits import parser_with_source
from benchmarks.drawings import mnist
from benchmarks.pictures import NAMES, PictureSet, picture_sets
from benchmarks.record import paired_difference_text, setting
from benchmarks.trials import train_trial
from mnist_lib.data.dataset import Dataset
from mnist_lib.data.embedded import FOLDER
from mnist_lib.data.prepare import prepare
from mnist_lib.data.request import DataRequest
from mnist_lib.data.table import Table
from mnist_lib.spec import TrialSpec, defaults_for
from mnist_lib.training.assignment import Resources

# Accuracy in percent that the mean of the draws has to reach, by model and number of pictures.
BOUNDS: Mapping[tuple[str, int], float] = {
    ("keras", 300): 84.5,
    ("keras", 500): 87.3,
    ("keras-cnn", 300): 95.0,
    ("keras-cnn", 1_000): 97.6,
}
DRAWS = 10
NETWORKS = ("keras-cnn", "keras-fast", "keras-resnet")
SIZES = (24, 32, 48, 64, 96)  # pixels
BASELINE = ("keras-cnn", 64)  # the network of docs/first-day.md and the default size until 2026-12-01
SEEDS = 5


@dataclass(frozen=True, kw_only=True)
class Trial:
    pictures: str  # the name of the set
    folder: Path  # of its pictures
    model: str
    side: int  # of the images, in pixels
    seed: int


@dataclass(frozen=True)
class Measurement:
    accuracy: float  # percent
    seconds: float  # of processor time, with compilation and the evaluation


def main() -> None:
    parser = parser_with_source(__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--draws", type=int, help=f"number of draws (default: {DRAWS}; with --sets, {SEEDS})")
    parser.add_argument("--sets", nargs="*", choices=NAMES, help="train on these sets of pictures; without a name, all")
    parser.add_argument("--sources", type=Path, help="fonts of the sets, from benchmarks.sources (default: a few)")
    sizes = ",".join(map(str, SIZES))
    networks = [f"{name}:{sizes}" for name in NETWORKS]
    text = f"networks that are trained on the sets, and sizes in pixels (default: {' '.join(networks)})"
    parser.add_argument("--networks", nargs="+", default=networks, metavar="NAME:SIZES", help=text)
    options = parser.parse_args()
    if options.sets is None:
        on_digits(options.source, options.draws or DRAWS)
        return
    all_sets = picture_sets(options.sources, options.source)
    chosen_sets = {name: all_sets[name] for name in options.sets or NAMES}
    pairs = (network.split(":") for network in options.networks)
    cells = [(name, int(size)) for name, sizes in pairs for size in sizes.split(",")]
    print(f"{setting(1)}\nn = {options.draws or SEEDS} seeds, two trials at a time.")
    for lines in on_sets(chosen_sets, cells, range(options.draws or SEEDS)):
        print("\n".join(lines), flush=True)


def on_sets(
    chosen_sets: Mapping[str, PictureSet], cells: Sequence[tuple[str, int]], seeds: Sequence[int]
) -> Iterator[list[str]]:
    """Yield a table for each set. `cells`: the models and sizes."""
    with TemporaryDirectory() as home, get_context("spawn").Pool(2) as processes:
        for name, pictures in chosen_sets.items():
            trials = []
            for seed in seeds:
                folder = Path(home, str(seed), name.replace(" ", "-"))
                pictures.write(folder, seed)
                trials += [Trial(pictures=name, folder=folder, model=m, side=s, seed=seed) for m, s in cells]
            trials.sort(key=lambda trial: (-trial.side, trial.model))  # the slow ones first
            measurements: dict[tuple[str, int], list[Measurement]] = {cell: [] for cell in cells}
            for trial, measured in zip(trials, processes.imap(train, trials), strict=True):
                measurements[trial.model, trial.side].append(measured)
                print(f"{name}: {trial.model} {trial.side}: {measured}", file=sys.stderr)
            yield table(name, measurements)


def train(trial: Trial) -> Measurement:
    """Train one trial with one thread in this process."""
    resources = _configured()
    data = {"data_dir": trial.folder.parent, "image_size": (trial.side, trial.side)}
    dataset = prepare(DataRequest(dataset=str(trial.folder), **data))  # type: ignore[arg-type]  # mypy sees a union
    begin = time.process_time()
    settings: dict[str, Any] = defaults_for(len(dataset.train))
    spec = TrialSpec.of(trial.model, dataset=dataset.name, seed=trial.seed, **settings)
    result = train_trial(spec, dataset, resources)
    return Measurement(100 * result.record.test_accuracy, time.process_time() - begin)


@functools.cache
def _configured() -> Resources:
    """Return the resources of this process, which takes its number of threads only once."""
    from mnist_lib.training.strategy import configure_process

    configure_process(resources := Resources(cpus=1))
    return resources


def table(name: str, measurements: Mapping[tuple[str, int], Sequence[Measurement]]) -> list[str]:
    """Return a Markdown table of a set: the trials of each model and size, one for each seed."""
    head = "| model | size | accuracy | above the baseline, points | share of its errors | seconds |"
    lines = ["", f"**{name}**; baseline: {BASELINE[0]}, {BASELINE[1]} pixels", "", head, "|---" * 6 + "|"]
    baseline = [measured.accuracy for measured in measurements.get(BASELINE, ())]
    for (model, side), of_cell in measurements.items():
        accuracies = [measured.accuracy for measured in of_cell]
        mean, difference, share = statistics.fmean(accuracies), "", ""
        if baseline:
            difference = paired_difference_text([a - b for a, b in zip(accuracies, baseline, strict=True)])
            share = f"{(100 - mean) / (100 - statistics.fmean(baseline)):.2f}"
        seconds = statistics.median(measured.seconds for measured in of_cell)
        lines.append(f"| {model} | {side} | {mean:.2f}% | {difference} | {share} | {seconds:.0f} |")
    return lines


def on_digits(source: Path | None, draws: int) -> None:
    """Print the table of models that are trained on digits of MNIST."""
    from mnist_lib.training.strategy import configure_process

    threads = len(os.sched_getaffinity(0))
    resources = Resources(cpus=threads)
    configure_process(resources)
    train, test = splits_of(source)
    head = "| model | pictures | mean accuracy | std, points | bound |"
    n = f"n = {draws} draws, default options."
    lines = [setting(threads), n, "", head, "|---|---|---|---|---|"]
    for (model, pictures), bound in BOUNDS.items():
        found = accuracies(model, pictures, train, test, range(draws), resources)
        lines.append(row(model, pictures, found, bound))
        print(lines[-1], file=sys.stderr)
    print("\n".join(lines))


def splits_of(source: Path | None) -> tuple[Table, Table]:
    """Return the training and the test images of MNIST or, without its files, the embedded digits."""
    if source is None:
        with np.load(FOLDER / "mnist-mini.npz") as arrays:
            return tuple(Table.of(arrays[f"{part}_images"], arrays[f"{part}_labels"]) for part in ("train", "test"))  # type: ignore[return-value]
    (train, train_labels), (test, test_labels) = mnist(source, "train"), mnist(source, "t10k")
    return Table.of(train[..., None], train_labels), Table.of(test[..., None], test_labels)


def accuracies(
    model: str,
    pictures: int,
    train: Table,
    test: Table,
    draws: Sequence[int],
    resources: Resources,  # of the process, which takes its number of threads only once
    **settings: Any,
) -> list[float]:
    """Return the test accuracy of the model for each draw of so many training pictures."""
    settings = defaults_for(pictures) | settings
    found = []
    for draw in draws:
        rows = np.random.default_rng(draw).permutation(len(train))[:pictures]
        dataset = Dataset.of("few", str(draw), train.take(rows), test)
        spec = TrialSpec.of(model, dataset=dataset.name, seed=draw, **settings)
        found.append(train_trial(spec, dataset, resources).record.test_accuracy)
    return found


def row(model: str, pictures: int, found: Sequence[float], bound: float) -> str:
    std = f"{100 * statistics.stdev(found):.2f}" if len(found) > 1 else "-"
    return f"| {model} | {pictures:,} | {100 * statistics.mean(found):.2f}% | {std} | {bound}% |"


if __name__ == "__main__":
    main()
