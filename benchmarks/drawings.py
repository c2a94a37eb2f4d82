"""Pictures with and without digits: letters and digits of fonts, digits in a row, photographs, noise and shapes.

All are light on dark, [height, width] uint8, except photographs and noise, [height, width, channels]. The same seed
gives the same pictures.
"""

import gzip
import string
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

Pixels = NDArray[np.uint8]
Random = np.random.Generator

LETTERS = string.ascii_letters
AMBIGUOUS = "OoIlZzSsBbqg"  # drawn like 0, 1, 2, 5, 8, 6 and 9 in many fonts and hands
OTHER_SIGNS = "+?&#@$%=*<>!{}~^ÄÉÑßøæÆΓΔΘΛΞΠΣΦΨΩαβγδεζηθλμνξπρστφχψωБГДЖИЙЛПФЦЧШЩЪЫЬЭЮЯбвгджийклмптфцчшщъыьэюя"
GLYPH_SIZE = 64  # pixels: the height of a line of text
CANVAS = 112  # pixels: the side of a varied picture
STEP = 3  # pixels of an enlarged MNIST digit per pixel of the original
MIN_SIDE = 28


def font_files(folder: Path, limits: Mapping[str, int], limit: int, random: Random) -> list[Path]:
    """Return random font files: at most `limits[family]` or `limit` of each folder below this one."""
    chosen: list[Path] = []
    for family in sorted(path for path in folder.iterdir() if path.is_dir()):
        files = sorted(path for path in family.iterdir() if path.suffix.lower() in (".ttf", ".otf"))
        chosen += [files[i] for i in sorted(random.permutation(len(files))[: limits.get(family.name, limit)])]
    return chosen


def glyphs(font_file: Path, characters: str, size: int = GLYPH_SIZE) -> dict[str, Pixels]:
    """Return the pictures of the characters that the font has; none if it cannot be read or draws many the same."""
    try:
        font = ImageFont.truetype(font_file, size)
        missing = {picture.tobytes() for sign in "\uffff\ue0ff" if (picture := _glyph(font, sign)) is not None}
        drawn = {sign: picture for sign in characters if (picture := _glyph(font, sign)) is not None}
    except (OSError, ValueError):
        return {}
    drawn = {sign: picture for sign, picture in drawn.items() if picture.tobytes() not in missing}
    return drawn if len({picture.tobytes() for picture in drawn.values()}) > 0.8 * len(drawn) else {}


def _glyph(font: ImageFont.FreeTypeFont, sign: str) -> Pixels | None:
    left, top, right, bottom = map(round, font.getbbox(sign))
    if not (6 <= right - left <= 6 * GLYPH_SIZE and 6 <= bottom - top <= 6 * GLYPH_SIZE):
        return None
    image = Image.new("L", (right - left + 40, bottom - top + 40))
    ImageDraw.Draw(image).text((20 - left, 20 - top), sign, 255, font)
    pixels = np.asarray(image)
    return pixels if pixels.max() > 128 else None


