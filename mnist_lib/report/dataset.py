"""A dataset shown to people: its description as a table, its images as pictures."""

import base64
import io
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from rich.console import Group
from rich.table import Table as TextTable
from rich.text import Text

from mnist_lib.catalog import DATASETS
from mnist_lib.data.dataset import Dataset
from mnist_lib.data.embedded import FOLDER as EMBEDDED
from mnist_lib.data.images import blocks
from mnist_lib.data.request import DataRequest
from mnist_lib.data.table import Table
from mnist_lib.pictures.reading import as_picture
from mnist_lib.report.summary import near_copies_summary
from mnist_lib.report.texts import corrections_texts, groups_texts, near_copies_texts, plain_table
from mnist_lib.wording import counted, printable, short_name

EXAMPLES = 10  # of each class, in a picture of examples
REPORT_EXAMPLES = 4  # of each class, in a report
REPORT_CLASSES = 20
REPORT_SIDE = 56  # pixels
# Sizes in pixels of a picture of examples.
MAX_IMAGE_SIDE = 84
GAP = 14
MARGIN = 28
LABEL_WIDTH = 44
TITLE_HEIGHT = 58
FONT_SIZE = 26
COLOURS = {1: "grey", 3: "colour", 4: "colour with transparency"}  # by channels


def describe(dataset: Dataset, data_dir: Path | None, folder: Path | None = None) -> dict[str, Any]:
    """Return a JSON document of both splits.

    Args:
        data_dir: the folder of prepared datasets, or None if it could not be written.
        folder: the folder of pictures that the dataset was read from.
    """
    entry = DATASETS.get(dataset.name)
    if folder is None and entry and entry.embedded:
        folder = EMBEDDED
    elif folder is None and entry and data_dir:
        folder = data_dir / DataRequest(dataset=dataset.name).tfds_name / dataset.version
    splits = (("train", dataset.train), ("test", dataset.test))
    return {
        "name": dataset.name,
        "about": entry.about if entry else f"images of {counted(len(dataset.classes), 'class')}",
        "version": dataset.version,
        "fingerprint": dataset.fingerprint,
        "classes": list(dataset.classes),
        "image_shape": list(dataset.image_shape),
        "prepared_in": str(folder) if folder else None,
        "splits": {name: _describe(split, len(dataset.classes)) for name, split in splits},
        "notices": list(dataset.report.notices),
        "corrections": dataset.report.corrections,
        "groups": dataset.group_counts,
        "near_copies": near_copies_summary(dataset),
    }


def _describe(split: Table, classes: int) -> dict[str, Any]:
    pixels = (np.asarray(split.images[block]) for block in blocks(split.images))
    lowest, highest, sums = zip(*((part.min(), part.max(), part.sum()) for part in pixels), strict=True)
    return {
        "images": len(split),
        "per_class": np.bincount(split.labels, minlength=classes).tolist(),
        "lowest_pixel": int(min(lowest)),
        "highest_pixel": int(max(highest)),
        "mean_pixel": float(sum(sums) / math.prod(split.images.shape)),
    }


def dataset_tables(description: dict[str, Any]) -> Group:
    """Return the description as text and a table with a row for each class."""
    height, width, channels = description["image_shape"]
    splits = description["splits"]
    counts = [
        f"  {name:11}  {split['images']:,} images, pixels {split['lowest_pixel']} to {split['highest_pixel']}"
        f", mean {split['mean_pixel']:.1f}"
        for name, split in splits.items()
    ]
    folder = description["prepared_in"] or "none can be written, so the dataset is prepared again for every run"
    texts = [
        *groups_texts(description["groups"]),
        *corrections_texts(description["corrections"]),
        *near_copies_texts(description["near_copies"]),
        *description["notices"],
    ]
    return Group(
        Text(f"{description['name']} {description['version']}: {description['about']}\n", "bold"),
        *counts,
        f"  image        {height} x {width} pixels, {COLOURS[channels]}",
        Text(f"  folder       {folder}", no_wrap=True, overflow="ignore"),
        Text(f"  fingerprint  {description['fingerprint']}\n", no_wrap=True, overflow="ignore"),
        _classes(description["classes"], splits["train"]["per_class"], splits["test"]["per_class"]),
        *map(Text, ["", *texts] if texts else []),
    )


