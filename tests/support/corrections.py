"""Corrections as a person makes them, for pictures of a folder and for images of a dataset."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mnist_lib.data.corrections import Correction, LabelsFile, Reason
from mnist_lib.data.table import hashes_of, text_of
from mnist_lib.documents import Moment
from mnist_lib.objects.local import LocalObjects


def hash_of(image: Any) -> str:
    """Return the hash of an image, [height, width, channels], or of a grey picture, as text."""
    pixels = np.asarray(image)[..., None] if isinstance(image, Image.Image) else np.asarray(image)
    return text_of(hashes_of(pixels[None])[0])


def correction(image: Any, label: str, why: Reason = "random") -> Correction:
    """Return a correction; `image`: as for `hash_of`, or a hash as text."""
    return Correction(
        image=image if isinstance(image, str) else hash_of(image),
        label=label,
        at=Moment("2026-11-27T05:00:00Z"),
        by="ada",
        replaced=None,
        why=why,
    )


def correct(folder: Path, *corrections: Correction) -> None:
    """Append corrections to the file in a folder of pictures."""
    LabelsFile(LocalObjects(folder)).add(corrections)
