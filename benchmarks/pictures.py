"""Folders of drawn pictures like those of users: letters, chess pieces, digits, and small scenes in colour.

Each picture has its own size, colours and background (paper, a gradient, clouds or noise); the ink on it contrasts with
the background. The same seed gives the same pictures. Test letters are in fonts that are not used for training; chess
pieces are in the same fonts for both.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from benchmarks.digits import parser_with_source
from benchmarks.drawings import Pixels, Random, cropped, font_files, glyphs, mnist
from mnist_lib.data.embedded import FOLDER

NAMES = ("letters", "chess pieces", "digits", "digits on backgrounds", "colour scenes")
LETTERS = "ABDEGHKMRS"
PIECES = {"king": "♔♚", "queen": "♕♛", "rook": "♖♜", "bishop": "♗♝", "knight": "♘♞", "pawn": "♙♟"}
NUM_FONTS, MAX_FONTS_PER_FAMILY = 28, 2
FONTS_PER_FAMILY = {"ttf": 40}  # Matplotlib has one folder of such fonts
MIN_CONTRAST = 80  # between the mean brightness of the background and that of the ink, 0 to 255

Colour = NDArray[np.float64]  # red, green, blue: 0 to 255
Draw = Callable[[int, bool, Random], Image.Image]  # from a class and whether it is for the test


@dataclass(frozen=True, kw_only=True)
class PictureSet:
    """Pictures of some classes: so many to train on, and so many others to measure the accuracy."""

    classes: Sequence[str]
    train: int
    test: int
    draw: Draw

    def write(self, folder: Path, seed: int) -> None:
        """Write FOLDER/train/CLASS/NUMBER.png and FOLDER/test/CLASS/NUMBER.png."""
        for split, count in (("train", self.train), ("test", self.test)):
            random = np.random.default_rng([seed, split == "test"])
            for number in range(count):
                label = number % len(self.classes)
                path = folder / split / self.classes[label] / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                self.draw(label, split == "test", random).save(path)


def picture_sets(sources: Path | None, digits: Path | None) -> dict[str, PictureSet]:
    """Return the sets by name.

    Args:
        sources: what `benchmarks.sources` wrote; None draws with the few fonts of Matplotlib.
        digits: a folder with the four original MNIST files; None takes the embedded digits.
    """
    folders = [Path(matplotlib.get_data_path(), "fonts")] * 2
    if sources is not None:
        folders = [sources / part / "fonts" for part in ("calibration", "evaluation")]
    letters = [_fonts(folder, LETTERS) for folder in folders]
    if sources is None:
        letters = [letters[0][::2], letters[0][1::2]]
    signs = "".join(PIECES.values())
    pieces = [font for folder in dict.fromkeys(folders) for font in _fonts(folder, signs)]
    images, labels = _digits(digits)

    def letter(label: int, test: bool, random: Random) -> Image.Image:
        font = letters[test][random.integers(len(letters[test]))]
        return _picture(font[LETTERS[label]], random, (48, 120), backgrounds=True)

    def piece(label: int, test: bool, random: Random) -> Image.Image:
        sign = [*PIECES.values()][label][random.integers(2)]
        return _picture(pieces[random.integers(len(pieces))][sign], random, (64, 140), backgrounds=False)

    def digit(backgrounds: bool) -> Draw:
        def draw(label: int, test: bool, random: Random) -> Image.Image:
            rows = np.flatnonzero(labels[test] == label)
            return _picture(images[test][random.choice(rows)], random, (70, 110), backgrounds=backgrounds)

        return draw

    sets = (
        PictureSet(classes=LETTERS, train=890, test=1_000, draw=letter),
        PictureSet(classes=[*PIECES], train=300, test=600, draw=piece),
        PictureSet(classes="0123456789", train=700, test=1_000, draw=digit(backgrounds=False)),
        PictureSet(classes="0123456789", train=700, test=1_000, draw=digit(backgrounds=True)),
        PictureSet(classes=[*SCENES], train=338, test=402, draw=_scene),
    )
    return dict(zip(NAMES, sets, strict=True))


def _fonts(folder: Path, signs: str) -> list[dict[str, Pixels]]:
    """Return the glyphs of `NUM_FONTS` random fonts that have all of the signs."""
    random, found = np.random.default_rng(7), list[dict[str, Pixels]]()
    files = font_files(folder, FONTS_PER_FAMILY, MAX_FONTS_PER_FAMILY, random)
    for number in random.permutation(len(files)):
        drawn = glyphs(files[number], signs, size=100)
        if len(drawn) == len(signs) and len(found) < NUM_FONTS:
            found.append(drawn)
    return found


def letters_on(folder: Path, signs: str) -> Callable[[Random], Image.Image]:
    """Return how a letter in a random font of a folder is drawn, on any background."""
    fonts = _fonts(folder, signs)

    def draw(random: Random) -> Image.Image:
        font = fonts[random.integers(len(fonts))]
        return _picture(font[signs[random.integers(len(signs))]], random, (48, 120), backgrounds=True)

    return draw


def _digits(folder: Path | None) -> tuple[list[Pixels], list[Pixels]]:
    """Return the images [n, 28, 28] and the labels [n] to train on and to test."""
    if folder is not None:
        pairs = [mnist(folder, split) for split in ("train", "t10k")]
        return [images for images, _ in pairs], [labels for _, labels in pairs]
    with np.load(FOLDER / "mnist-mini.npz") as arrays:
        return tuple(
            [arrays[f"{split}_{kind}"].squeeze() for split in ("train", "test")] for kind in ("images", "labels")
        )  # type: ignore[return-value]


def _picture(glyph: Pixels, random: Random, sides: tuple[int, int], *, backgrounds: bool) -> Image.Image:
    """Return a sign, turned and scaled a little, at a random place of a picture with a random background.

    Args:
        glyph: light on dark, [height, width] uint8.
        sides: the limits of the picture's width; its height differs by up to a seventh.
        backgrounds: any background; otherwise paper with a little noise.
    """
    width = int(random.integers(*sides))
    height = int(width * random.uniform(0.87, 1.15))
    sign = Image.fromarray(cropped(glyph))
    scale = random.uniform(0.5, 0.8) * min(width / sign.width, height / sign.height)
    sign = sign.resize((max(4, round(sign.width * scale)), max(4, round(sign.height * scale))))
    sign = sign.rotate(float(random.normal(0, 6)), Image.Resampling.BILINEAR, expand=True)
    left, top = (int(random.uniform(0, max(1, room))) for room in (width - sign.width, height - sign.height))
    mask = Image.new("L", (width, height))
    mask.paste(sign, (left, top))
    share = np.asarray(mask, np.float64)[..., None] / 255
    paper, ink = contrasting(random)
    levels = background(height, width, paper, random) if backgrounds else _paper(height, width, paper, random)
    return image_of(share * ink + (1 - share) * levels)


def contrasting(random: Random) -> tuple[Colour, Colour]:
    """Return two random colours with enough contrast."""
    while True:
        first, second = random.uniform(0, 255, (2, 3))
        if abs(first.mean() - second.mean()) > MIN_CONTRAST:
            return first, second


def _paper(height: int, width: int, colour: Colour, random: Random) -> NDArray[np.float64]:
    return colour + random.normal(0, 6, (height, width, 1))


def background(height: int, width: int, colour: Colour, random: Random) -> NDArray[np.float64]:
    """Return paper, a gradient, clouds or noise around a colour: [height, width, 3]."""
    levels, strength = np.broadcast_to(colour, (height, width, 3)), random.uniform(20, 55)
    match random.integers(4):
        case 1:
            angle = random.uniform(0, 2 * np.pi)
            y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
            levels = levels + (np.cos(angle) * x + np.sin(angle) * y)[..., None] * random.uniform(
                -strength, strength, 3
            )
        case 2:
            coarse = random.normal(0, strength, (int(random.integers(3, 9)),) * 2).astype(np.float32)
            levels = levels + np.asarray(Image.fromarray(coarse).resize((width, height)))[..., None]
        case 3:
            levels = levels + random.normal(0, strength, (height, width, 3))
    return levels + random.normal(0, 4, (height, width, 1))


def image_of(levels: NDArray[np.float64]) -> Image.Image:
    return Image.fromarray(np.clip(levels, 0, 255).astype(np.uint8))


# The parts of each object in a square of side 1: polygons and ellipses, each in one of two colours, 0 and 1.
Outline = tuple[str, int, Sequence[tuple[float, float]]]
PETALS = ((0.5, 0.2), (0.78, 0.4), (0.67, 0.73), (0.33, 0.73), (0.22, 0.4))
SCENES: dict[str, Sequence[Outline]] = {
    "house": [
        ("polygon", 0, [(0.1, 0.45), (0.9, 0.45), (0.9, 1), (0.1, 1)]),
        ("polygon", 1, [(0, 0.45), (0.5, 0), (1, 0.45)]),
    ],
    "tree": [
        ("polygon", 0, [(0.42, 0.5), (0.58, 0.5), (0.58, 1), (0.42, 1)]),
        ("ellipse", 1, [(0.1, 0), (0.9, 0.65)]),
    ],
    "car": [
        ("polygon", 0, [(0, 0.5), (0.2, 0.5), (0.32, 0.25), (0.7, 0.25), (0.82, 0.5), (1, 0.5), (1, 0.75), (0, 0.75)]),
        ("ellipse", 1, [(0.12, 0.62), (0.37, 0.87)]),
        ("ellipse", 1, [(0.63, 0.62), (0.88, 0.87)]),
    ],
    "fish": [
        ("ellipse", 0, [(0, 0.25), (0.75, 0.75)]),
        ("polygon", 1, [(0.65, 0.5), (1, 0.2), (1, 0.8)]),
    ],
    "flower": [
        *(("ellipse", 0, [(x - 0.2, y - 0.2), (x + 0.2, y + 0.2)]) for x, y in PETALS),
        ("ellipse", 1, [(0.36, 0.34), (0.64, 0.62)]),
    ],
    "cup": [
        ("ellipse", 1, [(0.55, 0.3), (1, 0.75)]),
        ("polygon", 0, [(0.1, 0.15), (0.8, 0.15), (0.7, 0.95), (0.2, 0.95)]),
    ],
}  # fmt: skip


def _scene(label: int, test: bool, random: Random) -> Image.Image:
    """Return an object in two random colours against a random background, and something small beside it."""
    width, height = (int(side) for side in random.integers(64, 97, 2))
    ground, first = contrasting(random)
    second = random.uniform(0, 255, 3)
    image = image_of(background(height, width, ground, random))
    colours = [tuple(map(int, colour)) for colour in (first, second)]
    drawing = ImageDraw.Draw(image)
    x, y = random.uniform(0, (width, height))
    radius = random.uniform(3, 10)
    drawing.ellipse((x - radius, y - radius, x + radius, y + radius), tuple(map(int, random.uniform(0, 255, 3))))
    scale = random.uniform(0.45, 0.8) * np.array([min(width, height)] * 2) * random.uniform(0.85, 1.15, 2)
    scale = np.minimum(scale, (width - 2, height - 2))
    corner = random.uniform(0, (width, height) - scale)
    flip = random.random() < 0.5
    for kind, colour, points in [*SCENES.values()][label]:
        placed = [(1 - px if flip else px, py + random.normal(0, 0.02)) for px, py in points]
        if kind == "ellipse":
            (left, top), (right, bottom) = np.sort(np.array(placed), axis=0)
            placed = [(left, top), (right, bottom)]
        pixels = [tuple((corner + np.array(point) * scale).tolist()) for point in placed]
        getattr(drawing, kind)(pixels, fill=colours[colour])
    return image


def main() -> None:
    parser = parser_with_source(__doc__)
    parser.add_argument("--sources", type=Path, help="folder of benchmarks.sources (default: fonts of Matplotlib)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the pictures (default: 0)")
    parser.add_argument("folder", type=Path, metavar="DIR", help="gets a folder for each set")
    options = parser.parse_args()
    for name, pictures in picture_sets(options.sources, options.source).items():
        pictures.write(options.folder / name.replace(" ", "-"), options.seed)


if __name__ == "__main__":
    main()
