"""Accuracy on a few printed letters of a network that was trained on MNIST before, and of one that was not.

Each seed draws other letters to train on: of random fonts, sizes and angles. All are measured on the same others.
"""

import os
import statistics
import string
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from benchmarks.digits import parser_with_source
from benchmarks.drawings import Pixels
from benchmarks.few_pictures import splits_of
from benchmarks.record import setting
from benchmarks.trials import train_trial
from mnist_lib.catalog import DIGITS
from mnist_lib.data.dataset import Dataset
from mnist_lib.data.table import Table
from mnist_lib.models.pretrained import Pretrained, StoredWeights
from mnist_lib.spec import TrialSpec, defaults_for
from mnist_lib.training.assignment import Resources

CLASSES = tuple(string.ascii_lowercase)
FONTS = sorted(Path(matplotlib.get_data_path(), "fonts/ttf").glob("DejaVu*.ttf"))
MODEL, PER_CLASS, TEST_PER_CLASS, SEEDS = "keras-cnn", (5, 20), 40, 5
SIDE = 28  # pixels, as in MNIST
PRETRAINED = {"init_from": f"{MODEL}@1"}
STARTS: Mapping[str, Mapping[str, Any]] = {
    "random weights": {},
    "weights of digits": PRETRAINED,
    "weights of digits, 5 epochs frozen": PRETRAINED | {"freeze_epochs": 5},
}


def main() -> None:
    parser = parser_with_source(__doc__)
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"number of seeds (default: {SEEDS})")
    options = parser.parse_args()
    from mnist_lib.training.strategy import configure_process

    threads = len(os.sched_getaffinity(0))
    resources = Resources(cpus=threads)
    configure_process(resources)
    digits = digits_weights(*splits_of(options.source), resources)
    print(setting(threads))
    print(f"{len(CLASSES)} classes, {MODEL}, default options, n = {options.seeds} seeds.\n")
    print("| letters per class | start | mean accuracy | std, points | better than random weights |")
    print("|---|---|---|---|---|")
    for per_class in PER_CLASS:
        scratch: list[float] = []
        for name, settings in STARTS.items():
            found = [accuracy(per_class, seed, digits, resources, **settings) for seed in range(options.seeds)]
            scratch = scratch or found
            better = f"{sum(one > other for one, other in zip(found, scratch, strict=True))} of {len(found)}"
            spread = 100 * statistics.stdev(found) if len(found) > 1 else 0.0
            print(f"| {per_class} | {name} | {statistics.fmean(found):.2%} | {spread:.2f} | {better} |", flush=True)


def digits_weights(train: Table, test: Table, resources: Resources, epochs: int = 5) -> StoredWeights:
    """Return the weights of a network that is trained on digits."""
    dataset = Dataset.of("digits", "1", train, test)
    result = train_trial(TrialSpec.of(MODEL, dataset="digits", epochs=epochs), dataset, resources)
    return StoredWeights(PRETRAINED["init_from"], result.files, dataset.image_shape, DIGITS)


def accuracy(per_class: int, seed: int, digits: StoredWeights, resources: Resources, **settings: Any) -> float:
    """Return the accuracy on letters of a network that is trained on others, with the settings of its trial."""
    train, test = letters(per_class, seed), letters(TEST_PER_CLASS, seed=1_000_000)
    dataset = Dataset.of("letters", str(seed), train, test, CLASSES)
    sha256 = "0" * 64
    settings = {**defaults_for(len(train)), **settings, "init_sha256": sha256 if "init_from" in settings else None}
    spec = TrialSpec.of(MODEL, dataset="own", seed=seed, **settings)
    return train_trial(spec, dataset, resources, Pretrained(versions={sha256: digits})).record.test_accuracy


def letters(per_class: int, seed: int) -> Table:
    """Return printed letters, light on dark."""
    random, labels = np.random.default_rng(seed), np.repeat(np.arange(len(CLASSES), dtype=np.uint8), per_class)
    return Table.of(np.stack([_letter(CLASSES[int(label)], random) for label in labels])[..., None], labels)


def _letter(sign: str, random: np.random.Generator) -> Pixels:
    image = Image.new("L", (2 * SIDE, 2 * SIDE))
    font = ImageFont.truetype(FONTS[int(random.integers(len(FONTS)))], int(random.integers(30, 46)))
    x, y = (SIDE + random.integers(-4, 5, 2)).tolist()
    ImageDraw.Draw(image).text((x, y), sign, 255, font, anchor="mm")
    turned = image.rotate(float(random.uniform(-20, 20)), Image.Resampling.BILINEAR)
    small = np.asarray(turned.resize((SIDE, SIDE), Image.Resampling.BILINEAR), np.float32)
    return np.clip(small + random.normal(0, 5, small.shape), 0, 255).astype(np.uint8)


if __name__ == "__main__":
    main()
