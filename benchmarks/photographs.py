"""Accuracy on pictures in colour with and without augmentation, for networks that are trained on 400 of them.

    python -m benchmarks.photographs [--models keras-resnet] [--draws 10]
    python -m benchmarks.photographs --set letters --sources DIR --augments network photos none

The objects of `benchmarks.pictures` are drawn as a camera sees things: with textures, against backgrounds with other
things, at any distance, from several angles, in uneven light, a little out of focus, with noise. For each seed, all
trials have the same pictures. `--set` measures on pictures of `benchmarks.pictures` instead. Two trials run at a time,
with one thread each. `network` is what each network did before there was a choice.
"""

import argparse
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from benchmarks.digits import parser_with_source
from benchmarks.drawings import Random
from benchmarks.few_pictures import _configured
from benchmarks.pictures import NAMES, SCENES, Outline, PictureSet, background, contrasting, image_of, picture_sets
from benchmarks.record import paired_difference_text, setting
from benchmarks.trials import train_trial
from mnist_lib.catalog import MODELS, PICTURE_MODEL
from mnist_lib.data.dataset import Dataset
from mnist_lib.data.prepare import prepare
from mnist_lib.data.request import DataRequest
from mnist_lib.models.pretrained import NOTHING, Pretrained, WeightsFile
from mnist_lib.spec import TrialSpec, defaults_for

SIDE, TRAIN, TEST, DRAWS = 32, 400, 2_000, 10
AUGMENTS = ("network", "none", "digits", "photos", "photos,flip=horizontal")


@dataclass(frozen=True)
class Trial:
    folder: Path
    model: str
    augment: str
    seed: int
    weights: Path | None = None  # a file for `--weights backbone=FILE`


def main() -> None:
    parser = parser_with_source(__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--set", choices=NAMES, help="pictures of benchmarks.pictures (default: photographs)")
    parser.add_argument("--sources", type=Path, help="fonts of the sets, from benchmarks.sources (default: a few)")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=[PICTURE_MODEL])
    parser.add_argument("--augments", nargs="+", default=AUGMENTS, metavar="CHANGES")
    parser.add_argument("--draws", type=int, default=DRAWS, help=f"number of seeds (default: {DRAWS})")
    options = parser.parse_args()
    cells = [(model, augment) for model in options.models for augment in options.augments]
    pictures = picture_sets(options.sources, options.source)[options.set] if options.set else PHOTOGRAPHS
    found = accuracies(pictures, cells, options.draws)
    print(f"{setting(1)}\nn = {options.draws} seeds, two trials at a time.\n")
    print("\n".join(table(found)))


def accuracies(
    pictures: PictureSet, cells: Sequence[tuple[str, str]], draws: int
) -> dict[tuple[str, str], list[float]]:
    """Return the test accuracy in percent for each seed, by network and augmentation. `cells`: these"""
    found: dict[tuple[str, str], list[float]] = {cell: [] for cell in cells}
    with TemporaryDirectory() as home, get_context("spawn").Pool(2) as processes:
        for seed in range(draws):
            folder = Path(home, str(seed), "photographs")
            pictures.write(folder, seed)
            trials = [Trial(folder, *cell, seed) for cell in cells]
            for cell, accuracy in zip(cells, processes.imap(train, trials), strict=True):
                found[cell].append(accuracy)
                print(seed, *cell, f"{accuracy:.2f}%", file=sys.stderr, flush=True)
    return found


def train(trial: Trial) -> float:
    """Return the test accuracy of a trial in percent."""
    resources = _configured()
    dataset = prepared(trial.folder)
    file = WeightsFile.read(trial.weights) if trial.weights else None
    settings: dict[str, Any] = defaults_for(len(dataset.train))
    if file:
        settings["weights"] = {"backbone": file.sha256}
    spec = TrialSpec.of(trial.model, dataset=dataset.name, seed=trial.seed, augment=trial.augment, **settings)
    pretrained = Pretrained({file.sha256: file}) if file else NOTHING
    return 100 * train_trial(spec, dataset, resources, pretrained).record.test_accuracy


