"""Accuracy of a network that starts from weights of other pictures, and of one that starts from random weights.

    python -m benchmarks.backbones [--model keras-mobilenet] [--draws 5]

The network is trained on made-up objects, which consist of random shapes, as a camera sees them. The weights of
all its layers but the last are saved as Keras saves them. Then it is trained with the default options on 20 pictures
of each class of `benchmarks.photographs`, from these weights and from random ones, and measured on 2,000 others. Two
trials run at a time, with one thread each.
"""

import argparse
import os
import statistics
import sys
from collections.abc import Sequence
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.drawings import Random
from benchmarks.photographs import PHOTOGRAPHS, Trial, photograph, photograph_of, prepared, train
from benchmarks.pictures import Outline, PictureSet
from benchmarks.record import paired_difference_text, setting
from benchmarks.trials import train_trial
from mnist_lib.catalog import MODELS
from mnist_lib.spec import TrialSpec
from mnist_lib.training.assignment import Resources

PER_CLASS, DRAWS = 20, 5
NUM_OBJECTS, TRAIN, TEST, EPOCHS, BATCH_SIZE, LEARNING_RATE = 40, 6_000, 1_000, 20, 64, 0.004
AUGMENT = "photos,flip=horizontal"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    with_weights = [name for name, entry in MODELS.items() if entry.weights]
    parser.add_argument("--model", choices=with_weights, default=with_weights[0])
    parser.add_argument("--draws", type=int, default=DRAWS, help=f"number of seeds (default: {DRAWS})")
    options = parser.parse_args()
    with TemporaryDirectory() as home, get_context("spawn").Pool(2) as processes:
        backbone = Path(home, "backbone.weights.h5")
        print(setting(1), flush=True)
        with get_context("spawn").Pool(1) as process:
            accuracy = process.apply(write_backbone, (options.model, backbone))
        print(f"{options.model} recognises {accuracy:.2f}% of the made-up objects.\n", flush=True)
        trials = []
        for seed in range(options.draws):
            folder = Path(home, str(seed), "photographs")
            few_photographs(PHOTOGRAPHS.test).write(folder, seed)
            trials += [Trial(folder, options.model, AUGMENT, seed, start) for start in (None, backbone)]
        found = []
        for trial, accuracy in zip(trials, processes.imap(train, trials), strict=True):
            print(trial.seed, "weights of objects" if trial.weights else "random weights", accuracy, file=sys.stderr)
            found.append(accuracy)
    random = found[::2]
    other = found[1::2]
    gains = paired_difference_text([b - a for a, b in zip(random, other, strict=True)])
    print("| random weights | weights of made-up objects | gain, points |\n|---|---|---|")
    print(f"| {statistics.fmean(random):.2f}% | {statistics.fmean(other):.2f}% | {gains} |")


def few_photographs(test: int) -> PictureSet:
    """Return 20 pictures of each class to train on, and so many others to test on."""
    classes = PHOTOGRAPHS.classes
    return PictureSet(classes=classes, train=PER_CLASS * len(classes), test=test, draw=photograph)


def write_backbone(model: str, path: Path, train: int = TRAIN, epochs: int = EPOCHS) -> float:
    """Train on made-up objects, save the weights of all layers but the last, and return the accuracy in percent."""
    import keras

    from mnist_lib.training.strategy import configure_process

    resources = Resources(cpus=len(os.sched_getaffinity(0)))
    configure_process(resources)
    names = [f"{number:02}" for number in range(NUM_OBJECTS)]
    PictureSet(classes=names, train=train, test=TEST, draw=made_up).write(path.parent / "objects", seed=0)
    dataset = prepared(path.parent / "objects")
    settings: dict[str, Any] = {"epochs": epochs, "global_batch_size": BATCH_SIZE}
    spec = TrialSpec.of(model, dataset=dataset.name, augment=AUGMENT, learning_rate=LEARNING_RATE, **settings)
    result = train_trial(spec, dataset, resources)
    stored = path.with_name("objects.keras")
    stored.write_bytes(result.files["model.keras"])
    backbone_of(keras.saving.load_model(stored)).save_weights(path)
    return 100 * result.record.test_accuracy


def backbone_of(model: Any) -> Any:
    """Return the network of Keras Applications in a stored version of it."""
    inside = [layer for layer in model.layers if hasattr(layer, "layers")]
    return backbone_of(inside[0]) if inside else model


def made_up(label: int, test: bool, random: Random) -> Image.Image:
    """Return an object of three shapes, which are the same for the same label, as a camera sees it."""
    return photograph_of(outlines_of(label), random)


def outlines_of(number: int) -> Sequence[Outline]:
    """Return three shapes: polygons and ellipses that touch a square of side 1."""
    random = np.random.default_rng([17, number])
    parts = []
    for _ in range(3):
        corner, size = random.uniform(0, 0.5, 2), random.uniform(0.4, 0.7, 2)
        if random.random() < 0.4:
            parts.append(("ellipse", corner + size * [(0, 0), (1, 1)]))
        else:
            corners = sorted_around(random.uniform(0, 1, (random.integers(4, 7), 2)))
            parts.append(("polygon", corner + size * corners))
    points = np.concatenate([points for _, points in parts])
    low, high = points.min(axis=0), points.max(axis=0)
    return [(kind, part % 2, ((points - low) / (high - low)).tolist()) for part, (kind, points) in enumerate(parts)]


def sorted_around(corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return corners, [n, 2], in the order of their angle, so that the sides of the polygon do not cross."""
    offsets = corners - corners.mean(axis=0)
    return corners[np.argsort(np.arctan2(offsets[:, 1], offsets[:, 0]))]


if __name__ == "__main__":
    main()
