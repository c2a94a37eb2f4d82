"""How many digits, letters, rows of digits and photographs `python -m jobs.predict` rejects.

    python -m benchmarks.sources DIR
    python -m benchmarks.rejecting --mnist MNIST --sources DIR
    python -m benchmarks.rejecting --mnist MNIST --sources DIR --seeds 3

With --seeds, models are trained on digits and on chess pieces, as if these were a user's own folder, and what they
answer with "none of these" is counted. Each is calibrated on the test images of its dataset: about as many as a folder
would set aside, at most 5,000 digits. The other pictures are fresh.

Without it, the judgement of digits is measured, which does not depend on the model. Nothing that is measured was used
to train or calibrate the detector: MNIST's test images, other fonts and other photographs. Each picture is read as a
PNG file. The doubts of a model (a probability below 50%), which also make an answer unsure, are counted for the
champion in --storage.
"""

import argparse
import io
import itertools
import os
import statistics
import string
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from PIL import Image, ImageDraw, ImageFont

import mnist_lib
from benchmarks import drawings
from benchmarks.drawings import Pixels
from benchmarks.record import setting
from benchmarks.trials import train_trial
from mnist_lib.catalog import DIGITS
from mnist_lib.data.dataset import Dataset
from mnist_lib.data.embedded import FOLDER
from mnist_lib.data.table import TEST_SHARE, Table
from mnist_lib.errors import ImageError
from mnist_lib.pictures import rejecting
from mnist_lib.pictures.ink import centre
from mnist_lib.pictures.likeness import LIKENESS, REJECT_SHARE, Likeness
from mnist_lib.pictures.reading import Layout, Picture, Shape, read_picture
from mnist_lib.pictures.rejecting import NOT_ONE_DIGIT, UNSURE, likeness_of, rejection
from mnist_lib.results import Accuracy
from mnist_lib.spec import TrialSpec, defaults_for
from mnist_lib.training.assignment import Resources

LAYOUT = Layout.of("mnist", Shape(28, 28, 1))
FONTS_PER_FAMILY = 8
GLYPH_SIZE = 100  # pixels
ROWS, CROPS, NOISE = 2_000, 2_000, 500
PIECES = [("king", "♔♚"), ("queen", "♕♛"), ("rook", "♖♜"), ("bishop", "♗♝"), ("knight", "♘♞"), ("pawn", "♙♟")]
PIECE_SIDE = 64  # pixels


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


def read(pixels: Pixels, layout: Layout = LAYOUT) -> Picture | None:
    """Return the picture in a PNG file of these pixels, or None if it is an error."""
    content = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(content, "PNG")
    try:
        return read_picture(content.getvalue(), layout)
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


@dataclass(frozen=True)
class Task:
    """What models are trained on, and other pictures, laid out as theirs: [n, height, width, channels]."""

    name: str
    pictures: Table
    classes: Sequence[str]
    others: Mapping[str, Pixels]
    trained: Sequence[tuple[str, int]]  # models, and their numbers of training pictures


def tasks(mnist: Path, sources: Path, count: int) -> Iterator[Task]:
    """Yield the digits of MNIST, with `count` other pictures of each kind, and chess pieces drawn from fonts."""
    unjudged, random = Layout.of("mnist", LAYOUT.shape, accept_all=True), np.random.default_rng(7)
    wanted = ("letters", "two handwritten digits", "parts of photographs")
    with ProcessPoolExecutor(2, get_context("spawn")) as processes:
        others = {
            kind.name: np.stack(
                [p.image for p in processes.map(partial(read, layout=unjudged), drawn, chunksize=50) if p]
            )
            for kind in kinds(mnist, sources, None)
            if kind.name in wanted and (drawn := sample([*kind.pictures], count, random))
        }
    parts = [drawings.mnist(mnist, part) for part in ("train", "t10k")]
    digits = Table.of(np.concatenate([images for images, _ in parts])[..., None], np.concatenate([y for _, y in parts]))
    sizes = [("keras-cnn", 60_000), ("keras-cnn", 1_000), ("keras-cnn", 300), ("keras", 60_000), ("scratch", 60_000)]
    yield Task("digits", digits, DIGITS, others, sizes)
    photos, side = drawings.photographs(sources / "evaluation" / "photographs"), (PIECE_SIDE, PIECE_SIDE)
    parts_of_photos = [Image.fromarray(part).resize(side) for part in drawings.crops(photos, count, random)]
    fonts = sorted((sources / "evaluation" / "fonts" / "fonts-dejavu-core").glob("DejaVuSans*.ttf"))
    labels = random.integers(len(PIECES), size=5_000).astype(np.uint8)
    drawn_pieces = [piece(PIECES[label][1][random.integers(2)], fonts, random) for label in labels]
    signs = [piece(str(sign), fonts, random) for sign in random.choice([*string.ascii_letters], count)]
    others = {"letters": np.stack(signs), "parts of photographs": np.stack([*map(np.asarray, parts_of_photos)])}
    sizes = [("keras-cnn", 1_000), ("keras-cnn", 300), ("keras", 1_000)]
    yield Task("chess pieces", Table.of(np.stack(drawn_pieces), labels), [name for name, _ in PIECES], others, sizes)


