"""Digits as small PNG files within a page: white ink on black, as in the data; a light page inverts them by CSS."""

import base64
import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mnist_lib.catalog import NUM_CLASSES
from mnist_lib.data.split import Split

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
