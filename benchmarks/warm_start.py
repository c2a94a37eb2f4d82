"""What a start from a stored version saves when there are more pictures: `--init-from`, as in a night of retraining.

For each seed, a version is trained on pictures of MNIST's training set. Then 10% more pictures are trained on: from
random weights, and from that version. Test accuracies are those on MNIST's 10,000 test images.

With --first-epochs, this measures what the first three epochs from a version forget, on the same pictures and on 10%
more, and after how many epochs the accuracy of a trial from random weights is reached.
"""

import math
import os
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.digits import parser_with_source
from benchmarks.few_pictures import splits_of
from benchmarks.record import paired_difference_text, setting
from mnist_lib.data.table import Table
from mnist_lib.results import EpochDone
from mnist_lib.spec import KNOWN_WEIGHTS_RATE, TrialSpec, defaults_for
from mnist_lib.training.assignment import Assignment, Resources

if TYPE_CHECKING:
    from mnist_lib.models.model import Weights

# Models with the pictures at the end, and the epochs from the version; from random weights, they are the default ones.
CASES = (("keras", 60_000, 5), ("keras-cnn", 60_000, 2), ("keras-cnn", 5_500, 5))
FIRST_EPOCHS = (("keras", 4_400), ("keras-cnn", 4_400))  # with 10% more pictures; as many as `mnist-mini` has
SEEDS = 5
MAX_TIME, MIN_DIFFERENCE = 0.5, -0.3  # share of the time, and points


@dataclass(frozen=True)
class Trained:
    """The test accuracy after each epoch, and the seconds of training until then."""

    accuracies: Sequence[float]
    seconds: Sequence[float]
    weights: "Weights"

    def seconds_to(self, accuracy: float) -> float:
        """Return the seconds until the test accuracy is reached for the first time, or infinity."""
        pairs = zip(self.accuracies, self.seconds, strict=True)
        return next((seconds for reached, seconds in pairs if reached >= accuracy), math.inf)


def main() -> None:
    parser = parser_with_source(__doc__)
    parser.add_argument("--cases", nargs="+", type=int, default=range(len(CASES)), help="numbers of cases, from 0")
    parser.add_argument("--first-epochs", action="store_true", help="measure what the first epochs forget")
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=range(10), help="seeds of --first-epochs (default: 0 to 9)"
    )
    options = parser.parse_args()
    from mnist_lib.training.strategy import configure_process

    threads = len(os.sched_getaffinity(0))
    configure_process(resources := Resources(cpus=threads))
    train, test = splits_of(options.source)
    if options.first_epochs:
        print(setting(threads))
        for line in table_of_first_epochs(options.seeds, train, test, resources):
            print(line, flush=True)
        return
    head = "| model | pictures | epochs | from scratch | from the version | difference, points | share of the time |"
    lines = [setting(threads), f"n = {SEEDS} seeds.", "", head, "|---" * 7 + "|"]
    for model, pictures, epochs in (CASES[number] for number in options.cases):
        found = [pair(model, pictures, epochs, train, test, seed, resources) for seed in range(SEEDS)]
        lines.append(row(model, pictures, found))
        print(lines[-1], file=sys.stderr)
    print("\n".join(lines))