def sample(pictures: Sequence[Pixels], count: int, random: np.random.Generator) -> list[Pixels]:
    return [pictures[index] for index in random.permutation(len(pictures))[:count]]


def piece(sign: str, fonts: Sequence[Path], random: np.random.Generator) -> Pixels:
    """Return a sign in a random font, colour and place on paper: [PIECE_SIDE, PIECE_SIDE, 3]."""
    paper, ink = (tuple(map(int, random.integers(*limits, 3))) for limits in ((190, 255), (0, 110)))
    image = Image.new("RGB", (PIECE_SIDE, PIECE_SIDE), paper)
    font = ImageFont.truetype(fonts[int(random.integers(len(fonts)))], int(random.integers(34, 56)))
    x, y = (PIECE_SIDE / 2 + random.integers(-5, 6, 2)).tolist()
    ImageDraw.Draw(image).text((x, y), sign, ink, font, anchor="mm")
    turned = np.asarray(image.rotate(float(random.uniform(-12, 12)), fillcolor=paper), np.float32)
    return np.clip(turned + random.normal(0, 8, turned.shape), 0, 255).astype(np.uint8)


def model_row(task: Task, model: str, count: int, seeds: Sequence[int], resources: Resources) -> str:
    """Return a line of the table of models: shares that are answered with "none of these", over all seeds."""
    from mnist_lib.loading import LoadedModel, StoredPredictor
    from mnist_lib.models.building import build_model

    rejected, accuracies = dict[str, list[float]](), list[float]()
    held_out = min(5_000, max(49, round(count * TEST_SHARE / (1 - TEST_SHARE))))
    for seed in seeds:
        order = np.random.default_rng(seed).permutation(len(task.pictures))
        train, test, fresh = (task.pictures.take(rows) for rows in np.split(order, [count, count + held_out]))
        dataset = Dataset.of("own", str(seed), train, test, task.classes)
        settings: dict[str, Any] = {"seed": seed, **defaults_for(count)}
        spec = TrialSpec.of(model, dataset="own", **settings)
        result = train_trial(spec, dataset, resources)
        built = build_model(spec, dataset.image_shape, len(task.classes))
        likeness = Likeness.read(result.files[LIKENESS], LIKENESS)
        loaded = LoadedModel(built, built.read(result.files), dataset.image_shape, dataset.classes, likeness)
        predictor = StoredPredictor(loaded)
        accuracies.append(result.record.test_accuracy)
        for name, images in {"fresh": fresh.images[:5_000], **task.others}.items():
            rejected.setdefault(name, []).append(float((predictor.answers(images).likeness <= REJECT_SHARE).mean()))
    cells = [
        share_of(rejected.get(name)) for name in ("fresh", "letters", "two handwritten digits", "parts of photographs")
    ]
    return f"| {model}, {task.name} | {count:,} | {held_out:,} | {share_of(accuracies)} | {' | '.join(cells)} |"


def report_models(mnist: Path, sources: Path, count: int, seeds: Sequence[int]) -> None:
    from mnist_lib.training.strategy import configure_process

    resources = Resources(cpus=len(os.sched_getaffinity(0)))
    configure_process(resources)
    print(
        f"{setting(resources.cpus)}\nn = {len(seeds)} seeds, each with other pictures; up to {count:,} of each kind.\n"
    )
    print("| model | trained on | held out | test accuracy | fresh | letters | two digits | parts of photographs |")
    print("|---|---|---|---|---|---|---|---|")
    for task in tasks(mnist, sources, count):
        for model, size in task.trained:
            print(model_row(task, model, size, seeds, resources), flush=True)


def share_of(values: Sequence[float] | None) -> str:
    """Return the mean of shares and, of several, their range."""
    if not values:
        return ""
    spread = f" ({100 * min(values):.1f} to {100 * max(values):.1f})" if len(values) > 1 else ""
    return f"{100 * statistics.fmean(values):.1f}%{spread}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mnist", type=Path, required=True, metavar="DIR", help="the four original MNIST files")
    parser.add_argument("--sources", type=Path, required=True, metavar="DIR", help="what benchmarks.sources wrote")
    parser.add_argument("--storage", help="also count the doubts of the champion in this storage")
    parser.add_argument("--count", type=int, help="measure at most so many pictures of each kind")
    parser.add_argument("--seeds", type=int, help="train models with so many seeds, and count what they reject")
    options = parser.parse_args()
    if options.seeds is not None:
        report_models(options.mnist, options.sources, options.count or 2_000, range(options.seeds))
        return
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
