"""A picture of pictures, as the model saw them, with its answers underneath."""

import functools
import math
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from jobs.console.output import printable
from jobs.predict.answers import Answer
from mnist_lib.store.local import whole_at

MOST = 100  # pictures: more would be too small to be looked at
TILE, GAP, LINE = 112, 16, 18  # pixels; a tile is four times MNIST's pictures
CAPTION = 3 * LINE + 8
MOST_COLUMNS = 10
PAPER, TEXT, FAINT, WARNING, WRONG = "#ffffff", "#1a1a1a", "#6b7280", "#b45309", "#b91c1c"


def draw(answers: Sequence[Answer], path: Path) -> None:
    """The first hundred. The file is whole or absent.

    Raises:
        StoreError: it cannot be written.
    """
    shown = answers[:MOST]
    columns = min(MOST_COLUMNS, math.ceil(math.sqrt(len(shown) * 1.5)))
    rows = math.ceil(len(shown) / columns)
    note = f"the first {MOST} of {len(answers):,} pictures" if len(answers) > MOST else ""
    sheet = Image.new(
        "RGB",
        (GAP + columns * (TILE + GAP), GAP + rows * (TILE + CAPTION + GAP) + (LINE + GAP if note else 0)),
        PAPER,
    )
    drawing = ImageDraw.Draw(sheet)
    for number, answer in enumerate(shown):
        row, column = divmod(number, columns)
        _draw_tile(sheet, drawing, answer, GAP + column * (TILE + GAP), GAP + row * (TILE + CAPTION + GAP))
    drawing.text((GAP, sheet.height - GAP - LINE), note, FAINT, _font(13))
    with whole_at(path) as written:
        sheet.save(written, Image.registered_extensions()[path.suffix.lower()])


def _draw_tile(sheet: Image.Image, drawing: ImageDraw.ImageDraw, answer: Answer, left: int, top: int) -> None:
    seen = Image.fromarray(answer.picture.image[..., 0]).resize((TILE, TILE), Image.Resampling.NEAREST)
    sheet.paste(seen, (left, top))
    colour = WRONG if answer.right is False else WARNING if answer.unsure else TEXT
    (digit, probability), (after, its_probability), *_ = answer.ranking
    line = top + TILE + 4
    drawing.text((left, line), str(digit), colour, _font(30))
    drawing.text((left + 26, line), f"{probability:.1%}" + (" unsure" if answer.unsure else ""), colour, _font(13))
    is_not = f"is {answer.label}" if answer.right is False else f"{after}: {its_probability:.1%}"
    drawing.text((left + 26, line + LINE), is_not, colour if answer.right is False else FAINT, _font(13))
    name = Path(answer.name).name
    drawing.text((left, line + 2 * LINE), _shortened(printable(name, keep=""), drawing), FAINT, _font(12))


def _shortened(name: str, drawing: ImageDraw.ImageDraw) -> str:
    """To the width of a tile, in the middle: both ends tell more."""
    kept = len(name)
    shown = name
    while drawing.textlength(shown, _font(12)) > TILE:
        kept -= 1
        shown = f"{name[: kept // 2]}…{name[len(name) - (kept + 1) // 2 :]}"
    return shown


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
