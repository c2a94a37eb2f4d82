"""Views of pictures for people who label them, and of what a model sees. The functions run in a sandbox."""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mnist_lib.errors import ImageError
from mnist_lib.pictures.reading import Layout, decode_picture, laid_out, read_content


@dataclass(frozen=True)
class View:
    picture: bytes  # PNG
    model_input: bytes | None  # PNG: what the model sees; None if it cannot take the picture


def view_file(path: Path, layout: Layout, max_side: int) -> View:
    """Return a view of the picture in a file, reduced to `max_side` pixels. Raises ImageError as `read_file`."""
    plain = decode_picture(read_content(path)).plain
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
