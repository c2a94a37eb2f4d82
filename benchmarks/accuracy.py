"""Accuracy and training time of the models over several seeds, in four records.

models: each model of the catalog on the test images; the epoch is selected on validation, as in the job. The last row
trains the network, optimizer and learning rates of `keras-cnn` with `keras.fit`.
fast: short training on all training images, measured on the test images.
held-out: `keras-best` trained on the first 50,000 training images, measured on the last 10,000. Its network,
augmentation, angles, learning rate, weight decay and epochs were chosen by this figure.
test: the same trained on all training images, measured on the test images.
"""

import argparse
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import repeat
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.digits import parser_with_source, write_digits
from benchmarks.drawings import mnist
from benchmarks.errors import draw_errors, errors_of, errors_text
from benchmarks.record import setting
from mnist_lib.data.dataset import Dataset
from mnist_lib.data.table import Table
from mnist_lib.intervals import VARYING, accuracy_interval
from mnist_lib.report.aggregation import Tally, deviation
from mnist_lib.results import TrialFailure, TrialResult
from mnist_lib.spec import TrialSpec
from mnist_lib.training.assignment import Assignment, Resources
from mnist_lib.training.strategy import configure_process
from mnist_lib.training.trial import WorkerPlace, run_trials

MODELS = {
    "keras-cnn, 1 epoch": TrialSpec.of("keras-cnn", epochs=1),
    "keras-cnn, 10 epochs": TrialSpec.of("keras-cnn", epochs=10),
    "keras, 5 epochs": TrialSpec.of("keras"),
    "keras, 5 epochs, bfloat16": TrialSpec.of("keras", precision="bfloat16"),
    "scratch, 5 epochs": TrialSpec.of("scratch"),
    "scratch, 5 epochs, bfloat16": TrialSpec.of("scratch", precision="bfloat16"),
}
FAST = {
    "keras-fast, 1 epoch, batch 256, bfloat16": TrialSpec.of(
        "keras-fast", epochs=1, global_batch_size=256, precision="bfloat16", validation_percent=0
    ),
}
BEST = {
    f"keras-best, {epochs} epochs, bfloat16": TrialSpec.of(
        "keras-best", epochs=epochs, precision="bfloat16", weight_decay=0.03, validation_percent=0
    )
    for epochs in (3, 30)
}
RECORDS = {"models": (MODELS, 5), "fast": (FAST, 30), "held-out": (BEST, 5), "test": (BEST, 5)}  # rows, seeds
ONE_THREAD_EACH = ("held-out", "test")  # records whose seeds train at the same time
HELD_OUT = 10_000


