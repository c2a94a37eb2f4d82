"""Read picture files as images like those of a dataset; any file quickly gives an image or an error.

Pillow's own limits are too wide: it reads 179 million pixels, and formats for which it starts other programs.
"""

import contextlib
import hashlib
import io
import math
import os
import stat
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from mnist_lib.catalog import DATASETS, MAX_PICTURE_BYTES, PICTURE_SUFFIXES
from mnist_lib.errors import ImageError
from mnist_lib.pictures import rejecting
from mnist_lib.pictures.ink import Levels, NoInkError, centre, find_ink

SUFFIXES = {"JPEG": ".jpg", "TIFF": ".tif"}  # the suffix of another format is its name in lower case
PICTURE_FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")
MAX_PIXELS = 50_000_000  # as in the largest photos of phones
WORKING_SIDE = 512  # pixels: the longer side of a larger picture is reduced to about this

GREY_MODES = ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "F")
ORIENTATION = 0x0112  # the EXIF tag

# What files of these formats begin with. A file that does, and is not recognised, is a damaged picture.
BEGINNINGS = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"RIFF")
TOO_LARGE = f"expected at most {MAX_PIXELS:,} pixels, got {{}}; scale the picture down"

NO_IMAGE = np.empty((0, 0, 0), np.uint8)


