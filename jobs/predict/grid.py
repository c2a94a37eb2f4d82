"""Draw the pictures as the model saw them, with the predictions below."""

import functools
import math
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from jobs.predict.answers import Answer
from mnist_lib.objects.output_file import atomic_output
from mnist_lib.pictures.rejecting import NOT_ONE_DIGIT
from mnist_lib.report.dataset import as_picture
from mnist_lib.wording import printable

MAX_PICTURES = 100  # more would be hard to view in one image
TILE, GAP, LINE = 112, 16, 18  # pixels; a tile is four times as wide as an MNIST image
CAPTION = 3 * LINE + 8
MAX_COLUMNS = 10
MAX_CHARACTERS = 100  # no tile is wide enough for more
BACKGROUND, TEXT, FAINT, WARNING, WRONG = "#ffffff", "#1a1a1a", "#6b7280", "#b45309", "#b91c1c"


def draw(answers: Sequence[Answer], path: Path) -> None:
    """Draw the first hundred predictions into a file, which appears once it is complete. Raises OutputError."""
    shown = answers[:MAX_PICTURES]
    columns = min(MAX_COLUMNS, math.ceil(math.sqrt(len(shown) * 1.5)))
    rows = math.ceil(len(shown) / columns)
    note = f"the first {MAX_PICTURES} of {len(answers):,} pictures" if len(answers) > MAX_PICTURES else ""
    width, height = GAP + columns * (TILE + GAP), GAP + rows * (TILE + CAPTION + GAP) + (LINE + GAP if note else 0)
    sheet = Image.new("RGB", (width, height), BACKGROUND)
    drawing = ImageDraw.Draw(sheet)
    for number, answer in enumerate(shown):
        row, column = divmod(number, columns)
        _draw_tile(sheet, drawing, answer, GAP + column * (TILE + GAP), GAP + row * (TILE + CAPTION + GAP))
    drawing.text((GAP, sheet.height - GAP - LINE), note, FAINT, _font(13))
    with atomic_output(path) as written:
        sheet.save(written, Image.registered_extensions()[path.suffix.lower()])


def _draw_tile(sheet: Image.Image, drawing: ImageDraw.ImageDraw, answer: Answer, left: int, top: int) -> None:
    height, width, channels = answer.picture.image.shape
    scale = TILE / max(height, width)
    seen = as_picture(answer.picture.image)
    seen = seen.resize((max(1, round(width * scale)), max(1, round(height * scale))), Image.Resampling.NEAREST)
    sheet.paste(seen, (left, top), seen if channels == 4 else None)
    colour = WRONG if answer.right is False else WARNING if answer.unsure else TEXT
    line, name_line = top + TILE + 4, top + TILE + 4 + 2 * LINE
    drawing.text((left, name_line), _shortened(Path(answer.name).name, drawing), FAINT, _font(12))
    if answer.not_one_digit:
        drawing.text((left, line), NOT_ONE_DIGIT, WARNING, _font(13))
        return
    (first, probability), (second, second_probability), *_ = answer.ranking
    first, sure = printable(first), f"{probability:.1%}" + (" unsure" if answer.unsure else "")
    below = f"is {answer.label}" if answer.right is False else f"{second}: {second_probability:.1%}"
    if len(first) == 1:  # such as a digit, which is shown in large type
        drawing.text((left, line), first, colour, _font(30))
        drawing.text((left + 26, line), sure, colour, _font(13))
    else:
        drawing.text((left, line), _shortened(f"{first} {sure}", drawing), colour, _font(12))
    below_left = left + 26 if len(first) == 1 else left
    colour = colour if answer.right is False else FAINT
    drawing.text((below_left, line + LINE), _shortened(below, drawing), colour, _font(12))


def _shortened(name: str, drawing: ImageDraw.ImageDraw) -> str:
    """Return a printable name without its middle, to fit into a tile, since names differ mostly at their ends."""
    name = printable(name)
    length, shown = min(len(name), MAX_CHARACTERS), name[: MAX_CHARACTERS + 1]
    while drawing.textlength(shown, _font(12)) > TILE:
        length -= 1
        shown = f"{name[: length // 2]}…{name[len(name) - (length + 1) // 2 :]}"
    return shown


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
