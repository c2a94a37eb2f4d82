"""How many digits, letters, rows of digits and photographs `python -m jobs.predict` rejects.

    python -m benchmarks.sources DIR
    python -m benchmarks.rejecting --mnist MNIST --sources DIR

Nothing that is measured was used to train or calibrate the detector: MNIST's test images, other fonts and other
photographs. Each picture is read as a PNG file. The judgement does not depend on the model. The doubts of a model (a
probability below 50%), which also make an answer unsure, are counted for the champion in --storage.
"""

import argparse
import io
import itertools
import os
import string
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import PIL
from PIL import Image

import mnist_lib
from benchmarks import drawings
from benchmarks.drawings import Pixels
from benchmarks.record import setting
from mnist_lib.data.embedded import FOLDER
from mnist_lib.errors import ImageError
from mnist_lib.pictures import rejecting
from mnist_lib.pictures.ink import centre
from mnist_lib.pictures.reading import Layout, Picture, Shape, read_picture
from mnist_lib.pictures.rejecting import NOT_ONE_DIGIT, UNSURE, likeness_of, rejection
from mnist_lib.results import Accuracy

LAYOUT = Layout.of("mnist", Shape(28, 28, 1))
FONTS_PER_FAMILY = 8
GLYPH_SIZE = 100  # pixels
ROWS, CROPS, NOISE = 2_000, 2_000, 500


@dataclass(frozen=True)
class Kind:
    name: str
    pictures: Iterable[Pixels]
    claim: str = ""


def kinds(mnist: Path, sources: Path, count: int | None) -> Iterator[Kind]:
    """Yield what is measured; with `count`, at most so many pictures of each kind."""
    random = np.random.default_rng(7)
    folder = sources / "evaluation"
    digits, _ = drawings.mnist(mnist, "t10k")
    files = drawings.font_files(folder / "fonts", {}, FONTS_PER_FAMILY, random)[:count]
    fonts = [drawings.glyphs(file, string.ascii_letters + string.digits, GLYPH_SIZE) for file in files]
    fonts = [font for font in fonts if font]
    photos = drawings.photographs(folder / "photographs")

    def glyphs(signs: Iterable[str]) -> Iterator[Pixels]:
        return (font[sign] for font in fonts for sign in signs if sign in font)

    def rows(length: int) -> Iterator[Pixels]:
        for _ in range(ROWS):
            parts = [drawings.enlarged(digits[index]) for index in random.integers(len(digits), size=length)]
            yield np.pad(drawings.in_row(parts, random, (0, 12)), 20)

    with np.load(FOLDER / "sklearn-digits.npz") as arrays:
        small = arrays["test_images"][..., 0]
    plain = [letter for letter in drawings.LETTERS if letter not in drawings.AMBIGUOUS]
    text = drawings.text_pictures(fonts, string.digits, (2, 3), ROWS, random)
    yield Kind("MNIST's test digits", digits, "at most 2%")
    yield Kind("test digits of sklearn-digits", small)
    yield Kind("printed digits", glyphs(string.digits))
    yield Kind("letters", glyphs(plain), "at least 90%")
    yield Kind(f"letters like digits: {' '.join(drawings.AMBIGUOUS)}", glyphs(drawings.AMBIGUOUS))
    yield Kind("two handwritten digits", rows(2), "at least 90%")
    yield Kind("three handwritten digits", rows(3), "at least 90%")
    yield Kind("two or three printed digits", (np.pad(pixels, 20) for pixels in text), "at least 90%")
    yield Kind("whole photographs", (np.asarray(photo) for photo in photos), "at least 90%")
    yield Kind("parts of photographs", drawings.crops(photos, CROPS, random), "at least 90%")
    yield Kind("noise", drawings.noise(NOISE, random))


def read(pixels: Pixels) -> Picture | None:
    """Return the picture in a PNG file of these pixels, or None if it is an error."""
    content = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(content, "PNG")
    try:
        return read_picture(content.getvalue(), LAYOUT)
    except ImageError:
        return None


def milliseconds(digits: Pixels) -> float:
    """Return how long the likeness of a digit takes, without reading and centring the picture."""
    inks = [drawings.enlarged(digit).astype(np.float32) / np.float32(255) for digit in digits]
    images = [centre(ink, rejecting.SHAPE, rejecting.BOX) for ink in inks]
    begin = time.process_time()
    for ink, image in zip(inks, images, strict=True):
        likeness_of(ink, image)
    return 1_000 * (time.process_time() - begin) / len(inks)


def judged(pictures: Iterable[Picture | None]) -> Counter[str | None]:
    """Count the pictures by the reason of their rejection."""
    sure = np.ones(1, np.float32)
    return Counter("error" if found is None else rejection(found.likeness, sure) for found in pictures)


def doubts(storage: str, pictures: Iterable[Picture | None]) -> str:
    """Return how many pictures are rejected if the champion's doubts count, too."""
    model, found = mnist_lib.load(storage=storage), [picture for picture in pictures if picture is not None]
    answers = model.predict(np.stack([picture.image for picture in found]))
    rejected = sum(rejection(picture.likeness, row) is not None for picture, row in zip(found, answers, strict=True))
    name = f"{model.name}, whose test accuracy is {model.accuracy.value:.2%}"
    return f"With the doubts of {name}, {_share(Accuracy(rejected, len(found)))} of MNIST's test digits are rejected."


def _share(found: Accuracy) -> str:
    low, high = found.interval()
    return f"{found.value:.2%} ({low:.2%} to {high:.2%})"


def row(kind: Kind, reasons: Counter[str | None]) -> str:
    """Return a line of the table. Errors count as rejected, as the picture gets no answer."""
    total = sum(reasons.values())
    counts = " | ".join(f"{reasons[reason]:,}" for reason in (NOT_ONE_DIGIT, UNSURE, "error"))
    return f"| {kind.name} | {total:,} | {counts} | {_share(Accuracy(total - reasons[None], total))} | {kind.claim} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mnist", type=Path, required=True, metavar="DIR", help="the four original MNIST files")
    parser.add_argument("--sources", type=Path, required=True, metavar="DIR", help="what benchmarks.sources wrote")
    parser.add_argument("--storage", help="also count the doubts of the champion in this storage")
    parser.add_argument("--count", type=int, help="measure at most so many pictures of each kind")
    options = parser.parse_args()
    print(f"{setting(len(os.sched_getaffinity(0)))}\nPillow {PIL.__version__}; 95% intervals (Wilson).\n")
    print(f"| pictures | n | {NOT_ONE_DIGIT} | {UNSURE} | error | rejected in all | claim |")
    print("|---|---|---|---|---|---|---|")
    digits: list[Picture | None] = []
    with ProcessPoolExecutor(2, get_context("spawn")) as processes:
        for kind in kinds(options.mnist, options.sources, options.count):
            pictures = [*processes.map(read, itertools.islice(kind.pictures, options.count), chunksize=50)]
            digits = digits or pictures  # the first kind
            print(row(kind, judged(pictures)), flush=True)
    originals, _ = drawings.mnist(options.mnist, "t10k")
    print(f"\nThe judgement takes {milliseconds(originals[:1_000]):.2f} ms of processor time for a digit.")
    if options.storage is not None:
        print(doubts(options.storage, digits))


if __name__ == "__main__":
    main()
