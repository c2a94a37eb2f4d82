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
from mnist_lib.errors import ImageError
from mnist_lib.objects.output_file import atomic_output
from mnist_lib.pictures.likeness import REJECT_SHARE, Answers
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
from mnist_lib.wording import FORMULA, counted, printable

# The drawing:
MAX_PICTURES = 100  # more would be hard to view in one image
TILE, GAP, LINE = 112, 16, 18  # pixels; a tile is four times as wide as an MNIST image
CAPTION = 3 * LINE + 8
MAX_COLUMNS = 10
MAX_CHARACTERS = 100  # no tile is wide enough for more
_font = functools.cache(ImageFont.load_default)  # by its size
BACKGROUND, TEXT, FAINT, WARNING, WRONG = "#ffffff", "#1a1a1a", "#6b7280", "#b45309", "#b91c1c"


@dataclass(frozen=True)
class Answer:
    """The prediction for one picture."""

    name: str
    picture: Picture
    probabilities: NDArray[np.float32]  # [classes]
    classes: Sequence[str]  # their names
    label: str | None = None  # the class of the picture, if known
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
    def right(self) -> bool | None:
        return None if self.label is None else self.ranking[0][0] == self.label


class Failure(NamedTuple):
    name: str
    error: ImageError


PictureResult = Answer | Failure

# Pictures or errors in the order of their files, and what the model answers for those that could be read.
Predicted = tuple[Sequence[Picture | ImageError], Answers]


def picture_results(
    paths: Iterable[Path],
    batches: Iterable[Predicted],
    classes: Sequence[str],
    reject_share: float = REJECT_SHARE,
) -> Iterator[list[PictureResult]]:
    """Yield the results of each batch, which takes the next of the paths."""
    names = map(str, paths)
    for pictures, given in batches:
        rows = zip(given.probabilities, given.likeness.tolist(), strict=True)

        def result(name: str, picture: Picture | ImageError) -> PictureResult:
            if isinstance(picture, ImageError):
                return Failure(name, picture)
            row, likeness = next(rows)  # noqa: B023
            return Answer(name, picture, row, classes, likeness=likeness, reject_share=reject_share)

        # The other paths are of later batches.
        yield [result(name, picture) for picture, name in zip(pictures, names, strict=False)]


COLUMNS = ("picture", "class", "probability", "next", "next_probability", "unsure", "resized")
LABEL_COLUMNS = ("label", "right")  # where labels are known


def as_lines(answers: Sequence[Answer]) -> list[str]:
    """Return a table, and lines that count what is unsure, rejected and correct."""
    labelled = any(answer.label is not None for answer in answers)
    headings = ["picture", "class", "probability", "next", "probability", *(["label"] if labelled else []), ""]
    rows = []
    for answer in answers:
        cells, marks = [str(answer.rejection), "", "", ""], list[str]()
        if answer.rejection not in NO_ANSWER:
            cells = [cell for name, probability in answer.ranking for cell in (name, f"{probability:.1%}")]
            marks = [*([UNSURE] if answer.rejection == UNSURE else []), *(["wrong"] if answer.right is False else [])]
        rows.append([answer.name, *cells, *([answer.label or ""] if labelled else []), ", ".join(marks)])
    lines = [table(headings, rows, fold=["picture"], one_line=["picture", "class"])]
    for reason, advice in ((UNSURE, ""), *((reason, "; --accept-all predicts all") for reason in NO_ANSWER)):
        if count := sum(answer.rejection == reason for answer in answers):
            lines.append(f"{reason}: {count:,} of {counted(len(answers), 'picture')}{advice}.")
    if labelled:
        right = sum(bool(answer.right) for answer in answers)
        lines.append(f"{right:,} of {counted(len(answers), 'image')} {'is' if right == 1 else 'are'} right.")
    return lines


def as_csv(answers: Sequence[Answer], *, labelled: bool) -> str:
    """Return CSV as in RFC 4180, since names may hold commas and line breaks; printing adds the last line feed.

    A picture that is rejected has the reason as its class, and no probabilities. A path that begins like a formula
    gets "./" in front, which names the same file; such a class gets an apostrophe.
    """
    text = io.StringIO(newline="")
    columns = (*COLUMNS, *LABEL_COLUMNS) if labelled else COLUMNS
    writer = csv.DictWriter(text, columns, extrasaction="ignore")
    writer.writeheader()
    for answer in answers:
        row = _document(answer)
        if answer.rejection in NO_ANSWER:
            row["class"] = answer.rejection
        texts = {name: _cell(value) for name, value in row.items() if isinstance(value, str)}
        writer.writerow({**row, **texts, "picture": _cell(row["picture"], mark="./")})
    return Drawn(text.getvalue().removesuffix("\n"))


def _cell(text: str, mark: str = "'") -> str:
    """Return a printable text for CSV, with the mark in front if it begins like a formula."""
    return printable(mark + text if FORMULA.match(text) else text, keep="\n")


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
    is_rejected, ranking = answer.rejection in NO_ANSWER, list[Any]()
    for name, probability in answer.ranking:
        ranking += [None, None] if is_rejected else [name, round(probability, 6)]
    return {
        "picture": answer.name,
        **dict(zip(COLUMNS[1:5], ranking, strict=True)),
        "probabilities": [round(float(value), 6) for value in answer.probabilities],  # of the classes in `classes`
        "unsure": answer.rejection == UNSURE,
        "not_one_digit": answer.rejection == NOT_ONE_DIGIT,
        "none_of_these": answer.rejection == NONE_OF_THESE,
        "resized": answer.picture.resized,
        **({} if answer.label is None else {"label": answer.label, "right": answer.right}),
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
    is_unsure = answer.rejection == UNSURE
    colour = WRONG if answer.right is False else WARNING if is_unsure else TEXT
    line, name_line = top + TILE + 4, top + TILE + 4 + 2 * LINE
    drawing.text((left, name_line), _shortened(Path(answer.name).name, drawing), FAINT, _font(12))
    if answer.rejection in NO_ANSWER:
        drawing.text((left, line), answer.rejection, WARNING, _font(13))
        return
    (first, probability), (second, second_probability) = answer.ranking
    first, sure = printable(first), f"{probability:.1%}" + (" unsure" if is_unsure else "")
    if len(first) == 1:  # such as a digit, which is shown in large type
        drawing.text((left, line), first, colour, _font(30))
        left += 26
        drawing.text((left, line), sure, colour, _font(13))
    else:
        drawing.text((left, line), _shortened(f"{first} {sure}", drawing), colour, _font(12))
    below = f"is {answer.label}" if answer.right is False else f"{second}: {second_probability:.1%}"
    colour = colour if answer.right is False else FAINT
    drawing.text((left, line + LINE), _shortened(below, drawing), colour, _font(12))


def _shortened(name: str, drawing: ImageDraw.ImageDraw) -> str:
    """Return a printable name without its middle, to fit into a tile, since names differ mostly at their ends."""
    name = printable(name)
    length, shown = min(len(name), MAX_CHARACTERS), name[: MAX_CHARACTERS + 1]
    while drawing.textlength(shown, _font(12)) > TILE:
        length -= 1
        shown = f"{name[: length // 2]}…{name[len(name) - (length + 1) // 2 :]}"
    return shown
