"""Which epoch to store: the test accuracy of seven rules that choose one by the images held out for validation.

Each draw takes other pictures of MNIST's training set, and another seed; a tenth of the pictures is held out. All rules
see the same training, with the default options of so many pictures, and are measured on MNIST's 10,000 test images.
"""

import math
import os
import statistics
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.digits import parser_with_source
from benchmarks.few_pictures import splits_of
from benchmarks.record import setting
from mnist_lib.catalog import MODELS
from mnist_lib.data.dataset import Dataset
from mnist_lib.data.table import Table
from mnist_lib.results import Accuracy, EpochDone
from mnist_lib.spec import VALIDATION_PERCENT, TrialSpec, defaults_for
from mnist_lib.training.assignment import Assignment, Resources

RULES = (
    *("first maximum", "last maximum", "lowest loss", "last epoch", "latest close to the maximum"),
    *("latest by the images that differ", "mean weights"),
)
DRAWS, PICTURES = 5, (300, 1_000, 5_000, 60_000)
AVERAGED = 4  # one of so many epochs, the last ones, are averaged by the last rule


def main() -> None:
    parser = parser_with_source(__doc__)
    parser.add_argument("--draws", type=int, default=DRAWS, help=f"number of draws (default: {DRAWS})")
    parser.add_argument("--models", nargs="+", default=[*MODELS], help="models of the catalog (default: all)")
    parser.add_argument("--pictures", nargs="+", type=int, default=PICTURES, help="numbers of pictures")
    options = parser.parse_args()
    from mnist_lib.training.strategy import configure_process

    threads = len(os.sched_getaffinity(0))
    configure_process(resources := Resources(cpus=threads))
    train, test = splits_of(options.source)
    lines = [setting(threads), f"n = {options.draws} draws.", "", f"| model | pictures | {' | '.join(RULES)} |"]
    lines.append("|---" * (2 + len(RULES)) + "|")
    for model in options.models:
        for pictures in options.pictures:
            found = [accuracies(model, pictures, train, test, draw, resources) for draw in range(options.draws)]
            lines.append(row(model, pictures, found))
            print(lines[-1], file=sys.stderr)
    print("\n".join(lines))


def accuracies(
    model: str, pictures: int, train: Table, test: Table, draw: int, resources: Resources, epochs: int | None = None
) -> list[float]:
    """Return the test accuracy of each of `RULES`. `epochs`: by default, those of so many pictures."""
    import tensorflow as tf

    from mnist_lib.data.batches import Plan
    from mnist_lib.models.building import build_model
    from mnist_lib.models.model import Weights
    from mnist_lib.training.epochs import Compiled, resume
    from mnist_lib.training.epochs import train as train_epochs
    from mnist_lib.training.prediction import accuracy_of
    from mnist_lib.training.strategy import mirrored_strategy
    from mnist_lib.training.trainer import Trainer

    rows = np.random.default_rng(draw).permutation(len(train))[:pictures]
    dataset = Dataset.of("few", str(draw), train.take(rows), test)
    trained, held_out = dataset.train_and_validation(VALIDATION_PERCENT)
    assert held_out is not None
    settings: dict[str, Any] = defaults_for(pictures) | ({} if epochs is None else {"epochs": epochs})
    spec = TrialSpec.of(model, seed=draw, **settings)
    network = build_model(spec, dataset.image_shape, len(dataset.classes), None)
    trainer = Trainer(network, spec, mirrored_strategy(resources))
    batch_size, replicas = min(spec.global_batch_size, len(trained)), len(trainer.devices)
    plan = Plan(len(trained), batch_size, replicas, int(np.prod(dataset.image_shape)))
    trainer.compile(trained, plan)
    compiled, assignment = Compiled(trainer, plan, trained), Assignment(spec)
    start, _ = resume(compiled, assignment)

    right: list[NDArray[np.bool_]] = []
    losses: list[float] = []
    tested: list[float] = []
    averaged: list[Weights] = []
    for event in train_epochs(compiled, assignment, start, [], math.inf):
        if not isinstance(event, EpochDone):
            continue
        predicted = trainer.predictor.probabilities(trainer.weights, held_out.images)
        right.append(predicted.argmax(axis=1) == held_out.labels)
        true = predicted[np.arange(len(held_out)), held_out.labels]
        losses.append(float(-np.log(np.maximum(true, np.finfo(np.float32).tiny)).mean()))
        tested.append(accuracy_of(trainer.predictor.probabilities(trainer.weights, test.images), test.labels).value)
        if event.epoch > spec.epochs - max(1, spec.epochs // AVERAGED):
            averaged.append(trainer.weights)

    def mean_of(*values: Any) -> Any:
        """Return the mean of numbers, or the last of other values, such as the state of random numbers."""
        return sum(values) / len(values) if tf.as_dtype(values[0].dtype).is_floating else values[-1]

    mean = partial(tf.nest.map_structure, mean_of)
    weights = Weights(mean(*(w.trainable for w in averaged)), mean(*(w.state for w in averaged)))
    of_mean = accuracy_of(trainer.predictor.probabilities(weights, test.images), test.labels).value
    return [*(tested[epoch] for epoch in chosen(right, losses)), of_mean]


def chosen(right: Sequence[NDArray[np.bool_]], losses: Sequence[float]) -> list[int]:
    """Return the epoch, from 0, that each of `RULES` stores, but for the last one, which stores none of them.

    Args:
        right: for each epoch, whether each image held out is predicted correctly: [images].
    """
    validation = [Accuracy(int(answers.sum()), len(answers)) for answers in right]
    correct = [accuracy.correct for accuracy in validation]
    last, highest = len(correct) - 1, max(correct)
    first_maximum, last_maximum = correct.index(highest), last - correct[::-1].index(highest)
    best = validation[first_maximum]
    close = max(epoch for epoch, accuracy in enumerate(validation) if accuracy.is_close_to(best))
    # At most one standard error of the difference below, by the images that only one of the two epochs answers rightly.
    differing = [int((answers != right[last_maximum]).sum()) for answers in right]
    paired = max(epoch for epoch, count in enumerate(correct) if (highest - count) ** 2 <= differing[epoch])
    return [first_maximum, last_maximum, int(np.argmin(losses)), last, close, paired]


def row(model: str, pictures: int, found: Sequence[Sequence[float]]) -> str:
    means = (f"{100 * statistics.mean(column):.2f}%" for column in zip(*found, strict=True))
    return f"| {model} | {pictures:,} | {' | '.join(means)} |"


if __name__ == "__main__":
    main()