def main() -> None:
    parser = parser_with_source(__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--record", choices=RECORDS, default="models", help="which record (default: models)")
    parser.add_argument("--seeds", type=int, help="number of seeds (default: 30 for fast, otherwise 5)")
    parser.add_argument("--plot", type=Path, help="PNG file for the errors of the last ensemble, in held-out and test")
    options = parser.parse_args()
    if options.record in ONE_THREAD_EACH and options.source is None:
        parser.error(f"--source: expected a folder for the record {options.record}, got none")
    threads, at_once = len(os.sched_getaffinity(0)), options.record in ONE_THREAD_EACH
    resources = Resources(cpus=1 if at_once else threads)
    configure_process(resources)  # before TFDS uses TensorFlow
    dataset = data_of(options.record, options.source)
    rows, default_seeds = RECORDS[options.record]
    seeds = options.seeds or default_seeds
    validated = "a tenth of them for validation" if options.record == "models" else "none for validation"
    lines = [
        setting(threads),
        f"{len(dataset.train):,} train images, {validated}, {len(dataset.test):,} test images; n = {seeds} seeds"
        f"{f', {threads} at a time with one thread each' if at_once else ''}."
        f" Mean with the 95% interval for {VARYING[seeds > 1]}.",
        "",
        "| model | mean test accuracy | std, points | lowest to highest | ensemble | s/epoch, median | train seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    notes = []
    for name, spec in rows.items():
        specs = [replace(spec, seed=seed) for seed in range(seeds)]
        if at_once:
            results = trained_at_once(specs, options.record, options.source, threads)
        else:
            results = trained(specs, dataset, resources)
        lines.append(row(name, results, dataset))
        print(lines[-1], file=sys.stderr)
        if at_once:
            errors = errors_of(results, dataset)
            notes.append(errors_text(errors))
            if options.plot is not None:
                options.plot.write_bytes(draw_errors(errors, np.asarray(dataset.test.images)))
    if options.record == "models":
        fitted = MODELS["keras-cnn, 1 epoch"]
        lines.append(fit_row([replace(fitted, seed=seed) for seed in range(seeds)], dataset))
    print("\n".join([*lines, "", *notes]))


def data_of(record: str, source: Path | None) -> Dataset:
    """Return the dataset of a record. For ONE_THREAD_EACH, from the original files, since TFDS changes their order."""
    if record not in ONE_THREAD_EACH:
        return load(source)
    assert source is not None
    train = original(source, "train")
    if record == "test":
        return Dataset.of("bench", "test", train, original(source, "t10k"))
    first, last = np.split(np.arange(len(train)), [len(train) - HELD_OUT])
    return Dataset.of("bench", "held-out", train.take(first), train.take(last))


def original(source: Path, part: str) -> Table:
    images, labels = mnist(source, part)
    return Table.of(images[..., None], labels)


def load(source: Path | None) -> Dataset:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "digits.npz")
        write_digits(file, source)
        with np.load(file) as arrays:
            train, test = (Table.of(arrays[f"{part}_images"], arrays[f"{part}_labels"]) for part in ("train", "test"))
    return Dataset.of("bench", "1", train, test)


def trained(specs: Sequence[TrialSpec], dataset: Dataset, resources: Resources) -> list[TrialResult]:
    results = []
    resources = resources.in_this_process(specs[0])
    for event in run_trials(map(Assignment, specs), lambda: dataset, resources, WorkerPlace(node="here")):
        if isinstance(event, TrialFailure):
            raise SystemExit(event.message)
        if isinstance(event, TrialResult):
            results.append(event)
            record = event.record
            print(f"{record.id}: {record.test_accuracy:.4%}, {record.train_seconds:.2f} s", file=sys.stderr)
    return results


def trained_at_once(
    specs: Sequence[TrialSpec], record: str, source: Path | None, processes: int
) -> Sequence[TrialResult]:
    """Train the trials at the same time, with one thread each."""
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        return [*pool.map(trained_on_one_thread, specs, repeat(record), repeat(source))]


def trained_on_one_thread(spec: TrialSpec, record: str, source: Path | None) -> TrialResult:
    resources = Resources(cpus=1)
    configure_process(resources)
    (result,) = trained([spec], data_of(record, source), resources)
    return result


def row(name: str, results: Sequence[TrialResult], dataset: Dataset) -> str:
    tally = Tally(results[0])
    for result in results[1:]:
        tally.add(result)
    ensemble = f"{100 * tally.ensemble(dataset.test.labels).value:.2f}%"
    seconds = [result.record.train_seconds for result in results]
    answers = np.stack([result.probabilities.argmax(axis=1) for result in results])
    return table_row(name, answers == dataset.test.labels, ensemble, seconds, results[0].record.spec.epochs)


def fit_row(specs: Sequence[TrialSpec], dataset: Dataset) -> str:
    import keras
    import tensorflow as tf

    from benchmarks.augmented import Augmented
    from mnist_lib.models.augmentation import AugmentedModel
    from mnist_lib.models.building import augmentations_for, build_model
    from mnist_lib.models.keras_models import KerasModel
    from mnist_lib.training.trainer import learning_rates

    train, _ = dataset.train_and_validation(specs[0].validation_percent)

    class Rates(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]
        def __init__(self, rates: np.ndarray) -> None:
            self._rates = tf.constant(rates)

        def __call__(self, step: tf.Tensor) -> tf.Tensor:
            return self._rates[tf.cast(step, tf.int32)]

    correct, seconds = [], []
    for spec in specs:
        model = build_model(spec, dataset.image_shape, len(dataset.classes))
        plain = model.model if isinstance(model, AugmentedModel) else model
        assert isinstance(plain, KerasModel)
        keras.utils.set_random_seed(spec.seed)
        network = keras.Sequential([Augmented(augmentations_for(spec, dataset.image_shape)), plain.network()])
        steps = -(-len(train) // spec.global_batch_size)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        network.compile(keras.optimizers.Adam(Rates(learning_rates(spec, steps))), loss)
        ends: list[float] = []
        timer = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: ends.append(time.perf_counter()))  # noqa: B023
        network.fit(train.images, train.labels, batch_size=spec.global_batch_size, verbose=0, callbacks=[timer])
        seconds.append((ends[-1] - ends[0]) * steps / (steps - 1))  # the first step includes the tracing
        predicted = network.predict(dataset.test.images, batch_size=1_000, verbose=0).argmax(axis=1)
        correct.append(predicted == dataset.test.labels)
    return table_row("the same network, 1 epoch of keras.fit", np.stack(correct), "-", seconds)


def table_row(name: str, correct: NDArray[np.bool_], ensemble: str, seconds: Sequence[float], epochs: int = 1) -> str:
    """Return a row of the record.

    Args:
        correct: [seeds, test images], whether each answer is correct.
        seconds: of the whole training, for each seed.
    """
    accuracies = correct.mean(axis=1).tolist()
    over_seeds = deviation(accuracies)
    low, high = accuracy_interval(correct.sum(axis=0), correct.sum(axis=1).tolist())
    mean = f"{100 * statistics.fmean(accuracies):.2f}% ({100 * low:.2f} to {100 * high:.2f})"
    std = "-" if over_seeds is None else f"{100 * over_seeds:.2f}"
    spread = f"{100 * min(accuracies):.2f} to {100 * max(accuracies):.2f}"
    times = (
        f"{statistics.median(seconds) / epochs:.2f} | {statistics.mean(seconds):.1f} ± {statistics.pstdev(seconds):.1f}"
    )
    return f"| {name} | {mean} | {std} | {spread} | {ensemble} | {times} |"


if __name__ == "__main__":
    main()
