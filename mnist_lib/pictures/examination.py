"""Pictures for people who label them: what identifies a picture, what a model sees of it, and a view of it.

The functions run in a sandbox. Unlike a prediction, they also accept a picture in which a model sees nothing.
"""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mnist_lib.errors import ImageError
from mnist_lib.pictures.reading import Folders, Layout, Picture, decode_picture, hash_of, laid_out, read_content

NO_IMAGE = np.empty((0, 0, 0), np.uint8)


@dataclass(frozen=True)
class View:
    picture: bytes  # PNG
    model_input: bytes | None  # PNG: what the model sees; None if it cannot take the picture


def examine_file(path: Path, layout: Layout, folders: Folders) -> Picture:
    """Return the picture in a file. Raises ImageError as `read_content` and `examine`."""
    return examine(read_content(path, folders), layout)


def examine(content: bytes, layout: Layout) -> Picture:
    """Return a picture with its hash. Raises ImageError if it is damaged, too large or not a picture."""
    plain, size, suffix = decode_picture(content)
    image, likeness, problem = NO_IMAGE, None, ""
    try:
        image, likeness = laid_out(plain, layout)
    except ImageError as error:
        problem = str(error)
    return Picture(image, size, hash_of(plain), likeness, suffix, problem)


def view_file(path: Path, layout: Layout, folders: Folders, max_side: int) -> View:
    """Return a view of the picture in a file, reduced to `max_side` pixels. Raises ImageError as `examine_file`."""
    plain = decode_picture(read_content(path, folders)).plain
    try:
        model_input = png(laid_out(plain, layout)[0])
    except ImageError:
        model_input = None
    if plain.mode == "F":
        plain = plain.convert("L")
    plain.thumbnail((max_side, max_side))
    return View(_encoded(plain), model_input)


def png(image: NDArray[np.uint8]) -> bytes:
    """Return an image, [height, width, channels], as a PNG."""
    return _encoded(Image.fromarray(image[..., 0] if image.shape[2] == 1 else image))


def _encoded(picture: Image.Image) -> bytes:
    content = io.BytesIO()
    picture.save(content, "PNG", compress_level=1)
    return content.getvalue()