def pair(
    model: str, pictures: int, epochs: int, train: Table, test: Table, seed: int, resources: Resources
) -> tuple[Trained, Trained]:
    """Train on so many pictures from random weights, and from a version that was trained on 10/11 of them."""
    train = train.take(np.random.default_rng(seed).permutation(len(train))[:pictures])
    settings: dict[str, Any] = defaults_for(pictures)
    spec = TrialSpec.of(model, seed=seed, **settings)
    fewer = train.take(slice(len(train) * 10 // 11))
    version = learn(replace(spec, seed=seed + SEEDS), fewer, test, resources)
    scratch = learn(spec, train, test, resources)
    warm = replace(spec, epochs=epochs, learning_rate=spec.learning_rate * KNOWN_WEIGHTS_RATE)
    return scratch, learn(warm, train, test, resources, version.weights)


@dataclass(frozen=True)
class FirstEpochs:
    """What the first epochs from a version change."""

    points: Sequence[float]  # of accuracy above that of the version, after each of the first three epochs
    epochs: (
        int  # until the final accuracy of a trial from random weights is reached; one more than all of them if never
    )


def first_epochs(
    model: str, pictures: int, rates: Sequence[float], train: Table, test: Table, seed: int, resources: Resources
) -> dict[tuple[str, float], FirstEpochs]:
    """Return what the first epochs change, by the pictures and the share of the default learning rate."""
    train = train.take(np.random.default_rng(seed).permutation(len(train))[:pictures])
    spec = TrialSpec.of(model, seed=seed, **defaults_for(pictures))  # type: ignore[arg-type]  # mypy sees a union
    fewer, found = train.take(slice(len(train) * 10 // 11)), dict[tuple[str, float], FirstEpochs]()
    version = learn(replace(spec, seed=seed + SEEDS), fewer, test, resources)
    for name, data in (("the same", fewer), ("10% more", train)):
        final = learn(spec, data, test, resources).accuracies[-1]
        for rate in rates:
            warm = replace(spec, learning_rate=spec.learning_rate * rate)
            accuracies = learn(warm, data, test, resources, version.weights).accuracies
            points = [100 * (accuracy - version.accuracies[-1]) for accuracy in accuracies[:3]]
            reached = (number for number, accuracy in enumerate(accuracies, start=1) if accuracy >= final)
            found[name, rate] = FirstEpochs(points, next(reached, spec.epochs + 1))
            print(f"{model}, seed {seed}, {name}, {rate}: {found[name, rate]}", file=sys.stderr)
    return found


def table_of_first_epochs(seeds: Sequence[int], train: Table, test: Table, resources: Resources) -> Iterator[str]:
    yield f"n = {len(seeds)} seeds."
    yield "\n| model | pictures | rate | after 1 epoch | after 2 | after 3 | epochs to the accuracy from scratch |"
    yield "|---" * 7 + "|"
    for model, pictures in FIRST_EPOCHS:
        rates = (1.0, KNOWN_WEIGHTS_RATE)
        yield from rows_of_first_epochs(
            model, pictures, [first_epochs(model, pictures, rates, train, test, seed, resources) for seed in seeds]
        )


def rows_of_first_epochs(model: str, pictures: int, found: Sequence[dict[tuple[str, float], FirstEpochs]]) -> list[str]:
    """Return a row for each kind of pictures and rate: means with intervals, and the median number of epochs."""
    rows = []
    for name, rate in found[0]:
        of_seeds = [each[name, rate] for each in found]
        points = [paired_difference_text(column) for column in zip(*(each.points for each in of_seeds), strict=True)]
        epochs = sorted(each.epochs for each in of_seeds)
        reached = f"{statistics.median(epochs):g} ({epochs[0]} to {epochs[-1]})"
        rows.append(f"| {model} | {pictures:,}, {name} | {rate:g} | {' | '.join(points)} | {reached} |")
    return rows


def learn(spec: TrialSpec, train: Table, test: Table, resources: Resources, start: "Weights | None" = None) -> Trained:
    """Train, from the given weights but with random states of its own, and test after each epoch."""
    from mnist_lib.data.batches import Plan
    from mnist_lib.models.building import build_model
    from mnist_lib.models.model import Weights
    from mnist_lib.training.epochs import Compiled, resume
    from mnist_lib.training.epochs import train as train_epochs
    from mnist_lib.training.prediction import accuracy_of
    from mnist_lib.training.strategy import mirrored_strategy
    from mnist_lib.training.trainer import Trainer

    model = build_model(spec, (28, 28, 1), 10)

    def initial_weights(seed: int) -> Weights:
        drawn = model.initial_weights(seed)
        pairs = zip(drawn, start or drawn, strict=True)
        return Weights(*([b if a.dtype.is_floating else a for a, b in zip(*pair, strict=True)] for pair in pairs))

    trainer = Trainer(model, spec, mirrored_strategy(resources), initial_weights)
    plan = Plan(len(train), min(spec.global_batch_size, len(train)), len(trainer.devices), 784)
    trainer.compile(train, plan)
    compiled, assignment = Compiled(trainer, plan, train), Assignment(spec)
    begin, _ = resume(compiled, assignment)
    accuracies, seconds = list[float](), [0.0]
    for event in train_epochs(compiled, assignment, begin, [], math.inf):
        if not isinstance(event, EpochDone):
            continue
        seconds.append(seconds[-1] + event.seconds)
        predicted = trainer.predictor.probabilities(trainer.weights, test.images)
        accuracies.append(accuracy_of(predicted, test.labels).value)
    return Trained(accuracies, seconds[1:], trainer.weights)


def row(model: str, pictures: int, found: Sequence[tuple[Trained, Trained]]) -> str:
    """Return the row of a model: means of the final accuracies, and the median share of the time to that of scratch."""
    finals = [[100 * trained.accuracies[-1] for trained in column] for column in zip(*found, strict=True)]
    differences = [warm - scratch for scratch, warm in zip(*finals, strict=True)]
    shares = [warm.seconds_to(scratch.accuracies[-1]) / scratch.seconds[-1] for scratch, warm in found]
    share = f"{statistics.median(shares):.2f} ({min(shares):.2f} to {max(shares):.2f}; bound {MAX_TIME})"
    interval = f"{paired_difference_text(differences)}; bound {MIN_DIFFERENCE}"
    scratch, warm = (f"{statistics.mean(column):.2f}%" for column in finals)
    epochs = ", ".join(str(len(trained.seconds)) for trained in found[0])
    return f"| {model} | {pictures:,} | {epochs} | {scratch} | {warm} | {interval} | {share} |"


if __name__ == "__main__":
    main()
