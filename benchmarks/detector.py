"""Train the detector of `mnist_lib.pictures.rejecting`, and write its file.

    python -m benchmarks.sources DIR
    python -m benchmarks.detector --mnist MNIST --sources DIR

MNIST is a folder with the four original files. Only their training images are used: the last 5,000 to calibrate, the
others to train. The same sources, versions and processor give the same file. `benchmarks.rejecting` measures it.
"""

import argparse
import string
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks import drawings
from benchmarks.drawings import Pixels, Random
from mnist_lib.data.embedded import FOLDER
from mnist_lib.errors import ImageError
from mnist_lib.pictures import rejecting
from mnist_lib.pictures.ink import centre, find_ink

HELD_OUT = 5_000  # MNIST training images
FONTS_PER_FAMILY = 6
DECORATIVE = "fonts-aenigma"  # hundreds of decorative fonts, whose digits are often hard to read
DECORATIVE_FONTS = 80
SIDEWAYS, MIRRORED = (2, 3, 4, 5, 7), (3, 4, 7, 9)  # digits that are none when turned by 90 degrees, or mirrored
EPOCHS, BATCH_SIZE, LEARNING_RATE, WEIGHT_DECAY, DROPOUT = 8, 256, 0.002, 0.01, 0.25

Example = tuple[Pixels, int]  # [28, 28] and a digit or OTHER
Examples = Iterator[Example]


def found(picture: Pixels) -> Pixels | None:
    """Return the image of a picture as `jobs.predict` finds it, or None if it finds no ink."""
    levels = picture.astype(np.float32).reshape(*picture.shape[:2], -1)
    try:
        return centre(find_ink(levels), rejecting.SHAPE, rejecting.BOX)
    except ImageError:
        return None


def image_of(picture: Pixels) -> Pixels:
    """Return the image of a picture that is all ink and paper, as `found` does but faster."""
    return centre((picture / picture.max()).astype(np.float32), rejecting.SHAPE, rejecting.BOX)


class Sources:
    """What the examples are made from, read in each process."""

    def __init__(self, mnist: Path, folder: Path) -> None:
        images, labels = drawings.mnist(mnist, "train")
        self.images, self.labels = images[:-HELD_OUT], labels[:-HELD_OUT]
        self.folder = folder / "calibration"

    def digits(self, random: Random) -> Examples:
        """MNIST digits as they are, found in pictures, and varied; the small digits of scikit-learn."""
        for number, (image, label) in enumerate(zip(self.images, self.labels, strict=True)):
            yield image, int(label)
            if number % 4 == 0 and (seen := found(image)) is not None:
                yield seen, int(label)
            elif number % 4 == 1:
                yield image_of(drawings.varied(drawings.enlarged(image), random, 0.6)), int(label)
        with np.load(FOLDER / "sklearn-digits.npz") as arrays:
            for image, label in zip(arrays["train_images"][..., 0], arrays["train_labels"], strict=True):
                if (seen := found(image)) is not None:
                    yield seen, int(label)

    def turned(self, random: Random) -> Examples:
        """MNIST digits on their sides and in a mirror, so that the hand alone does not make a digit."""
        for index in random.permutation(len(self.images))[:9_000]:
            image, label = self.images[index], int(self.labels[index])
            if label in SIDEWAYS:
                yield image_of(np.rot90(image, int(random.choice([1, 3])))), rejecting.OTHER
            elif label in MIRRORED:
                yield image_of(image[:, ::-1]), rejecting.OTHER

    def printed(self, random: Random) -> Examples:
        """Varied glyphs: digits, letters but for the ambiguous ones, and other signs."""
        letters = [letter for letter in drawings.LETTERS if letter not in drawings.AMBIGUOUS]
        signs = "".join([*string.digits, *letters, *drawings.OTHER_SIGNS])
        for file, decorative in self._fonts(random):
            for sign, picture in drawings.glyphs(file, signs).items():
                digit = sign in string.digits
                if digit and decorative:
                    continue
                copies = 1 if decorative else 3 if digit else 2 if sign in letters else int(random.random() < 0.4)
                for _ in range(copies):
                    label = int(sign) if digit else rejecting.OTHER
                    yield image_of(drawings.varied(picture, random)), label

    def rows(self, random: Random) -> Examples:
        """Two to four digits in a row or a column, of one hand or one font, and words."""
        chosen = [file for file, decorative in self._fonts(random) if not decorative]
        fonts = [font for file in chosen[::4] if (font := drawings.glyphs(file, string.digits + string.ascii_letters))]
        for number in range(16_000):
            count = (2, 2, 2, 3, 2, 2, 3, 4)[number % 8]
            chosen_images = self.images[random.integers(len(self.images), size=count)]
            parts = [drawings.enlarged(image) for image in chosen_images]
            if random.random() < 0.5:
                parts = drawings.same_height(parts)
            in_column = random.random() < 0.15
            parts = [part.T for part in parts] if in_column else parts
            row = drawings.in_row(parts, random, (-2, 12))
            yield image_of(row.T if in_column else row), rejecting.OTHER
        for row in drawings.text_pictures(fonts, string.digits, (2, 4), 4_000, random):
            yield image_of(row), rejecting.OTHER
        for row in drawings.text_pictures(fonts, string.ascii_letters, (2, 5), 3_000, random):
            yield image_of(row), rejecting.OTHER

    def others(self, random: Random) -> Examples:
        """Parts of photographs, noise and shapes."""
        photos = drawings.photographs(self.folder / "photographs")
        for pictures in (drawings.crops(photos, 6_000, random), drawings.noise(2_000, random)):
            for picture in pictures:
                if (image := found(picture)) is not None:
                    yield image, rejecting.OTHER
        for picture in drawings.shapes(5_000, random):
            yield image_of(drawings.varied(picture, random, 0.7)), rejecting.OTHER

    def _fonts(self, random: Random) -> list[tuple[Path, bool]]:
        files = drawings.font_files(self.folder / "fonts", {DECORATIVE: DECORATIVE_FONTS}, FONTS_PER_FAMILY, random)
        return [(file, file.parent.name == DECORATIVE) for file in files]