class Shape(NamedTuple):
    height: int
    width: int
    channels: int  # 1: grey, 3: RGB, 4: RGB and transparency


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How the images of a dataset are laid out.

    A `digit` is light on dark, cropped to its ink and centred. Any other picture keeps its colours; if its proportions
    are others, its edges are cropped.
    """

    shape: Shape
    digit: bool = False
    box: int | None = None  # pixels of the longer side of a digit; None: it is neither cropped nor inverted
    judged: bool = False  # whether to measure how much a picture looks like one digit

    @classmethod
    def of(cls, dataset: str, shape: Shape, *, as_is: bool = False, accept_all: bool = False) -> "Layout":
        """Return the layout of a dataset. One that is not in the catalog is a folder of pictures.

        With `accept_all`, no picture is judged. Without it, pictures are judged if the classes are the ten digits.
        """
        if dataset not in DATASETS:
            return cls(shape=shape)
        box = None if as_is else max(1, round(DATASETS[dataset].box * min(shape.height, shape.width)))
        return cls(shape=shape, digit=True, box=box, judged=DATASETS[dataset].shows_digits and not accept_all)


@dataclass(frozen=True)
class Picture:
    image: NDArray[np.uint8]  # [height, width, channels], 0-255, as a model takes it
    size: tuple[int, int]  # width and height of the file's picture
    sha256: bytes = b""  # of the size and the colours of all pixels, whatever the format of the file
    likeness: float | None = None  # to one digit, see `rejection`; None if the picture was not judged
    suffix: str = ""  # that files of its format have, whatever the file is called
    problem: str = ""  # with `for_people`: why a model cannot take the picture; then `image` is empty
    content: bytes = b""  # the first 16 bytes of a hash of the file's content

    @property
    def resized(self) -> bool:
        height, width, _ = self.image.shape
        return self.size != (width, height)


def read_file(path: Path, layout: Layout, *, for_people: bool = False) -> Picture:
    """Return the picture in a file. Raises ImageError as `read_content` and `read_picture`."""
    return read_picture(read_content(path), layout, for_people=for_people)


def read_content(path: Path) -> bytes:
    """Return the content of a file, or raise ImageError if it is too large, unreadable or not a file."""
    size = size_of(path)
    with _image_errors(), open(path, "rb", opener=_open) as file:
        content: bytes = file.read(size + 1) or b""  # None: no data yet, in some files of the kernel
    if len(content) != size:  # the kernel also makes up files, such as those in /proc
        got = "more" if len(content) > size else f"{len(content):,}"
        raise ImageError(f"expected the {size:,} bytes of a file, got {got}; wait until it is written")
    return content


def size_of(path: Path) -> int:
    """Return the size of a file in bytes, without opening it, or raise ImageError as `read_content`."""
    with _image_errors():
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            next(path.iterdir(), None)
            raise ImageError(
                f"expected pictures ({' '.join(PICTURE_SUFFIXES)}), got a folder without any; name the files"
            )
    if not stat.S_ISREG(status.st_mode):
        raise ImageError("expected a file, got a device, a pipe or a socket; name a file")
    if status.st_size > MAX_PICTURE_BYTES:
        got = f"{status.st_size / 1e6:,.1f}"
        raise ImageError(f"expected at most {MAX_PICTURE_BYTES // 10**6} MB, got {got}; scale the picture down")
    return status.st_size


@contextlib.contextmanager
def _image_errors() -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise ImageError("expected a file or a folder, got a path that does not exist; check its spelling") from None
    except ImageError:
        raise
    except (OSError, ValueError) as error:  # ValueError: the path contains a NUL
        reason = getattr(error, "strerror", None) or error
        raise ImageError(f"expected a file that can be read, got: {reason}; check its path and permissions") from error


def _open(path: str, flags: int) -> int:
    """Open a file without waiting, even if it has become a pipe."""
    return os.open(path, flags | os.O_NONBLOCK)


def read_picture(content: bytes, layout: Layout, *, for_people: bool = False) -> Picture:
    """Return the picture in the content of a file: the one way to train on a picture, to predict and to review it.

    A digit is hashed only for people, who label it. If a model sees nothing in a picture, people get the picture with a
    `problem`; anyone else gets an ImageError.

    Raises:
        ImageError: it is damaged, too large, blank or not a picture.
    """
    hashed = for_people or not layout.digit
    plain, size, suffix = decode_picture(content, reduce=not hashed and layout.box is not None)
    image = NO_IMAGE
    likeness = None
    problem = ""
    try:
        image, likeness = laid_out(plain, layout)
    except ImageError as error:
        if not for_people:
            raise
        problem = str(error)
    of_content = hashlib.blake2b(content, digest_size=16).digest()
    return Picture(image, size, hash_of(plain) if hashed else b"", likeness, suffix, problem, of_content)


class DecodedPicture(NamedTuple):
    plain: Image.Image  # in mode F (0-255), L, RGB or RGBA
    size: tuple[int, int]  # as in `Picture`
    suffix: str


def decode_picture(content: bytes, *, reduce: bool = False) -> DecodedPicture:
    """Return the picture in the content of a file.

    With `reduce`, a JPEG may be decoded at a smaller size, which is faster.

    Raises:
        ImageError: it is damaged, too large or not a picture.
    """
    if not content:
        raise ImageError("expected a picture, got an empty file; copy it again")
    try:
        with warnings.catch_warnings():  # Pillow warns about unusual files
            warnings.simplefilter("ignore")
            return _decoded(content, reduce)
    except (ImageError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        if content.startswith(BEGINNINGS):
            raise ImageError("expected a complete picture, got a damaged one; copy or save it again") from error
        formats = ", ".join(PICTURE_FORMATS)
        raise ImageError(f"expected a picture ({formats}), got something else; convert it") from error
    except Image.DecompressionBombError as error:
        raise ImageError(TOO_LARGE.format("far more")) from error
    except Exception as error:  # each decoder raises its own exceptions
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ImageError(f"expected a complete picture, got a damaged one ({reason}); copy or save it again") from error


def laid_out(plain: Image.Image, layout: Layout) -> tuple[NDArray[np.uint8], float | None]:
    """Return a decoded picture as a model takes it, and its likeness to one digit. Raises ImageError if it is blank."""
    if not layout.digit:
        return fitted(_with_bytes(plain), layout.shape), None
    grey, likeness = _as_is(plain, layout) if layout.box is None else _centred(plain, layout, layout.box)
    return grey[..., None].repeat(layout.shape.channels, axis=2), likeness


def shape_of(path: Path) -> Shape:
    """Return the shape of the picture in a file, whose pixels are not decoded. Raises an error of any kind."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(io.BytesIO(read_content(path)), formats=PICTURE_FORMATS) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise ImageError(TOO_LARGE.format(f"{width:,} x {height:,}"))
            exif = Image.Exif()
            exif.load(image.info.get("exif", b""))  # `getexif` would decode a PNG
            if exif.get(ORIENTATION, 1) > 4:  # a photo that lies on its side
                width, height = height, width
            return Shape(height, width, 4 if image.has_transparency_data else 1 if image.mode in GREY_MODES else 3)


def _decoded(content: bytes, reduce: bool) -> DecodedPicture:
    with Image.open(io.BytesIO(content), formats=PICTURE_FORMATS) as image:
        if math.prod(image.size) > MAX_PIXELS:
            raise ImageError(TOO_LARGE.format("{:,} x {:,}".format(*image.size)))
        size, form = image.size, image.format or "PNG"
        if reduce:
            image.draft(image.mode, (WORKING_SIDE, WORKING_SIDE))
        image.load()
        turned = image.getexif().get(ORIENTATION, 1) > 4  # a photo that lies on its side
        ImageOps.exif_transpose(image, in_place=True)
        suffix = SUFFIXES.get(form, f".{form.lower()}")
        return DecodedPicture(_plain(image), size[::-1] if turned else size, suffix)


