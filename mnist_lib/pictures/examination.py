"""Pictures for people who label them: what identifies a picture, what a model would see of it, and a view of it.

The functions run in a sandbox. Unlike a prediction, they also accept a picture in which a model sees nothing.
"""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mnist_lib.errors import ImageError
from mnist_lib.pictures.reading import PICTURE_FORMATS, Folders, Layout, decode_picture, hash_of, laid_out, read_content

SUFFIXES = {"JPEG": ".jpg", "TIFF": ".tif"}  # the suffix of another format is its name in lower case


@dataclass(frozen=True)
class Examined:
    sha256: bytes  # of the pixels, as in a dataset; see `split`
    suffix: str  # that files of its format have, whatever the file is called
    image: NDArray[np.uint8] | None  # [height, width, channels], as a model takes it; None: see `problem`
    problem: str = ""  # why a model cannot take it
    likeness: float | None = None  # as in `Picture`

    @property
    def image_hash(self) -> str:
        """The hash of the picture as `split.text_of` writes it."""
        return self.sha256[:16].hex()


@dataclass(frozen=True)
class View:
    picture: bytes  # PNG
    model_input: bytes | None  # PNG: what the model sees; None if it cannot take the picture


def examine_file(path: Path, layout: Layout, folders: Folders) -> Examined:
    """Return what is to be known of the picture in a file. Raises ImageError as `read_content` and `examine`."""
    return examine(read_content(path, folders), layout)


def examine(content: bytes, layout: Layout) -> Examined:
    """Return what is to be known of a picture. Raises ImageError if it is damaged, too large or not a picture."""
    plain, _ = decode_picture(content)
    with Image.open(io.BytesIO(content), formats=PICTURE_FORMATS) as file:
        suffix = SUFFIXES.get(file.format or "", f".{(file.format or 'png').lower()}")
    try:
        image, likeness = laid_out(plain, layout)
        return Examined(hash_of(plain), suffix, image, likeness=likeness)
    except ImageError as error:
        return Examined(hash_of(plain), suffix, None, str(error))


def view_file(path: Path, layout: Layout, folders: Folders, max_side: int) -> View:
    """Return a view of the picture in a file, reduced to `max_side` pixels. Raises ImageError as `examine_file`."""
    plain, _ = decode_picture(read_content(path, folders))
    try:
        model_input = png(laid_out(plain, layout).image)
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
