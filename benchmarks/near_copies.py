"""How many near-copies across train and test are found, and how many distinct test images are taken for one.

    python -m benchmarks.near_copies [--source MNIST] [--sources DIR]

Digits are MNIST's in --source, otherwise those of the package. Letters and photographs are in --sources, which
`benchmarks.sources` writes; without it, letters are drawn from the fonts of Matplotlib. Objects are digits in ten
copies each, all changed a little; the test split gets a random 15% of all, as in a folder.
"""

import argparse
import io
import os
import string
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image

from benchmarks import drawings
from benchmarks.drawings import Pixels, Random
from benchmarks.record import setting
from mnist_lib.data.dataset import Dataset
from mnist_lib.data.embedded import read_embedded
from mnist_lib.data.near_copies import near_copies
from mnist_lib.data.table import Table
from mnist_lib.results import Accuracy
from mnist_lib.wording import percent

COPIES = 1_000  # of each kind
TEST_SHARE = 0.15
OBJECTS, COPIES_OF_OBJECT = 120, 10
TILE, SIDE = 125, 64  # pixels of a part of a photograph, before and after it is reduced
LETTER = 32  # pixels
FONTS_PER_FAMILY = 1
OF_MATPLOTLIB = {"ttf": 12}  # from its only folder of such fonts
MAX_SHIFT = 0.05  # of a side


def shifted(image: Pixels, random: Random) -> Pixels:
    """Return an image, [height, width, channels], moved by up to 5% of its side, also by a part of a pixel."""
    across, down = random.uniform(-MAX_SHIFT, MAX_SHIFT, 2) * image.shape[0]
    picture = Image.fromarray(image.squeeze())
    moved = picture.transform(
        picture.size, Image.Transform.AFFINE, (1, 0, across, 0, 1, down), Image.Resampling.BICUBIC
    )
    return np.asarray(moved).reshape(image.shape)


def saved_again(image: Pixels, random: Random) -> Pixels:
    """Return an image as a JPEG file of quality 60 to 95 contains it."""
    file = io.BytesIO()
    Image.fromarray(image.squeeze()).save(file, "JPEG", quality=int(random.integers(60, 96)))
    return np.asarray(Image.open(file)).reshape(image.shape)


def noisy(image: Pixels, random: Random) -> Pixels:
    """Return an image with noise, whose standard deviation is 5 of 255."""
    return np.clip(image + random.normal(0, 5, image.shape), 0, 255).astype(np.uint8)


def darker(image: Pixels, random: Random) -> Pixels:
    return (image * random.uniform(0.6, 0.9)).astype(np.uint8)


KINDS = {
    "saved again": (saved_again,),
    "shifted": (shifted,),
    "noisy": (noisy,),
    "darker": (darker,),
    "all of these": (shifted, darker, noisy, saved_again),
}


def changed(image: Pixels, kind: str, random: Random) -> Pixels:
    for change in KINDS[kind]:
        image = change(image, random)
    return image


def digits(source: Path | None) -> tuple[Pixels, Pixels]:
    """Return the training and test images, [n, 28, 28, 1]."""
    if source is None:
        dataset = read_embedded("mnist-mini")
        return np.asarray(dataset.train.images), np.asarray(dataset.test.images)
    train, test = (drawings.mnist(source, split)[0][..., None] for split in ("train", "t10k"))
    return train, test


def divided(images: Pixels, random: Random) -> tuple[Pixels, Pixels]:
    """Return images for training and for the test."""
    order, test = random.permutation(len(images)), round(TEST_SHARE * len(images))
    return images[order[test:]], images[order[:test]]


def letters(folder: Path, random: Random) -> Pixels:
    """Return the letters of one font of each family, [n, 32, 32, 1]."""
    files = drawings.font_files(folder, OF_MATPLOTLIB, FONTS_PER_FAMILY, random)
    glyphs = [glyph for file in files for glyph in drawings.glyphs(file, string.ascii_letters).values()]
    squares = []
    for glyph in glyphs:
        side = max(glyph.shape)
        down, across = (side - glyph.shape[0]) // 2, (side - glyph.shape[1]) // 2
        square = np.zeros((side, side), np.uint8)
        square[down : down + glyph.shape[0], across : across + glyph.shape[1]] = glyph
        squares.append(np.asarray(Image.fromarray(square).resize((LETTER, LETTER), Image.Resampling.BOX)))
    return np.stack(squares)[..., None]


