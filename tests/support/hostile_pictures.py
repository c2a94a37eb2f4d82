"""Picture files that attack their reader, and functions that a sandbox calls to read them."""

import functools
import io
import os
import signal
import time
from typing import Any

import numpy as np
from PIL import Image

from mnist_lib.errors import ImageError
from mnist_lib.pictures.reading import Layout, Picture, Shape, read_picture

DIGIT, AS_IS = Layout.of("mnist", Shape(28, 28, 1)), Layout.of("mnist", Shape(28, 28, 1), as_is=True)
COLOUR = Layout(shape=Shape(32, 24, 3))


def content_of(image: Image.Image, format: str, **options: Any) -> bytes:
    content = io.BytesIO()
    image.save(content, format, **options)
    return content.getvalue()


@functools.cache
def many_scans(side: int = 4_000, scans: int = 4_000) -> bytes:
    """Return a progressive JPEG whose last scan is repeated: some 500 kB that take minutes to decode."""
    content = content_of(Image.new("L", (side, side), 128), "JPEG", progressive=True)
    return content[:-2] + content[content.rindex(b"\xff\xda") : -2] * scans + content[-2:]


def of_numbers(*values: float) -> bytes:
    """Return a TIFF of 32-bit numbers, in which these are repeated."""
    return content_of(Image.fromarray(np.resize(np.array(values, np.float32), (20, 30))), "TIFF")


def read_in_each_layout(content: bytes) -> list[str]:
    """Return the shape of a picture in each layout, or the error. Raises any exception that is not an ImageError."""
    outcomes = []
    for layout in (DIGIT, AS_IS, COLOUR):
        try:
            outcomes.append(str(read_picture(content, layout).image.shape))
        except ImageError as error:
            outcomes.append(str(error))
    return outcomes


def read_within(content: bytes, seconds: float) -> Picture:
    """Read a picture with a tighter limit than a sandbox sets, so that tests need not wait for that."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
    return read_picture(content, COLOUR)


def end_by(number: int) -> int:
    """End the process by signal `number`, or with exit code `-number` if it is negative; return 0 for 0."""
    if number > 0:
        os.kill(os.getpid(), number)
    if number < 0:
        os._exit(-number)
    return 0


def allocate(num_bytes: int) -> int:
    return int(np.ones(num_bytes, np.uint8)[-1])


def seeds() -> dict[str, bytes]:
    """Return a small picture in each format and mode that decoders treat differently."""
    random = np.random.default_rng(0)
    grey = np.tile(np.linspace(0, 255, 24), (16, 1)).astype(np.uint8)
    grey[4:12, 6:10] = random.integers(0, 256, (8, 4))
    colour = Image.fromarray(np.stack([grey, grey[::-1], 255 - grey], axis=-1))
    plain, deep = Image.fromarray(grey), Image.fromarray(grey.astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[0x0112] = 6
    return {
        "png-rgb": content_of(colour, "PNG", exif=exif),
        "png-p": content_of(colour.convert("P"), "PNG", transparency=3),
        "png-la": content_of(colour.convert("LA"), "PNG"),
        "png-16": content_of(deep, "PNG"),
        "png-animated": content_of(plain, "PNG", save_all=True, append_images=[plain.rotate(90)]),
        "jpeg": content_of(colour, "JPEG", exif=exif),
        "jpeg-progressive": content_of(plain, "JPEG", progressive=True),
        "jpeg-cmyk": content_of(colour.convert("CMYK"), "JPEG"),
        "gif": content_of(plain, "GIF", save_all=True, append_images=[plain.rotate(90)], transparency=0),
        "bmp": content_of(colour, "BMP"),
        "bmp-p": content_of(plain, "BMP"),
        "bmp-1": content_of(plain.convert("1"), "BMP"),
        "tiff": content_of(colour, "TIFF", exif=exif),
        "tiff-lzw": content_of(colour, "TIFF", compression="tiff_lzw"),
        "tiff-jpeg": content_of(colour, "TIFF", compression="jpeg"),
        "tiff-fax": content_of(plain.convert("1"), "TIFF", compression="group4"),
        "tiff-f": content_of(plain.convert("F"), "TIFF"),
        "tiff-i": content_of(plain.convert("I"), "TIFF"),
        "tiff-16": content_of(deep, "TIFF", compression="tiff_adobe_deflate"),
        "webp": content_of(colour, "WEBP"),
        "webp-lossless": content_of(colour.convert("RGBA"), "WEBP", lossless=True),
        "ppm": content_of(colour, "PPM"),
        "ppm-16": content_of(deep.convert("I"), "PPM"),
        "ppm-plain": b"P3 4 3 255\n" + b" ".join(b"%d" % value for value in range(36)),
        "pbm": content_of(plain.convert("1"), "PPM"),
    }


def view_slowly(path: Any, **_: Any) -> Any:
    """Take as long as a picture that is slow to decode. Replaces `view_file`."""
    time.sleep(2.0)
    raise ImageError(f"{path}: expected a fast picture, got a slow one")
