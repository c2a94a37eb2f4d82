"""Images a second in training with this project's augmentation, with Keras' layers, and without any.

    python -m benchmarks.augmentation_speed [--models keras-resnet keras-mobilenet] [--rounds 10]

Every round trains a network once with each augmentation, on the same 400 photographs of `benchmarks.photographs`, and
takes the median of all epochs but the first. Each ratio compares figures from the same round. `the same by Keras` are
layers of Keras that do what `photos,flip=horizontal` does.
"""

import argparse
import os
import statistics
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.photographs import PHOTOGRAPHS, SIDE, prepared
from benchmarks.record import Ratio, ratio_table, setting
from benchmarks.trials import train_trial
from mnist_lib.catalog import MODELS
from mnist_lib.data.dataset import Dataset
from mnist_lib.model_file import ModelFile
from mnist_lib.spec import TrialSpec
from mnist_lib.training.assignment import Resources

OURS, KERAS = "photos,flip=horizontal", "the same by Keras"
BY_KERAS = {
    KERAS: """
        keras.layers.RandomFlip("horizontal"),
        keras.layers.RandomTranslation(0.1, 0.1, fill_mode="nearest"),
        keras.layers.RandomZoom(0.2, 0.2, fill_mode="nearest"),
        keras.layers.RandomBrightness(0.2),
        keras.layers.RandomContrast(0.2, value_range=(0, 255)),
        keras.layers.RandomErasing(value_range=(0, 255)),
    """,
    "RandomFlip of Keras": 'keras.layers.RandomFlip("horizontal")',
    "RandAugment of Keras": "keras.layers.RandAugment(value_range=(0, 255))",
}
CODE = """
import keras

from {module} import {function}


def network(image_shape, num_classes):
    return [{layers}, *{function}(image_shape, num_classes, **{arguments})]
"""
EPOCHS, BATCH_SIZE = 4, 32
RATIOS = [Ratio(OURS, "none", 1.25), *(Ratio(OURS, peer, 1.25 if "Flip" in peer else 1.0) for peer in BY_KERAS)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = ["keras-resnet", "keras-mobilenet"]
    parser.add_argument("--models", nargs="+", choices=MODELS, default=default)
    parser.add_argument("--rounds", type=int, default=10, help="number of rounds (default: 10)")
    options = parser.parse_args()
    resources = Resources(cpus=len(os.sched_getaffinity(0)))
    from mnist_lib.training.strategy import configure_process

    configure_process(resources)
    print(f"{setting(resources.cpus)}\nn = {options.rounds} rounds, batches of {BATCH_SIZE}, {SIDE} pixels.")
    with TemporaryDirectory() as home:
        PHOTOGRAPHS.write(Path(home, "photographs"), seed=0)
        dataset = prepared(Path(home, "photographs"))
        for model in options.models:
            seconds: dict[str, list[float]] = {}
            for number in range(options.rounds):
                for name in ("none", OURS, *BY_KERAS):
                    seconds.setdefault(name, []).append(seconds_of_an_epoch(model, name, dataset, resources))
                    print(number, model, name, f"{seconds[name][-1]:.3f} s", file=sys.stderr, flush=True)
            print(f"\n{model}\n\n| augmentation | images/s, median of rounds |\n|---|---|")
            for name, found in seconds.items():
                print(f"| `{name}` | {len(dataset.train) / statistics.median(found):.0f} |")
            print("", *ratio_table(RATIOS, seconds), sep="\n")


def seconds_of_an_epoch(model: str, augmentation: str, dataset: Dataset, resources: Resources) -> float:
    """Return the median of the seconds of the epochs after the first one."""
    settings: dict[str, Any] = {"dataset": dataset.name, "epochs": EPOCHS, "global_batch_size": BATCH_SIZE}
    source = None
    is_ours = augmentation not in BY_KERAS
    spec = TrialSpec.of(model, augment=augmentation if is_ours else "none", **settings)
    if not is_ours:
        module, _, function = MODELS[model].build.partition(":")
        arguments = {name: size.default for name, size in MODELS[model].arguments.items()}
        layers = BY_KERAS[augmentation].strip().rstrip(",")
        code = CODE.format(module=module, function=function, layers=layers, arguments=arguments)
        source = ModelFile(name="network.py", content=code.encode())
        names = ("learning_rate", "schedule", "optimizer")
        same = {name: getattr(spec, name) for name in names}
        spec = TrialSpec.of("network", source_sha256=source.sha256, **same, **settings)
    result = train_trial(spec, dataset, resources, source=source)
    return statistics.median(epoch.seconds for epoch in result.history[1:])


if __name__ == "__main__":
    main()
