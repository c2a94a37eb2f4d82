"""Files of pictures -> images as a model's dataset has them. Whatever is in a file, it costs little to refuse.

Pillow's own limits are too wide: it reads 179 million pixels, and formats for which it starts other programs.
"""

import io
import math
import os
import stat
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from mnist_lib.catalog import DATASETS
from mnist_lib.errors import ImageError
from mnist_lib.pictures.ink import Levels, ink_of, laid_out

PICTURE_FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")
SUFFIXES = (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".tif", ".tiff", ".webp", ".pgm", ".ppm", ".pbm")
LARGEST_FILE = 10_000_000  # bytes
MOST_PIXELS = 50_000_000  # of a telephone's largest photos
WORKING_SIDE = 512  # pixels that the longer side of a larger picture is reduced to


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What the pictures of a dataset are like."""

    shape: tuple[int, int]  # height, width
    box: int | None  # pixels of the longer side of what is on them; None: take pictures as they are

    @classmethod
    def of(cls, dataset: str, shape: tuple[int, int], *, as_is: bool = False) -> "Layout":
        return cls(shape=shape, box=None if as_is else max(1, round(DATASETS[dataset].box * min(shape))))


@dataclass(frozen=True)
class Picture:
    """image: [height, width, 1] uint8, as a model takes it; size: width and height of what it was made from."""

    image: NDArray[np.uint8]
    size: tuple[int, int]

    @property
    def resized(self) -> bool:
        height, width, _ = self.image.shape
        return self.size != (width, height)


def find_pictures(named: Iterable[Path]) -> list[Path]:
    """Files as they are named; of folders all that has a picture's suffix, in the order of the paths.

    A folder with none, or that cannot be listed, stands for itself: to read it will tell.
    """
    return [found for path in named for found in (_inside(path) if path.is_dir() else [path])]


def _inside(top: Path) -> list[Path]:
    found: list[Path] = []
    for folder, folders, files in os.walk(top, onerror=lambda error: found.append(Path(error.filename))):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found.extend(Path(folder, name) for name in files if _looks_like_a_picture(name))
    return sorted(found) or [top]


def _looks_like_a_picture(name: str) -> bool:
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def read_pictures(contents: Iterable[bytes | ImageError], layout: Layout) -> list[Picture | ImageError]:
    """In place of each that is none, what is wrong with it."""
    return [content if isinstance(content, ImageError) else _picture_or_error(content, layout) for content in contents]


def content_or_error(path: Path) -> bytes | ImageError:
    try:
        return read_content(path)
    except ImageError as error:
        return error


def _picture_or_error(content: bytes, layout: Layout) -> Picture | ImageError:
    try:
        return read_picture(content, layout)
    except ImageError as error:
        return error


def read_content(path: Path) -> bytes:
    """Raises ImageError for what cannot be read, is no file, or too large a one."""
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            next(path.iterdir(), None)
            raise ImageError(f"expected pictures ({' '.join(SUFFIXES)}), got a folder without any; name the files")
        if not stat.S_ISREG(status.st_mode):
            raise ImageError("expected a file, got something else, such as a pipe; name a file")
        if status.st_size > LARGEST_FILE:
            got = f"{status.st_size / 1e6:,.1f}"
            raise ImageError(f"expected at most {LARGEST_FILE // 10**6} MB, got {got}; scale the picture down")
        return path.read_bytes()
    except FileNotFoundError:
        raise ImageError("expected a file or a folder, got a path at which nothing is; check its spelling") from None
    except (OSError, ValueError) as error:  # a name with a NUL in it is a ValueError
        why = getattr(error, "strerror", None) or error
        raise ImageError(f"expected a file that can be read, got: {why}; check its permissions and its path") from error


def read_picture(content: bytes, layout: Layout) -> Picture:
    """
    Raises:
        ImageError: it is no picture, damaged, too large, or there is nothing on it.
    """
    if not content:
        raise ImageError("expected a picture, got an empty file; copy it again")
    try:
        with warnings.catch_warnings():  # Pillow's, of what is odd in a file
            warnings.simplefilter("ignore")
            plain, size = _decoded(content, whole=layout.box is None)
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(
            f"expected a picture ({', '.join(PICTURE_FORMATS)}), got something else; convert it"
        ) from error
    except Image.DecompressionBombError as error:
        raise _too_many_pixels("far more") from error
    except Exception as error:  # of whatever kind: the decoders have many
        why = " ".join(str(error).split())[:200] or type(error).__name__
        raise ImageError(f"expected a whole picture, got a damaged one ({why}); copy or save it again") from error
    pixels = _as_it_is(plain, layout.shape) if layout.box is None else _framed(plain, layout.shape, layout.box)
    return Picture(pixels[..., None], size)


def _decoded(content: bytes, whole: bool) -> tuple[Image.Image, tuple[int, int]]:
    """In one of the modes F (0-255), L, RGB, RGBA; width and height of the file. `whole`: in every detail."""
    with Image.open(io.BytesIO(content), formats=PICTURE_FORMATS) as image:
        size = image.size
        if math.prod(size) > MOST_PIXELS:
            raise _too_many_pixels("{:,} x {:,}".format(*size))
        if not whole:
            image.draft(image.mode, (WORKING_SIDE, WORKING_SIDE))  # a JPEG is decoded smaller in less time
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        return _plain(image), size


def _plain(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        levels = np.asarray(image).astype(np.float32)
        if image.mode.startswith("I;16"):
            levels /= 257
        else:  # their numbers have no scale
            levels = (levels - levels.min()) * (255 / max(float(np.ptp(levels)), 1e-9))
        return Image.fromarray(levels)
    if image.has_transparency_data:
        return image.convert("RGBA")
    return image.convert("L" if image.mode in ("1", "L") else "RGB")


def _as_it_is(plain: Image.Image, shape: tuple[int, int]) -> NDArray[np.uint8]:
    if plain.mode == "RGBA":
        plain = _on(plain, "black")
    if plain.mode == "RGB":
        plain = plain.convert("L")
    height, width = shape
    grey = np.asarray(
        plain.resize((width, height), Image.Resampling.BICUBIC) if plain.size != (width, height) else plain
    )
    pixels: NDArray[np.uint8] = np.rint(np.clip(grey, 0, 255)).astype(np.uint8)
    if pixels.min() == pixels.max():
        raise ImageError("expected a digit, got a picture of one single colour")
    return pixels


def _framed(plain: Image.Image, shape: tuple[int, int], box: int) -> NDArray[np.uint8]:
    plain = plain.reduce(math.ceil(max(plain.size) / WORKING_SIDE))
    if plain.mode != "RGBA":
        return laid_out(ink_of(_levels(plain)), shape, box)
    try:
        ink = ink_of(_levels(_on(plain, "white")))
    except ImageError:  # white ink on nothing
        ink = ink_of(_levels(_on(plain, "black")))
    return laid_out(ink, shape, box)


def _on(picture: Image.Image, colour: str) -> Image.Image:
    """A transparent one, on paper."""
    return Image.alpha_composite(Image.new("RGBA", picture.size, colour), picture).convert("RGB")


def _levels(plain: Image.Image) -> Levels:
    levels: NDArray[Any] = np.asarray(plain)
    return levels.astype(np.float32).reshape(*levels.shape[:2], -1)


def _too_many_pixels(got: str) -> ImageError:
    return ImageError(f"expected at most {MOST_PIXELS:,} pixels, got {got}; scale the picture down")