def _plain(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        levels = np.asarray(image).astype(np.float32)
        if image.mode.startswith("I;16"):
            levels /= 257
        else:  # these modes have no fixed range
            low, high = float(levels.min()), float(levels.max())
            if not math.isfinite(high - low):
                raise ImageError(
                    "expected a number for each pixel, got infinity or NaN; save it with 8 bits per channel"
                )
            # Halved, since the difference of two numbers may be too large for their type.
            levels /= 2
            levels -= low / 2
            levels *= 510 / max(high - low, 1e-9)
        return Image.fromarray(levels)
    if image.has_transparency_data:
        return image.convert("RGBA")
    return image.convert("L" if image.mode in ("1", "L") else "RGB")


def _as_is(plain: Image.Image, layout: Layout) -> tuple[NDArray[np.uint8], float | None]:
    """Return the grey image, and its likeness to one digit. All that is light counts as ink."""
    if plain.mode == "RGBA":
        plain = _on(plain, "black")
    if plain.mode == "RGB":
        plain = plain.convert("L")
    if plain.size != (layout.shape.width, layout.shape.height):
        plain = plain.resize((layout.shape.width, layout.shape.height), Image.Resampling.BICUBIC)
    pixels: NDArray[np.uint8] = np.rint(np.clip(np.asarray(plain), 0, 255)).astype(np.uint8)
    if pixels.min() == pixels.max():
        raise ImageError("expected a digit, got a picture of a single colour; use another picture")
    ink = (pixels / pixels.max()).astype(np.float32)
    return pixels, rejecting.likeness_of(ink) if layout.judged else None


def as_picture(image: NDArray[np.uint8]) -> Image.Image:
    """Return an image, [height, width, channels], as a picture in mode L, RGB or RGBA."""
    return Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)


def fitted(plain: Image.Image, shape: Shape) -> NDArray[np.uint8]:
    """Return the picture in its colours, on white where it is transparent, scaled and cropped to the shape."""
    if plain.mode == "RGBA" and shape.channels < 4:
        plain = _on(plain, "white")
    plain = plain.convert({1: "L", 3: "RGB", 4: "RGBA"}[shape.channels])
    if plain.size != (shape.width, shape.height):
        plain = ImageOps.fit(plain, (shape.width, shape.height), Image.Resampling.BICUBIC)
    return np.asarray(plain).reshape(shape)


def _with_bytes(plain: Image.Image) -> Image.Image:
    """Convert a picture of mode F, 0-255, to mode L; return any other picture unchanged."""
    if plain.mode != "F":
        return plain
    levels = np.clip(np.asarray(plain), 0, 255)
    return Image.fromarray(np.rint(levels, out=levels).astype(np.uint8))


def hash_of(plain: Image.Image) -> bytes:
    """Return the sha256 of the size and the colours of a decoded picture."""
    plain = _with_bytes(plain)
    digest = hashlib.sha256(f"{plain.size}".encode())
    digest.update(plain.convert("RGBA").tobytes())
    return digest.digest()


def _centred(plain: Image.Image, layout: Layout, box: int) -> tuple[NDArray[np.uint8], float | None]:
    """Return the image with the ink centred, and its likeness to one digit."""
    shape = (layout.shape.height, layout.shape.width)
    plain = plain.reduce(math.ceil(max(plain.size) / WORKING_SIDE))
    try:
        ink = _ink(plain)
    except NoInkError:
        if not layout.judged:
            raise
        return fitted(_with_bytes(plain), Shape(*shape, channels=1))[..., 0], 0.0
    image = centre(ink, shape, box)
    if not layout.judged:
        return image, None
    return image, rejecting.likeness_of(ink, image if (shape, box) == (rejecting.SHAPE, rejecting.BOX) else None)


def _ink(plain: Image.Image) -> Levels:
    if plain.mode != "RGBA":
        return find_ink(_levels(plain))
    try:
        return find_ink(_levels(_on(plain, "white")))
    except ImageError:  # white ink cannot be seen on white
        return find_ink(_levels(_on(plain, "black")))


def _on(picture: Image.Image, colour: str) -> Image.Image:
    """Put a transparent picture on paper of that colour."""
    return Image.alpha_composite(Image.new("RGBA", picture.size, colour), picture).convert("RGB")


def _levels(plain: Image.Image) -> Levels:
    levels: NDArray[Any] = np.asarray(plain)
    return levels.astype(np.float32).reshape(*levels.shape[:2], -1)
