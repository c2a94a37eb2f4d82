"""Pictures of digits as people make them: of any size, ink and paper, anywhere on the sheet, in many file formats."""

import io
import struct
import zlib

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# (mode, format) of the saved files.
KINDS = (
    ("RGB", "PNG"),
    ("RGB", "JPEG"),
    ("L", "PNG"),
    ("RGBA", "PNG"),
    ("P", "GIF"),
    ("LA", "PNG"),
    ("CMYK", "JPEG"),
    ("I;16", "TIFF"),
    ("1", "PNG"),
    ("RGB", "WEBP"),
)


def drawn(digit: NDArray[np.uint8], number: int) -> bytes:
    """Return a file with a picture of the digit.

    Args:
        digit: [28, 28] uint8, 0-255, light on dark.
        number: random seed, which also chooses the kind.
    """
    random = np.random.default_rng(number)
    mode, format = KINDS[number % len(KINDS)]
    side = int(random.integers(40, 801))
    ink = Image.fromarray(digit).resize((side, side), Image.Resampling.BICUBIC)
    height, width = (int(side * factor) for factor in random.uniform(1.0, 2.0, 2))
    sheet = np.zeros((height, width), np.float32)
    top, left = int(random.integers(height - side + 1)), int(random.integers(width - side + 1))
    sheet[top : top + side, left : left + side] = np.asarray(ink, np.float32) / 255
    return saved(painted(sheet, random, plain=mode in ("1", "P")), mode, format)


def painted(sheet: NDArray[np.float32], random: np.random.Generator, plain: bool = False) -> NDArray[np.uint8]:
    """Return [height, width, 3] uint8: coloured ink on coloured paper, with the noise and uneven light of a camera.

    Args:
        sheet: [height, width] in [0, 1], 1 where there is ink.
        plain: without noise and uneven light.
    """
    width = sheet.shape[1]
    dark, light = random.uniform(0, 80, 3), random.uniform(170, 255, 3)
    paper, ink = (light, dark) if random.random() < 0.5 else (dark, light)
    coloured = paper + sheet[..., None] * (ink - paper)
    if not plain:
        coloured *= np.linspace(1, random.uniform(0.7, 1), width)[:, None]
        coloured += random.normal(0, random.uniform(0, 6), coloured.shape)
    pixels: NDArray[np.uint8] = np.clip(coloured, 0, 255).astype(np.uint8)
    return pixels


def saved(pixels: NDArray[np.uint8], mode: str, format: str) -> bytes:
    image = Image.fromarray(pixels)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    elif mode == "1":
        image = image.convert("L").point(lambda level: 255 * (level > 125), "1")
    else:
        image = image.convert(mode)
    content = io.BytesIO()
    image.save(content, format)
    return content.getvalue()


def png(pixels: NDArray[np.uint8]) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


def header_only(width: int, height: int) -> bytes:
    """Return a PNG without pixels, whose header declares the given size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