KINDS: dict[str, Callable[[Sources, Random], Examples]] = {
    "digits": Sources.digits,
    "turned": Sources.turned,
    "printed": Sources.printed,
    "rows": Sources.rows,
    "others": Sources.others,
}


def examples_of(kind: str, mnist: Path, folder: Path) -> tuple[Pixels, NDArray[np.int64]]:
    """Return images [n, 28, 28] and labels [n]."""
    seed = list(KINDS).index(kind)
    made = [*KINDS[kind](Sources(mnist, folder), np.random.default_rng(seed))]
    return np.stack([image for image, _ in made]), np.array([label for _, label in made])


def trained(images: Pixels, labels: NDArray[np.int64]) -> dict[str, NDArray[np.float32]]:
    """Return the weights of the network, trained with a fixed seed."""
    import keras
    import tensorflow as tf
    from keras import layers

    keras.utils.set_random_seed(0)
    tf.config.experimental.enable_op_determinism()
    model = keras.Sequential(
        [
            keras.Input((*rejecting.SHAPE, 1)),
            layers.Rescaling(1 / 255),
            layers.Conv2D(16, 5, activation="relu", name="conv1"),
            layers.MaxPooling2D(),
            layers.Conv2D(32, 5, activation="relu", name="conv2"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dropout(DROPOUT),
            layers.Dense(112, activation="relu", name="dense"),
            layers.Dropout(DROPOUT),
            layers.Dense(rejecting.OTHER + 1, name="output"),
        ]
    )
    steps = EPOCHS * -(-len(images) // BATCH_SIZE)
    rate = keras.optimizers.schedules.CosineDecay(
        LEARNING_RATE / 20, steps, alpha=0.01, warmup_target=LEARNING_RATE, warmup_steps=steps // 10
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.AdamW(rate, weight_decay=WEIGHT_DECAY), loss, metrics=["accuracy"])
    model.fit(images[..., None], labels, batch_size=BATCH_SIZE, epochs=EPOCHS, verbose=2)
    return {
        f"{layer.name}_{name}": np.asarray(values)
        for layer in model.layers
        if layer.weights
        for name, values in zip(("kernel", "bias"), layer.get_weights(), strict=True)
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mnist", type=Path, required=True, metavar="DIR", help="the four original MNIST files")
    parser.add_argument("--sources", type=Path, required=True, metavar="DIR", help="what benchmarks.sources wrote")
    parser.add_argument("--examples", type=Path, metavar="FILE.npz", help="write the examples here, or read them")
    options = parser.parse_args()
    if options.examples and options.examples.exists():
        with np.load(options.examples) as arrays:
            images, labels = arrays["images"], arrays["labels"]
    else:
        with ProcessPoolExecutor(2, get_context("spawn")) as processes:
            made = [*processes.map(partial(examples_of, mnist=options.mnist, folder=options.sources), KINDS)]
        for kind, (_, labels) in zip(KINDS, made, strict=True):
            print(f"{kind}: {len(labels):,} examples, {(labels == rejecting.OTHER).sum():,} of them without a digit")
        images, labels = (np.concatenate(arrays) for arrays in zip(*made, strict=True))
        if options.examples:
            np.savez(options.examples, allow_pickle=False, images=images, labels=labels)
    order = np.random.default_rng(0).permutation(len(images))
    weights = {name: values.astype(np.float16) for name, values in trained(images[order], labels[order]).items()}
    full = {name: values.astype(np.float32) for name, values in weights.items()}
    held_out, _ = drawings.mnist(options.mnist, "train")
    scores = [rejecting.score(image, full) for picture in held_out[-HELD_OUT:] if (image := found(picture)) is not None]
    np.savez_compressed(rejecting.FILE, allow_pickle=False, held_out=np.sort(scores).astype(np.float16), **weights)
    print(f"{rejecting.FILE.name}: {rejecting.FILE.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
