"""Accuracy of models that are trained on a few hundred pictures with the default options.

Each draw takes other pictures of MNIST's training set, for training and validation together, and another seed. All are
measured on MNIST's 10,000 test images.
"""

import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.digits import parser_with_source
from benchmarks.drawings import mnist
from benchmarks.record import setting
from mnist_lib.assignment import Assignment, Resources
from mnist_lib.data.embedded import FOLDER
from mnist_lib.data.split import Dataset, Split
from mnist_lib.results import TrialFailure, TrialResult
from mnist_lib.spec import TrialSpec, defaults_for

# Accuracy in percent that the mean of the draws has to reach, by model and number of pictures.
BOUNDS: Mapping[tuple[str, int], float] = {
    ("keras", 300): 84.5,
    ("keras", 500): 87.3,
    ("keras-cnn", 300): 95.0,
    ("keras-cnn", 1_000): 97.6,
}
DRAWS = 10


def main() -> None:
    parser = parser_with_source(__doc__)
    parser.add_argument("--draws", type=int, default=DRAWS, help=f"number of draws (default: {DRAWS})")
    options = parser.parse_args()
    from mnist_lib.training.strategy import configure_process

    threads = len(os.sched_getaffinity(0))
    resources = Resources(cpus=threads)
    configure_process(resources)
    train, test = splits_of(options.source)
    head = "| model | pictures | mean accuracy | std, points | bound |"
    n = f"n = {options.draws} draws, default options."
    lines = [setting(threads), n, "", head, "|---|---|---|---|---|"]
    for (model, pictures), bound in BOUNDS.items():
        found = accuracies(model, pictures, train, test, range(options.draws), resources)
        lines.append(row(model, pictures, found, bound))
        print(lines[-1], file=sys.stderr)
    print("\n".join(lines))


def splits_of(source: Path | None) -> tuple[Split, Split]:
    """Return the training and the test images of MNIST or, without its files, the embedded digits."""
    if source is None:
        with np.load(FOLDER / "mnist-mini.npz") as arrays:
            return tuple(Split(arrays[f"{part}_images"], arrays[f"{part}_labels"]) for part in ("train", "test"))  # type: ignore[return-value]
    (train, train_labels), (test, test_labels) = mnist(source, "train"), mnist(source, "t10k")
    return Split(train[..., None], train_labels), Split(test[..., None], test_labels)


def accuracies(
    model: str,
    pictures: int,
    train: Split,
    test: Split,
    draws: Sequence[int],
    resources: Resources,  # of the process, which takes its number of threads only once
    **settings: Any,
) -> list[float]:
    """Return the test accuracy of the model for each draw of so many training pictures."""
    from mnist_lib.training.trial import WorkerPlace, run_trials  # loads TensorFlow

    settings = defaults_for(pictures) | settings
    found = []
    for draw in draws:
        rows = np.random.default_rng(draw).permutation(len(train))[:pictures]
        dataset = Dataset.of("few", str(draw), train.take(rows), test)
        assignment = Assignment(TrialSpec.of(model, seed=draw, **settings))
        for event in run_trials([assignment], lambda dataset=dataset: dataset, resources, WorkerPlace(node="here")):  # type: ignore[misc]
            if isinstance(event, TrialFailure):
                raise SystemExit(event.message)
            if isinstance(event, TrialResult):
                found.append(event.test.value)
    return found


def row(model: str, pictures: int, found: Sequence[float], bound: float) -> str:
    std = f"{100 * statistics.stdev(found):.2f}" if len(found) > 1 else "-"
    return f"| {model} | {pictures:,} | {100 * statistics.mean(found):.2f}% | {std} | {bound}% |"


if __name__ == "__main__":
    main()
