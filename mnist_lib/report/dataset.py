"""A dataset shown to people: its description as tables, its images as pictures or terminal characters."""

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from rich.bar import Bar
from rich.console import Group
from rich.style import Style
from rich.table import Table
from rich.text import Text

from mnist_lib.catalog import DATASETS, NUM_CLASSES
from mnist_lib.data.split import Dataset, Split

BAR_WIDTH = 20  # characters
EXAMPLES = 10  # of each class, in a picture of examples
REPORT_EXAMPLES = 4  # of each class, in a report
# Sizes in pixels of a picture of examples.
MAX_IMAGE_SIDE = 84
GAP, MARGIN, LABEL_WIDTH, TITLE_HEIGHT, FONT_SIZE = 14, 28, 44, 58, 26
MAX_TERMINAL_SIDE = 16  # columns of an image in a terminal, which shows five side by side


def describe(dataset: Dataset, data_dir: Path | None) -> dict[str, Any]:
    """Return a JSON document of both splits; `data_dir` is the folder of TFDS, None if it could not be written."""
    entry = DATASETS[dataset.name]
    folder = data_dir / entry.tfds_name / dataset.version if data_dir else None
    return {
        "name": dataset.name,
        "about": entry.about,
        "version": dataset.version,
        "fingerprint": dataset.fingerprint,
        "image_shape": list(dataset.image_shape),
        "prepared_in": str(folder) if folder else None,
        "splits": {"train": _describe(dataset.train), "test": _describe(dataset.test)},
    }


def _describe(split: Split) -> dict[str, Any]:
    return {
        "images": len(split),
        "per_class": np.bincount(split.labels, minlength=NUM_CLASSES).tolist(),
        "lowest_pixel": int(split.images.min()),
        "highest_pixel": int(split.images.max()),
        "mean_pixel": float(split.images.mean()),
    }


def dataset_tables(description: dict[str, Any]) -> Group:
    """Return the description as text and a table with a row for each class."""
    height, width, _ = description["image_shape"]
    splits = description["splits"]
    counts = [
        f"  {name:11}  {split['images']:,} images, pixels {split['lowest_pixel']} to {split['highest_pixel']}"
        f", mean {split['mean_pixel']:.1f}"
        for name, split in splits.items()
    ]
    prepared = description["prepared_in"] or "again for every run, since no folder for datasets can be written"
    return Group(
        Text(f"{description['name']} {description['version']}: {description['about']}\n", "bold"),
        *counts,
        f"  image        {height} x {width} pixels, one channel, uint8",
        Text(f"  prepared     {prepared}", no_wrap=True, overflow="ignore"),
        Text(f"  fingerprint  {description['fingerprint']}\n", no_wrap=True, overflow="ignore"),
        _classes(splits["train"]["per_class"], splits["test"]["per_class"]),
    )


def _classes(train: list[int], test: list[int]) -> Table:
    table = Table(box=None, padding=(0, 1))
    table.add_column("class", justify="right")
    for heading in ("train", "test"):
        table.add_column(heading, justify="right")
        table.add_column(min_width=4, max_width=BAR_WIDTH)  # shorter in a narrow terminal
    for label, counts in enumerate(zip(train, test, strict=True)):
        cells: list[Any] = []
        for count, largest in zip(counts, (max(train), max(test)), strict=True):
            cells += [f"{count:,}", Bar(largest, 0, count)]
        table.add_row(str(label), *cells)
    return table


def draw_examples(dataset: Dataset, seed: int, path: Path) -> None:
    """Write a PNG of training images, dark on white, with a row for each class."""
    height, width, _ = dataset.image_shape
    scale = max(1, MAX_IMAGE_SIDE // max(height, width))  # a whole number, so that pixels stay squares
    row, column = height * scale + GAP, width * scale + GAP
    top, left = MARGIN + TITLE_HEIGHT, MARGIN + LABEL_WIDTH
    picture = Image.new("L", (left + EXAMPLES * column - GAP + MARGIN, top + NUM_CLASSES * row - GAP + MARGIN), 255)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(FONT_SIZE)
    title = f"{dataset.name} {dataset.version}: training images of each class, seed {seed}"
    draw.text((MARGIN, MARGIN), title, fill=0, font=font)
    for label, chosen in enumerate(choose(dataset.train, seed)):
        y = top + label * row
        draw.text((MARGIN, y + height * scale / 2), str(label), fill=0, font=font, anchor="lm")
        for place, image in enumerate(255 - dataset.train.images[chosen, :, :, 0]):
            picture.paste(Image.fromarray(image.repeat(scale, 0).repeat(scale, 1)), (left + place * column, y))
    picture.save(path, format="PNG", optimize=True)


def examples_as_text(dataset: Dataset, seed: int, columns: int = 80) -> Text:
    """Return the first image of each class from `draw_examples` as text, light on dark, two pixels per character.

    Args:
        columns: width of the terminal; up to five images stand side by side.
    """
    images = dataset.train.images[[chosen[0] for chosen in choose(dataset.train, seed)], :, :, 0]
    if images.shape[2] > MAX_TERMINAL_SIDE:
        count, height, width = images.shape
        images = images.reshape(count, height // 2, 2, width // 2, 2).mean(axis=(2, 4)).astype(np.uint8)
    text = Text()
    per_row = min(5, max(1, columns // (images.shape[2] + 2)))
    for begin in range(0, len(images), per_row):
        row = images[begin : begin + per_row]
        strip = np.concatenate(np.pad(row, [(0, 0), (0, 0), (0, 2)]), axis=1)  # [height, total width]
        for upper, lower in zip(strip[::2].tolist(), strip[1::2].tolist(), strict=True):
            for a, b in zip(upper, lower, strict=True):
                text.append("▀", Style(color=f"rgb({a},{a},{a})", bgcolor=f"rgb({b},{b},{b})"))
            text.append("\n")
        text.append("\n")
    return text


def choose(split: Split, seed: int) -> list[NDArray[np.int64]]:
    """Return indices of `EXAMPLES` random images of each class, or of all images of a smaller class."""
    generator = np.random.default_rng(seed)
    orders = [generator.permutation(np.flatnonzero(split.labels == label)) for label in range(NUM_CLASSES)]
    return [order[:EXAMPLES] for order in orders]


def data_url(image: NDArray[np.uint8]) -> str:
    """Return a PNG of an image, [height, width, 1], as a data: URL."""
    file = io.BytesIO()
    Image.fromarray(image[:, :, 0]).save(file, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def examples_for_report(train: Split) -> NDArray[np.uint8]:
    """Return the first images of each class, a column for each class, as one [height, width, 1] image."""
    indices = [np.flatnonzero(train.labels == label)[:REPORT_EXAMPLES] for label in range(NUM_CLASSES)]
    return np.concatenate([np.concatenate([*train.images[column]]) for column in indices], axis=1)
