"""The predictions for pictures, as a table, CSV or JSON."""

import csv
import functools
import io
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.console.output import table
from jobs.console.streams import Drawn
from mnist_lib.errors import ImageError
from mnist_lib.pictures.reading import Picture
from mnist_lib.pictures.rejecting import NOT_ONE_DIGIT, UNSURE, rejection
from mnist_lib.store.versions import Version
from mnist_lib.wording import counted, printable

# The beginning of a text that a spreadsheet may run as a formula (OWASP); a number such as -1 is not one.
FORMULA = re.compile(r"(?![+-]\d[\d.,]*\Z)[=+@\t\r\n\uff1d\uff0b\uff0d\uff20-]")


@dataclass(frozen=True)
class Answer:
    """The prediction for one picture."""

    name: str
    picture: Picture
    probabilities: NDArray[np.float32]  # [classes]
    classes: Sequence[str]  # their names
    label: str | None = None  # the class of the picture, if known

    @property
    def ranking(self) -> list[tuple[str, float]]:
        """The classes with their probabilities, most probable first; equally probable ones in their order."""
        order = np.argsort(-self.probabilities, kind="stable")
        return [(self.classes[label], float(self.probabilities[label])) for label in order]

    @property
    def predicted(self) -> str:
        return self.classes[int(self.probabilities.argmax())]

    @property
    def unsure(self) -> bool:
        return self._rejection == UNSURE

    @property
    def not_one_digit(self) -> bool:
        return self._rejection == NOT_ONE_DIGIT

    @functools.cached_property
    def _rejection(self) -> str | None:
        return rejection(self.picture.likeness, self.probabilities)

    @property
    def right(self) -> bool | None:
        return None if self.label is None else self.predicted == self.label


@dataclass(frozen=True)
class Failure:
    name: str
    error: ImageError


PictureResult = Answer | Failure


def results_of(
    names: Iterable[str],
    found: Sequence[Picture | ImageError],
    probabilities: NDArray[np.float32],
    classes: Sequence[str],
) -> list[PictureResult]:
    """Return one result for each name. `probabilities`: [n, classes], one row for each picture that could be read."""
    rows = iter(probabilities)
    return [
        Failure(name, picture) if isinstance(picture, ImageError) else Answer(name, picture, next(rows), classes)
        for name, picture in zip(names, found, strict=True)
    ]


COLUMNS = ("picture", "class", "probability", "next", "next_probability", "unsure", "resized")
LABEL_COLUMNS = ("label", "right")  # where labels are known


def as_table(answers: Sequence[Answer]) -> str:
    labelled = any(answer.label is not None for answer in answers)
    headings = ["picture", "class", "probability", "next", "probability", *(["label"] if labelled else []), ""]
    rows = [_row(answer, labelled) for answer in answers]
    lines = [table(headings, rows, fold=["picture"], one_line=["picture", "class"])]
    unsure = sum(answer.unsure for answer in answers)
    if unsure:
        lines.append(f"unsure: {unsure:,} of {counted(len(answers), 'picture')}.")
    others = sum(answer.not_one_digit for answer in answers)
    if others:
        lines.append(f"{NOT_ONE_DIGIT}: {others:,} of {counted(len(answers), 'picture')}; --accept-all predicts all.")
    if labelled:
        right = sum(bool(answer.right) for answer in answers)
        lines.append(f"{right:,} of {counted(len(answers), 'image')} {'is' if right == 1 else 'are'} right.")
    return "\n".join(lines)


def _row(answer: Answer, labelled: bool) -> list[str]:
    if answer.not_one_digit:
        return [answer.name, NOT_ONE_DIGIT, "", "", "", *([answer.label or ""] if labelled else []), ""]
    (first, probability), (second, second_probability), *_ = answer.ranking
    cells = [answer.name, first, f"{probability:.1%}", second, f"{second_probability:.1%}"]
    marks = [mark for mark, holds in (("unsure", answer.unsure), ("wrong", answer.right is False)) if holds]
    return [*cells, *([answer.label or ""] if labelled else []), ", ".join(marks)]


def as_csv(answers: Sequence[Answer], *, labelled: bool) -> str:
    """Return CSV as in RFC 4180, since names may hold commas and line breaks; printing adds the last line feed.

    A picture that is rejected has `NOT_ONE_DIGIT` as its class, and no probabilities. A path that begins like a formula
    gets "./" in front, which names the same file; such a class gets an apostrophe.
    """
    text = io.StringIO(newline="")
    columns = (*COLUMNS, *LABEL_COLUMNS) if labelled else COLUMNS
    writer = csv.DictWriter(text, columns, extrasaction="ignore")
    writer.writeheader()
    for answer in answers:
        row = _document(answer)
        if answer.not_one_digit:
            row["class"] = NOT_ONE_DIGIT
        texts = {name: _cell(value) for name, value in row.items() if isinstance(value, str)}
        writer.writerow({**row, **texts, "picture": _cell(row["picture"], mark="./")})
    return Drawn(text.getvalue().removesuffix("\n"))


def _cell(text: str, mark: str = "'") -> str:
    """Return a printable text for CSV, with the mark in front if it begins like a formula."""
    return printable(mark + text if FORMULA.match(text) else text, keep="\n")


def as_json(answers: Sequence[Answer], failures: Sequence[Failure], version: Version, classes: Sequence[str]) -> str:
    pictures = [_document(answer) for answer in answers]
    failed = [{"picture": f.name, "code": ImageError.code, "message": str(f.error)} for f in failures]
    document = {
        "model": version.name,
        "dataset": version.about["dataset"],
        "classes": list(classes),
        "pictures": pictures,
        "failed": failed,
    }
    return json.dumps(document, indent=2)


def _document(answer: Answer) -> dict[str, Any]:
    (first, probability), (second, second_probability), *_ = answer.ranking
    label = {} if answer.label is None else {"label": answer.label, "right": answer.right}
    ranked = {
        "class": first,
        "probability": round(probability, 6),
        "next": second,
        "next_probability": round(second_probability, 6),
    }
    return {
        "picture": answer.name,
        **(dict.fromkeys(ranked) if answer.not_one_digit else ranked),
        "probabilities": [round(float(value), 6) for value in answer.probabilities],  # of the classes in `classes`
        "unsure": answer.unsure,
        "not_one_digit": answer.not_one_digit,
        "resized": answer.picture.resized,
        **label,
    }
