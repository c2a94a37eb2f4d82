"""Some images of each class: as a picture, or as the characters of a terminal."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from rich.style import Style
from rich.text import Text

from mnist_lib.catalog import NUM_CLASSES
from mnist_lib.data.split import Dataset, Split

EXAMPLES = 10  # of each class
# In pixels of the picture.
IMAGE_SIDE = 84  # at most; a pixel of an image is a whole number of these
GAP, MARGIN, LABELS, TITLE, FONT = 14, 28, 44, 58, 26
MOST_COLUMNS = 16  # of an image in a terminal, in which five are beside each other


def draw_examples(dataset: Dataset, seed: int, to: Path) -> None:
    """Writes a PNG of training images, a row for each class, as ink on paper: 255 is black."""
    height, width, _ = dataset.image_shape
    scale = max(1, IMAGE_SIDE // max(height, width))
    row, column = height * scale + GAP, width * scale + GAP
    paper = np.full(
        (TITLE + NUM_CLASSES * row - GAP + 2 * MARGIN, LABELS + EXAMPLES * column - GAP + 2 * MARGIN), 255, np.uint8
    )
    top, left = MARGIN + TITLE, MARGIN + LABELS
    for label, chosen in enumerate(choose(dataset.train, seed)):
        for place, image in enumerate(dataset.train.images[chosen, :, :, 0]):
            y, x = top + label * row, left + place * column
            paper[y : y + height * scale, x : x + width * scale] = 255 - image.repeat(scale, 0).repeat(scale, 1)
    picture = Image.fromarray(paper)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(FONT)
    title = f"{dataset.name} {dataset.version}: training images of each class, seed {seed}"
    draw.text((MARGIN, MARGIN), title, fill=0, font=font)
    for label in range(NUM_CLASSES):
        middle = top + label * row + height * scale / 2
        draw.text((MARGIN, middle), str(label), fill=0, font=font, anchor="lm")
    picture.save(to, format="PNG", optimize=True)


def examples_as_text(dataset: Dataset, seed: int) -> Text:
    """The first of each class that `draw_examples` shows, light on dark, two pixels a character."""
    images = dataset.train.images[[chosen[0] for chosen in choose(dataset.train, seed)], :, :, 0]
    if images.shape[2] > MOST_COLUMNS:
        count, height, width = images.shape
        images = images.reshape(count, height // 2, 2, width // 2, 2).mean(axis=(2, 4)).astype(np.uint8)
    text = Text()
    for line in np.split(images, 2):
        strip = np.concatenate(np.pad(line, [(0, 0), (0, 0), (0, 2)]), axis=1)  # [height, width of all]
        for upper, lower in zip(strip[::2].tolist(), strip[1::2].tolist(), strict=True):
            for a, b in zip(upper, lower, strict=True):
                text.append("▀", Style(color=f"rgb({a},{a},{a})", bgcolor=f"rgb({b},{b},{b})"))
            text.append("\n")
        text.append("\n")
    return text


def choose(split: Split, seed: int) -> list[NDArray[np.int64]]:
    """For each class the indices of `EXAMPLES` of its images, or of all if it has fewer."""
    generator = np.random.default_rng(seed)
    orders = [generator.permutation(np.flatnonzero(split.labels == label)) for label in range(NUM_CLASSES)]
    return [order[:EXAMPLES] for order in orders]


SAMPLES = 4  # of each digit


def data_url(image: NDArray[np.uint8]) -> str:
    """image: [height, width, 1]"""
    file = io.BytesIO()
    Image.fromarray(image[:, :, 0]).save(file, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def sample_of(train: Split) -> NDArray[np.uint8]:
    """The first images of each digit, a column each, as one image: [SAMPLES * height, classes * width, 1]."""
    columns: Sequence[NDArray[np.uint8]] = [
        np.concatenate([*train.images[np.flatnonzero(train.labels == digit)[:SAMPLES]]]) for digit in range(NUM_CLASSES)
    ]
    return np.concatenate(columns, axis=1)