def varied(picture: Pixels, random: Random, strength: float = 1.0) -> Pixels:
    """Return the picture turned, slanted, bent, with lines of another width, and blurred, as a hand varies it."""
    image = Image.fromarray(cropped(picture))
    scale = 0.7 * CANVAS / max(image.size)
    image = image.resize((max(8, round(image.width * scale)), max(8, round(image.height * scale))))
    canvas = Image.new("L", (CANVAS, CANVAS))
    canvas.paste(image, ((CANVAS - image.width) // 2, (CANVAS - image.height) // 2))
    angle, shear = np.radians(random.normal(0, 7 * strength)), random.normal(0, 0.15 * strength)
    narrowing = 1 / min(np.exp(random.normal(0, 0.12 * strength)), 1.2)
    cosine, sine = np.cos(angle), np.sin(angle)
    y, x = np.mgrid[:CANVAS, :CANVAS].astype(np.float32) - CANVAS / 2
    bends = random.normal(0, random.uniform(0, 5) * strength, (2, 5, 5)).astype(np.float32)
    bent_y, bent_x = (np.asarray(Image.fromarray(bend).resize((CANVAS, CANVAS))) for bend in bends)
    from_x = narrowing * cosine * x + (shear * cosine - sine) * y + bent_x
    from_y = narrowing * sine * x + (shear * sine + cosine) * y + bent_y
    rows, columns = (np.clip(np.rint(at + CANVAS / 2), 0, CANVAS - 1).astype(np.intp) for at in (from_y, from_x))
    canvas = Image.fromarray(np.asarray(canvas)[rows, columns])
    match random.integers(5):
        case 1:
            canvas = canvas.filter(ImageFilter.MaxFilter(3))
        case 2:
            canvas = canvas.filter(ImageFilter.MaxFilter(5))
        case 3:
            thin = canvas.filter(ImageFilter.MinFilter(3))
            if np.asarray(thin).sum() > 0.4 * np.asarray(canvas).sum():
                canvas = thin
    if random.random() < 0.5:
        canvas = canvas.filter(ImageFilter.GaussianBlur(random.uniform(0.5, 2)))
    return np.asarray(canvas)


def enlarged(digit: Pixels) -> Pixels:
    """Return an MNIST digit at three times its size, cropped to its ink."""
    height, width = digit.shape
    return cropped(np.asarray(Image.fromarray(digit).resize((STEP * width, STEP * height))))


def cropped(picture: Pixels) -> Pixels:
    inked = picture > 60
    rows, columns = np.flatnonzero(inked.any(axis=1)), np.flatnonzero(inked.any(axis=0))
    return picture[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def in_row(parts: Sequence[Pixels], random: Random, gaps: tuple[float, float]) -> Pixels:
    """Return cropped pictures side by side.

    Args:
        gaps: the least and the greatest distance between two, in pixels of MNIST; below 0 they overlap.
    """
    distances = [*(round(STEP * gap) for gap in random.uniform(*gaps, len(parts) - 1)), 0]
    height = max(len(part) for part in parts) + 40
    row = np.zeros((height, sum(part.shape[1] for part in parts) + sum(max(gap, 0) for gap in distances)), np.uint8)
    left = 0
    for part, gap in zip(parts, distances, strict=True):
        top = int(np.clip((height - len(part)) / 2 + random.normal(0, 4), 0, height - len(part)))
        place = row[top : top + len(part), left : left + part.shape[1]]
        np.maximum(place, part, out=place)
        left = max(0, left + part.shape[1] + gap)
    return cropped(np.pad(row, 1))


def same_height(parts: Sequence[Pixels], height: int = 60) -> list[Pixels]:
    return [
        np.asarray(Image.fromarray(part).resize((max(4, round(part.shape[1] * height / len(part))), height)))
        for part in parts
    ]


def photographs(folder: Path) -> list[Image.Image]:
    """Return the pictures below a folder, at most 1,000 pixels wide and high."""
    found = []
    for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png")):
        with Image.open(path) as image:
            image.draft("RGB", (1_000, 1_000))
            photograph = image.convert("RGB")
        photograph.thumbnail((1_000, 1_000))
        found.append(photograph)
    return found


def crops(photos: Sequence[Image.Image], count: int, random: Random) -> Iterator[Pixels]:
    """Yield parts of photographs, a quarter to all of the shorter side, 28 to 300 pixels wide or high."""
    for _ in range(count):
        photo = photos[int(random.integers(len(photos)))]
        proportions = np.exp(random.normal(0, 0.25))
        side = min(photo.size) * np.exp(random.uniform(np.log(0.25), 0))
        width, height = (
            max(MIN_SIDE, int(min(s, m))) for s, m in zip((side * proportions, side), photo.size, strict=True)
        )
        left, top = (int(random.integers(m - s + 1)) for m, s in zip(photo.size, (width, height), strict=True))
        part = photo.crop((left, top, left + width, top + height))
        part.thumbnail((int(random.integers(MIN_SIDE, 300)),) * 2)
        yield np.asarray(part if random.random() < 0.6 else part.convert("L").convert("RGB"))


def noise(count: int, random: Random) -> Iterator[Pixels]:
    """Yield noise: of a camera, of random pixels, dirt on a sheet, and clouds."""
    for number in range(count):
        side = int(random.integers(MIN_SIDE, 150))
        match number % 4:
            case 0:
                levels: NDArray[np.floating] = random.normal(128, random.uniform(5, 60), (side, side))
            case 1:
                levels = random.uniform(0, 255, (side, side))
            case 2:
                levels = 255.0 * (random.random((side, side)) < random.uniform(0.001, 0.1))
            case _:
                coarse = random.normal(128, 50, (int(random.integers(3, 12)),) * 2).astype(np.float32)
                clouds = np.asarray(Image.fromarray(coarse).resize((side, side)))
                levels = clouds + random.normal(0, 3, (side, side))
        yield np.clip(levels, 0, 255).astype(np.uint8)[..., None]


def shapes(count: int, random: Random) -> Iterator[Pixels]:
    """Yield shapes that are no digits: scribbles, polygons, discs, crosses and level lines."""

    def point() -> tuple[int, int]:
        x, y = random.integers(15, CANVAS - 15, 2)
        return int(x), int(y)

    middle = CANVAS // 2
    for number in range(count):
        image = Image.new("L", (CANVAS, CANVAS))
        drawing, width = ImageDraw.Draw(image), int(random.integers(4, 14))
        filled = 255 if random.random() < 0.3 else None
        match number % 6:
            case 0:
                drawing.line([point() for _ in range(random.integers(5, 12))], 255, width, joint="curve")
            case 1:
                left, top = random.integers(15, middle - 15, 2)
                right, bottom = random.integers(middle + 15, CANVAS - 15, 2)
                drawing.rectangle((left, top, right, bottom), filled, 255, width)
            case 2:
                drawing.polygon([(middle, 15), (15, CANVAS - 20), point()], filled, 255, width)
            case 3:
                drawing.ellipse((20, 20, CANVAS - 20, CANVAS - 20), 255)
            case 4:
                x, y = (int(at) for at in random.integers(35, CANVAS - 35, 2))
                drawing.line([(15, y), (CANVAS - 15, y)], 255, width)
                drawing.line([(x, 15), (x, CANVAS - 15)], 255, width)
            case _:
                drawing.line([(10, middle), (CANVAS - 10, middle + int(random.normal(0, 10)))], 255, width)
        yield np.asarray(image)


def text_pictures(
    fonts: Sequence[Mapping[str, Pixels]], signs: str, lengths: tuple[int, int], count: int, random: Random
) -> Iterator[Pixels]:
    """Yield rows of random signs, `lengths` (least, greatest) at a time, each row in one font."""
    for _ in range(count):
        font = fonts[int(random.integers(len(fonts)))]
        known = [sign for sign in signs if sign in font]
        if known:
            parts = [
                cropped(font[known[random.integers(len(known))]])
                for _ in range(random.integers(*lengths, endpoint=True))
            ]
            yield in_row(parts, random, (0.5, 4))


def mnist(folder: Path, split: str) -> tuple[Pixels, Pixels]:
    """Return images [n, 28, 28] and labels [n] of the original files. `split`: train or t10k."""
    images, labels = (
        np.frombuffer(gzip.decompress((folder / f"{split}-{name}-ubyte.gz").read_bytes()), np.uint8, offset=offset)
        for name, offset in (("images-idx3", 16), ("labels-idx1", 8))
    )
    return images.reshape(-1, 28, 28), labels
