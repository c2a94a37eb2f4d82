"""Wrong labels that a review finds among 1,000 MNIST pictures, of which 50 have a wrong label.

`keras` is trained on the pictures with their given labels, once on all and once on five folds. Of 100 pictures that
`jobs.review` shows, 50 are random. The figure is the share of the wrong labels that is among the other 50: in the order
of the model's probability of the label, or first those that the folds say are likely wrong.
"""

import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from benchmarks.accuracy import load, original, trained
from benchmarks.digits import parser_with_source
from benchmarks.record import setting
from jobs.review.data import ReviewItem
from jobs.review.session import Order
from mnist_lib.assignment import Resources
from mnist_lib.data.split import Dataset, Split, text_of
from mnist_lib.report.folds import label_errors, out_of_fold
from mnist_lib.results import TrialResult
from mnist_lib.spec import TrialSpec
from mnist_lib.training.strategy import configure_process

PICTURES, WRONG, SHOWN, FOLDS = 1_000, 50, 100, 5
EPOCHS = (5, 15, 40)
BOUND = 0.65

Shares = dict[tuple[int, str], list[float]]  # of the wrong labels, for each draw, by epochs and "none" or "5" folds


def main() -> None:
    parser = parser_with_source(__doc__)
    parser.add_argument("--draws", type=int, default=10, help="random draws of pictures and wrong labels (default: 10)")
    options = parser.parse_args()
    threads = len(os.sched_getaffinity(0))
    resources = Resources(cpus=threads)
    configure_process(resources)  # before TFDS uses TensorFlow
    images = original(options.source, "train") if options.source else load(None).train
    print("\n".join([setting(threads), "", *report(shares_found(images, options.draws, EPOCHS, resources))]))


def shares_found(images: Split, draws: int, epochs: Sequence[int], resources: Resources) -> Shares:
    """Return the shares of the wrong labels that the first reviews find.

    Args:
        resources: as for `run_trials`; TensorFlow takes the number of threads once in a process.
    """
    shares = Shares()
    for draw in range(draws):
        rng = np.random.default_rng(draw)
        pictures = images.take(rng.permutation(len(images))[:PICTURES])
        is_wrong = rng.permutation(len(pictures)) < WRONG
        labels = (pictures.labels + np.where(is_wrong, rng.integers(1, 10, len(pictures)), 0)) % 10
        given = replace(pictures, labels=labels.astype(np.uint8))
        # They are also the test images, so that a result has the probabilities of all of them.
        dataset = Dataset.of("label-errors", "1", given, given)
        specs = [TrialSpec.of("keras", epochs=number, seed=draw) for number in epochs]
        by_fold = zip(*(spec.in_folds(FOLDS) for spec in specs), strict=True)  # trials of a fold share what is compiled
        results = trained([*specs, *(spec for of_fold in by_fold for spec in of_fold)], dataset, resources)
        for spec in specs:
            (whole,) = (result for result in results if result.spec == spec)
            for folds, first in (("none", []), (str(FOLDS), likely_wrong(results, spec, dataset))):
                chosen = chosen_for_review(given, whole.probabilities, dataset.classes, first)
                shares.setdefault((spec.epochs, folds), []).append(float(is_wrong[chosen].sum() / WRONG))
        print(f"draw {draw}: {shares}", file=sys.stderr)
    return shares


def likely_wrong(results: Sequence[TrialResult], spec: TrialSpec, dataset: Dataset) -> list[int]:
    """Return the indices of the pictures whose label is likely wrong, as a run with folds lists them."""
    of_folds = {
        result.spec: result.of_fold
        for result in results
        if result.of_fold is not None and result.spec.epochs == spec.epochs
    }
    ((probabilities,),) = out_of_fold(of_folds, dataset).values()
    return [error.image for error in label_errors(probabilities, dataset.train.labels)]


def chosen_for_review(
    given: Split, probabilities: NDArray[np.float32], classes: Sequence[str], first: Sequence[int]
) -> list[int]:
    """Return the indices of the pictures that the model chooses among the first `SHOWN` of a review.

    Args:
        given: pictures in a random order, with their given labels.
        first: indices of those that come first.
    """
    hashes = [text_of(row) for row in given.hashes]
    order, indices = Order(classes, [hashes[index] for index in first]), {image: n for n, image in enumerate(hashes)}
    for index, (image, label) in enumerate(zip(hashes, given.labels, strict=True)):
        item = ReviewItem(image, image, index, "training", classes[label], probabilities=probabilities[index])
        order.add(item)
        order.predicted(item)
    shown = [pair for pair in (order.take() for _ in range(SHOWN)) if pair is not None]
    return [indices[item.image] for item, why in shown if why == "disputed"]


def report(shares: Mapping[tuple[int, str], Sequence[float]]) -> list[str]:
    """Return a Markdown table. `shares`: as from `shares_found`"""
    heads = "| folds | epochs | n draws | wrong labels found, mean | lowest to highest | bound |"
    rows = [
        f"| {folds} | {epochs} | {len(found)} | {statistics.fmean(found):.0%} | {min(found):.0%} to {max(found):.0%}"
        f" | {f'{BOUND:.0%}' if folds != 'none' else '-'} |"
        for (epochs, folds), found in sorted(shares.items(), key=lambda row: (row[0][1], row[0][0]))
    ]
    return [heads, "|---|---|---|---|---|---|", *rows]


if __name__ == "__main__":
    main()
