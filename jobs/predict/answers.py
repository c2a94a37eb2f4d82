"""The predictions for pictures, as a table, CSV, JSON or a drawing."""

import csv
import functools
import io
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from jobs.console.output import table
from jobs.console.terminal import Drawn
from jobs.predict.batches import Prediction
from mnist_lib.errors import ImageError
from mnist_lib.objects.output_file import atomic_output
from mnist_lib.pictures.likeness import REJECT_SHARE
from mnist_lib.pictures.reading import Picture, as_picture
from mnist_lib.pictures.rejecting import (
    NO_ANSWER,
    NONE_OF_THESE,
    NOT_ONE_DIGIT,
    UNSURE,
    Rejection,
    rejection,
)
from mnist_lib.store.versions import Version
from mnist_lib.wording import counted, printable

# The drawing:
MAX_PICTURES = 100  # more would be hard to view in one image
TILE, GAP, LINE = 112, 16, 18  # pixels; a tile is four times as wide as an MNIST image
CAPTION = 3 * LINE + 8
MAX_COLUMNS = 10
MAX_CHARACTERS = 100  # no tile is wide enough for more
_font = functools.cache(ImageFont.load_default)  # by its size
BACKGROUND, TEXT, FAINT, WARNING = "#ffffff", "#1a1a1a", "#6b7280", "#b45309"


@dataclass(frozen=True)
class Answer:
    """The prediction for one picture."""

    name: str
    picture: Picture
    probabilities: NDArray[np.float32]  # [classes]
    classes: Sequence[str]  # their names
    likeness: float = 1.0  # to the classes, as the model gives it
    reject_share: float = REJECT_SHARE  # see `rejection`

    @functools.cached_property
    def ranking(self) -> list[tuple[str, float]]:
        """The two most probable classes with their probabilities; equally probable ones in their order."""
        order = np.argsort(-self.probabilities, kind="stable")[:2]
        return [(self.classes[label], float(self.probabilities[label])) for label in order]

    @functools.cached_property
    def rejection(self) -> Rejection | None:
        """Why the answer is not to be relied on, or None."""
        return rejection(self.picture.likeness, self.probabilities, self.likeness, self.reject_share)

    @property
    def is_rejected(self) -> bool:
        """Whether the picture has no class as its answer."""
        return self.rejection in NO_ANSWER


class Failure(NamedTuple):
    name: str
    error: ImageError


PictureResult = Answer | Failure


def picture_results(
    paths: Iterable[Path],
    predictions: Iterable[Prediction | ImageError],
    classes: Sequence[str],
    reject_share: float = REJECT_SHARE,
) -> Iterator[PictureResult]:
    """Yield the result of each path, whose prediction or error is in the same place."""
    for name, prediction in zip(map(str, paths), predictions, strict=True):
        if isinstance(prediction, ImageError):
            yield Failure(name, prediction)
        else:
            picture, probabilities, likeness = prediction
            yield Answer(name, picture, probabilities, classes, likeness, reject_share)


COLUMNS = ("picture", "class", "probability", "next", "next_probability", "unsure", "resized")


def as_lines(answers: Sequence[Answer]) -> list[str]:
    """Return a table, and lines that count what is unsure and rejected."""
    rows = []
    for answer in answers:
        cells = [cell for name, probability in answer.ranking for cell in (name, f"{probability:.1%}")]
        mark = UNSURE if answer.rejection == UNSURE else ""
        rows.append([answer.name, *([str(answer.rejection), "", "", ""] if answer.is_rejected else cells), mark])
    headings = ("picture", "class", "probability", "next", "probability", "")
    lines = [table(headings, rows, fold=["picture"], one_line=["picture", "class"])]
    for reason, advice in ((UNSURE, ""), *((reason, "; --accept-all predicts all") for reason in NO_ANSWER)):
        if count := sum(answer.rejection == reason for answer in answers):
            lines.append(f"{reason}: {count:,} of {counted(len(answers), 'picture')}{advice}.")
    return lines


def as_csv(answers: Sequence[Answer]) -> str:
    """Return CSV as in RFC 4180, since names may hold commas and line breaks; printing adds the last line feed.

    A picture that is rejected has the reason as its class, and no probabilities.
    """
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore")
    writer.writeheader()
    for answer in answers:
        row = _document(answer)
        if answer.is_rejected:
            row["class"] = answer.rejection
        texts = {name: printable(value, keep="\n") for name, value in row.items() if isinstance(value, str)}
        writer.writerow(row | texts)
    return Drawn(text.getvalue().removesuffix("\n"))


def as_document(
    answers: Sequence[Answer], failures: Sequence[Failure], version: Version, classes: Sequence[str]
) -> dict[str, Any]:
    return {
        "model": version.name,
        "dataset": version.about["dataset"],
        "classes": list(classes),
        "pictures": [_document(answer) for answer in answers],
        "failed": [{"picture": f.name, "code": ImageError.code, "message": str(f.error)} for f in failures],
    }


def _document(answer: Answer) -> dict[str, Any]:
    cells = [cell for name, probability in answer.ranking for cell in (name, round(probability, 6))]
    return {
        "picture": answer.name,
        **dict(zip(COLUMNS[1:5], [None] * 4 if answer.is_rejected else cells, strict=True)),
        "probabilities": [round(float(value), 6) for value in answer.probabilities],  # of the classes in `classes`
        "unsure": answer.rejection == UNSURE,
        "not_one_digit": answer.rejection == NOT_ONE_DIGIT,
        "none_of_these": answer.rejection == NONE_OF_THESE,
        "resized": answer.picture.resized,
    }


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
    line = top + TILE + 4
    if answer.is_rejected:
        drawing.text((left, line), str(answer.rejection), WARNING, _font(13))
    else:
        (first, probability), (second, second_probability) = answer.ranking
        is_unsure = answer.rejection == UNSURE
        answered = f"{first} {probability:.1%}{' unsure' if is_unsure else ''}"
        drawing.text((left, line), _shortened(answered, drawing), WARNING if is_unsure else TEXT, _font(12))
        next_line = _shortened(f"{second}: {second_probability:.1%}", drawing)
        drawing.text((left, line + LINE), next_line, FAINT, _font(12))
    drawing.text((left, line + 2 * LINE), _shortened(Path(answer.name).name, drawing), FAINT, _font(12))


def _shortened(name: str, drawing: ImageDraw.ImageDraw) -> str:
    """Return a printable name without its middle, to fit into a tile, since names differ mostly at their ends."""
    name = printable(name)
    length, shown = min(len(name), MAX_CHARACTERS), name[: MAX_CHARACTERS + 1]
    while drawing.textlength(shown, _font(12)) > TILE:
        length -= 1
        shown = f"{name[: length // 2]}…{name[len(name) - (length + 1) // 2 :]}"
    return shown