def prepared(folder: Path) -> Dataset:
    """Return the pictures in a folder as a dataset, at the size at which they are measured."""
    return prepare(DataRequest(dataset=str(folder), data_dir=folder.parent, image_size=(SIDE, SIDE)))


def table(found: Mapping[tuple[str, str], Sequence[float]]) -> list[str]:
    """Return a Markdown table with a row for each network and augmentation."""
    lines = ["| network | augmentation | accuracy | above `none`, points | above `digits`, points |", "|---" * 5 + "|"]
    for (model, augment), of_cell in found.items():
        above = [
            paired_difference_text([a - b for a, b in zip(of_cell, found[model, other], strict=True)])
            if other != augment and (model, other) in found
            else ""
            for other in ("none", "digits")
        ]
        lines.append(f"| {model} | `{augment}` | {statistics.fmean(of_cell):.2f}% | {' | '.join(above)} |")
    return lines


def photograph(label: int, test: bool, random: Random) -> Image.Image:
    """Return an object of `benchmarks.pictures` as a camera sees it."""
    return photograph_of([*SCENES.values()][label], random)


def photograph_of(outlines: Sequence[Outline], random: Random) -> Image.Image:
    """Return an object as a camera sees it, in 96 x 96 pixels."""
    side = 96
    ground, first = contrasting(random)
    image = image_of(background(side, side, ground, random))
    for _ in range(random.integers(0, 3)):  # other things
        drawing = ImageDraw.Draw(image)
        (x, y), radius = random.uniform(0, side, 2), random.uniform(4, 10)
        colour = tuple(map(int, random.uniform(0, 255, 3)))
        draw = drawing.ellipse if random.random() < 0.5 else drawing.rectangle
        draw((x - radius, y - radius, x + radius, y + radius), colour)
    thing = Image.new("RGBA", (side, side))
    drawing = ImageDraw.Draw(thing)
    colours = [tuple(map(int, first)), tuple(map(int, random.uniform(0, 255, 3)))]
    mirrored = random.random() < 0.5
    for kind, number, points in outlines:
        placed = np.array([(1 - px if mirrored else px, py + random.normal(0, 0.02)) for px, py in points])
        placed = np.sort(placed, axis=0) if kind == "ellipse" else placed
        getattr(drawing, kind)([tuple(point) for point in (placed * (side - 1)).tolist()], fill=colours[number])
    textured = np.asarray(thing).astype(np.float64)
    textured[..., :3] *= 1 + 0.5 * (clouds(side, random, 12)[..., None] - 0.5)
    thing = Image.fromarray(np.clip(textured, 0, 255).astype(np.uint8))
    thing = thing.rotate(random.uniform(-15, 15), Image.Resampling.BICUBIC)
    width, height = (int(random.uniform(0.45, 0.8) * side * each) for each in random.uniform(0.85, 1.15, 2))
    thing = thing.resize((width, height), Image.Resampling.LANCZOS)
    place = [int(random.integers(-5, side - size + 6)) for size in (width, height)]
    image.paste(thing, (place[0], place[1]), thing)
    light = random.uniform(0.6, 1.2) + 0.4 * (clouds(side, random, 2)[..., None] - 0.5)
    lit = np.asarray(image).astype(np.float64) * light + random.normal(0, 10, (side, side, 3))
    image = Image.fromarray(np.clip(lit, 0, 255).astype(np.uint8))
    return image.filter(ImageFilter.GaussianBlur(random.uniform(0, 1)))


def clouds(side: int, random: Random, cells: int) -> NDArray[np.float64]:
    """Return smooth random numbers, 0 to 1, [side, side]."""
    coarse = Image.fromarray((255 * random.random((cells, cells))).astype(np.uint8))
    smooth: NDArray[np.float64] = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC)) / 255
    return smooth


PHOTOGRAPHS = PictureSet(classes=[*SCENES], train=TRAIN, test=TEST, draw=photograph)

if __name__ == "__main__":
    main()
