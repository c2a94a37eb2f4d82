"""Test accuracy and seconds per epoch of each model, over several seeds.

`keras-cnn` is trained for 1 and for 10 epochs, `keras` and `scratch` for 5 epochs in float32 and in bfloat16.
The epoch is selected on validation, as in the job. The last row trains the network, optimizer and learning rates of
`keras-cnn` with `keras.fit`.
"""

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.digits import parser_with_source, write_digits
from benchmarks.record import setting
from mnist_lib.assignment import Assignment, Resources
from mnist_lib.data.split import Dataset, Split
from mnist_lib.results import Tally, TrialFailure, TrialResult, seed_statistics
from mnist_lib.spec import TrialSpec
from mnist_lib.training.strategy import configure_process
from mnist_lib.training.trial import WorkerPlace, run_trials

ROWS = {
    "keras-cnn, 1 epoch": TrialSpec.of("keras-cnn", epochs=1),
    "keras-cnn, 10 epochs": TrialSpec.of("keras-cnn", epochs=10),
    "keras, 5 epochs": TrialSpec.of("keras"),
    "keras, 5 epochs, bfloat16": TrialSpec.of("keras", precision="bfloat16"),
    "scratch, 5 epochs": TrialSpec.of("scratch"),
    "scratch, 5 epochs, bfloat16": TrialSpec.of("scratch", precision="bfloat16"),
}


def main() -> None:
    parser = parser_with_source(__doc__)
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds (default: 5)")
    options = parser.parse_args()
    threads = len(os.sched_getaffinity(0))
    resources = Resources(cpus=threads)
    configure_process(resources)  # before TFDS uses TensorFlow
    dataset = load(options.source)
    lines = [
        setting(threads),
        f"{len(dataset.train):,} train images, a tenth of them for validation, {len(dataset.test):,} test images;"
        f" n = {options.seeds} seeds. Mean with the 95% interval of the mean.",
        "",
        "| model | mean test accuracy | lowest to highest | ensemble | s/epoch, median |",
        "|---|---|---|---|---|",
    ]
    for name, spec in ROWS.items():
        specs = [replace(spec, seed=seed) for seed in range(options.seeds)]
        lines.append(row(name, specs, dataset, resources))
        print(lines[-1], file=sys.stderr)
    lines.append(fit_row([replace(ROWS["keras-cnn, 1 epoch"], seed=seed) for seed in range(options.seeds)], dataset))
    print("\n".join(lines))


def load(source: Path | None) -> Dataset:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "digits.npz")
        write_digits(file, source)
        with np.load(file) as arrays:
            train, test = (Split(arrays[f"{part}_images"], arrays[f"{part}_labels"]) for part in ("train", "test"))
    return Dataset.of("bench", "1", train, test)


def row(name: str, specs: Sequence[TrialSpec], dataset: Dataset, resources: Resources) -> str:
    results = []
    for event in run_trials(map(Assignment, specs), lambda: dataset, resources, WorkerPlace(node="here")):
        if isinstance(event, TrialFailure):
            raise SystemExit(event.message)
        if isinstance(event, TrialResult):
            results.append(event)
    tally = Tally(results[0])
    for result in results[1:]:
        tally.add(result)
    seconds = [result.train_seconds / result.spec.epochs for result in results]
    ensemble = f"{100 * tally.ensemble(dataset.test.labels).value:.2f}%"
    return table_row(name, [result.test.value for result in results], ensemble, seconds)


def fit_row(specs: Sequence[TrialSpec], dataset: Dataset) -> str:
    import keras
    import tensorflow as tf

    from mnist_lib.models.building import build_model
    from mnist_lib.models.keras_models import KerasModel
    from mnist_lib.training.loop import learning_rates

    train, _ = dataset.train_and_validation(specs[0].validation_percent)

    class Rates(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]
        def __init__(self, rates: np.ndarray) -> None:
            self._rates = tf.constant(rates)

        def __call__(self, step: tf.Tensor) -> tf.Tensor:
            return self._rates[tf.cast(step, tf.int32)]

    accuracies, seconds = [], []
    for spec in specs:
        model = build_model(spec, dataset.image_shape, len(dataset.classes))
        assert isinstance(model, KerasModel)
        keras.utils.set_random_seed(spec.seed)
        network = model.training_network()
        steps = -(-len(train) // spec.global_batch_size)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        network.compile(keras.optimizers.Adam(Rates(learning_rates(spec.schedule, spec.learning_rate, steps))), loss)
        ends: list[float] = []
        timer = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: ends.append(time.perf_counter()))  # noqa: B023
        network.fit(train.images, train.labels, batch_size=spec.global_batch_size, verbose=0, callbacks=[timer])
        seconds.append((ends[-1] - ends[0]) * steps / (steps - 1))  # the first step includes the tracing
        predicted = network.predict(dataset.test.images, batch_size=1_000, verbose=0).argmax(axis=1)
        accuracies.append(float((predicted == dataset.test.labels).mean()))
    return table_row("the same network, 1 epoch of keras.fit", accuracies, "-", seconds)


def table_row(name: str, accuracies: Sequence[float], ensemble: str, seconds: Sequence[float]) -> str:
    over_seeds = seed_statistics(accuracies)
    mean = f"{100 * over_seeds.mean:.2f}%"
    if over_seeds.ci95:
        mean += f" ({100 * over_seeds.ci95[0]:.2f} to {100 * over_seeds.ci95[1]:.2f})"
    spread = f"{100 * min(accuracies):.2f} to {100 * max(accuracies):.2f}"
    return f"| {name} | {mean} | {spread} | {ensemble} | {statistics.median(seconds):.2f} |"


if __name__ == "__main__":
    main()