def _classes(classes: list[str], train: list[int], test: list[int]) -> TextTable:
    table = plain_table("  class", "train", "test")
    for name, in_train, in_test in zip(map(short_name, classes), train, test, strict=True):
        table.add_row(f"  {name}", f"{in_train:,}", f"{in_test:,}")
    return table


def draw_examples(dataset: Dataset, seed: int, path: Path) -> None:
    """Write a PNG of training images with a row for each class, on white; grey images of the catalog are inverted."""
    height, width, channels = dataset.image_shape
    scale = scale_for(height, width)
    font = ImageFont.load_default(FONT_SIZE)
    names = [*map(short_name, dataset.classes)]
    label_width = max(LABEL_WIDTH, GAP + math.ceil(max(map(font.getlength, names))))
    row = max(height * scale, FONT_SIZE) + GAP
    column = width * scale + GAP
    top = MARGIN + TITLE_HEIGHT
    left = MARGIN + label_width
    title = printable(f"{dataset.name} {dataset.version}: training images of each class, seed {seed}")
    total = max(left + EXAMPLES * column - GAP, MARGIN + math.ceil(font.getlength(title))) + MARGIN
    picture = Image.new("RGB", (total, top + len(dataset.classes) * row - GAP + MARGIN), "white")
    draw = ImageDraw.Draw(picture)
    draw.text((MARGIN, MARGIN), title, fill=0, font=font)
    for number, (name, chosen) in enumerate(zip(names, choose(dataset, seed), strict=True)):
        y = top + number * row
        draw.text((MARGIN, y + height * scale / 2), name, fill=0, font=font, anchor="lm")
        for place, image in enumerate(np.asarray(dataset.train.images[chosen])):
            shown = 255 - image if channels == 1 and dataset.name in DATASETS else image
            draw_image(picture, shown, (left + place * column, y), scale)
    picture.save(path, format="PNG", optimize=True)


def scale_for(height: int, width: int) -> int:
    """Return by how much an image is enlarged in a picture: a whole number, so that pixels stay squares."""
    return max(1, MAX_IMAGE_SIDE // max(height, width))


def draw_image(picture: Image.Image, image: NDArray[np.uint8], place: tuple[int, int], scale: int) -> None:
    """Draw an enlarged image, [height, width, channels], whose upper left corner is at `place`."""
    shown = as_picture(image)
    shown = shown.resize((shown.width * scale, shown.height * scale), Image.Resampling.NEAREST)
    picture.paste(shown, place, shown if shown.mode == "RGBA" else None)


def choose(dataset: Dataset, seed: int) -> list[NDArray[np.int64]]:
    """Return indices of `EXAMPLES` random training images of each class, or of all images of a smaller class."""
    generator = np.random.default_rng(seed)
    of_classes = [np.flatnonzero(dataset.train.labels == label) for label in range(len(dataset.classes))]
    orders = [generator.permutation(images) for images in of_classes]
    return [order[:EXAMPLES] for order in orders]


def data_url(image: NDArray[np.uint8]) -> str:
    """Return a PNG of an image, [height, width, channels], as a data: URL."""
    file = io.BytesIO()
    as_picture(image).save(file, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def examples_for_report(dataset: Dataset) -> NDArray[np.uint8]:
    """Return the first images of each class, a column for each class, as one [height, width, channels] image."""
    height, width, _ = dataset.image_shape
    step = -(-max(height, width) // REPORT_SIDE)
    columns = []
    for label in range(min(len(dataset.classes), REPORT_CLASSES)):
        of_class = np.flatnonzero(dataset.train.labels == label)[:REPORT_EXAMPLES]
        chosen = np.asarray(dataset.train.images[of_class])[:, ::step, ::step]
        column = np.zeros((REPORT_EXAMPLES, *chosen.shape[1:]), np.uint8)
        column[: len(chosen)] = chosen
        columns.append(np.concatenate([*column]))
    return np.concatenate(columns, axis=1)