def photographs(folder: Path) -> Pixels:
    """Return parts of photographs that do not overlap, [n, 64, 64, 3]."""
    parts = [
        np.asarray(photo.crop((x, y, x + TILE, y + TILE)).resize((SIDE, SIDE), Image.Resampling.BICUBIC))
        for photo in drawings.photographs(folder)
        for y in range(0, photo.height - TILE, TILE)
        for x in range(0, photo.width - TILE, TILE)
    ]
    return np.stack(parts)


def named(train: Pixels, test: Pixels) -> tuple[np.ndarray[tuple[int], np.dtype[np.bool_]], int, float]:
    """Return whether each test image is named a near-copy, [n], how many could be compared, and the seconds it took."""
    one, other = (Table.of(images, np.zeros(len(images), np.uint8)) for images in (train, test))
    dataset, begin = Dataset.of("images", "1", one, other), time.monotonic()
    found = near_copies(dataset)
    return ~found.distinct(len(test)), found.compared, time.monotonic() - begin


def rows(name: str, train: Pixels, test: Pixels, random: Random, copies: int) -> Iterator[str]:
    """Yield a row of the table for distinct images, and for each kind of copies of random training images."""
    # Without flat images, such as of a sky, which are not compared.
    sharp = np.flatnonzero(train.mean(axis=3).std(axis=(1, 2)) > 20)
    chosen = random.permutation(sharp)[:copies]
    found, compared, seconds = named(train, test)
    share = Accuracy(int(found.sum()), compared)
    yield row(name, f"distinct ({len(test):,} with {len(train):,}, {seconds:.1f} s)", share)
    for kind in KINDS:
        found, _, _ = named(train, np.stack([changed(train[index], kind, random) for index in chosen]))
        yield row(name, kind, Accuracy(int(found.sum()), len(found)))


def row(name: str, kind: str, found: Accuracy) -> str:
    interval = " to ".join(map(percent, found.interval()))
    return f"| {name} | {kind} | {found.total:,} | {percent(found.value)} | {interval} |"


def leaks(images: Pixels, datasets: int, random: Random) -> Sequence[float]:
    """Return for each dataset of objects in ten copies which share of the test images with a copy in train is named."""
    shares = []
    for _ in range(datasets):
        originals = images[random.permutation(len(images))[:OBJECTS]]
        objects = random.permutation(np.repeat(np.arange(OBJECTS), COPIES_OF_OBJECT))
        copies = np.stack([changed(originals[each], "all of these", random) for each in objects])
        is_test = random.random(len(objects)) < TEST_SHARE
        leaked = np.isin(objects[is_test], objects[~is_test])
        found, _, _ = named(copies[~is_test], copies[is_test])
        shares.append(float(found[leaked].mean()))
    return shares


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, metavar="DIR", help="the four original MNIST files")
    parser.add_argument("--sources", type=Path, metavar="DIR", help="what benchmarks.sources wrote")
    parser.add_argument("--copies", type=int, default=COPIES, help="number of copies of each kind")
    parser.add_argument("--datasets", type=int, default=20, help="number of datasets of objects")
    options = parser.parse_args()
    random = np.random.default_rng(0)
    train, test = digits(options.source)
    fonts = options.sources / "evaluation/fonts" if options.sources else Path(matplotlib.get_data_path(), "fonts")
    print(f"{setting(len(os.sched_getaffinity(0)))}\n95% intervals (Wilson).\n")
    print("| images | test images | n | named near-copies | interval |\n|---|---|---|---|---|")
    for line in rows("digits", train, test, random, options.copies):
        print(line, flush=True)
    for line in rows("letters", *divided(letters(fonts, random), random), random, options.copies):
        print(line, flush=True)
    if options.sources:
        parts = divided(photographs(options.sources / "evaluation/photographs"), random)
        for line in rows("photographs", *parts, random, options.copies):
            print(line, flush=True)
    shares = leaks(train, options.datasets, random)
    spread = " to ".join(map(percent, (min(shares), max(shares))))
    print(
        f"\n{OBJECTS} objects in {COPIES_OF_OBJECT} near-copies, n = {len(shares)} datasets: of the test images with a"
    )
    print(f"copy in train, {percent(float(np.mean(shares)))} are named ({spread}).")


if __name__ == "__main__":
    main()
