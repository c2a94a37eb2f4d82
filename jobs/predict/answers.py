"""The predictions for pictures, as a table, CSV or JSON."""

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.console.output import table
from mnist_lib.errors import ImageError
from mnist_lib.pictures.reading import Picture
from mnist_lib.store.versions import Version
from mnist_lib.wording import counted

UNSURE = 0.5  # a lower probability means that all other digits together are more probable


@dataclass(frozen=True)
class Answer:
    """The prediction for one picture."""

    name: str
    picture: Picture
    probabilities: NDArray[np.float32]  # [classes]
    label: int | None = None  # the digit in the picture, if known

    @property
    def ranking(self) -> list[tuple[int, float]]:
        """The digits with their probabilities, most probable first; equally probable digits in ascending order."""
        order = np.argsort(-self.probabilities, kind="stable")
        return [(int(digit), float(self.probabilities[digit])) for digit in order]

    @property
    def digit(self) -> int:
        return int(self.probabilities.argmax())

    @property
    def unsure(self) -> bool:
        return bool(self.probabilities.max() < UNSURE)

    @property
    def right(self) -> bool | None:
        return None if self.label is None else self.digit == self.label


@dataclass(frozen=True)
class Failure:
    name: str
    error: ImageError


PictureResult = Answer | Failure


def results_of(
    names: Iterable[str], found: Sequence[Picture | ImageError], probabilities: NDArray[np.float32]
) -> list[PictureResult]:
    """Return one result for each name. `probabilities`: [n, classes], one row for each picture that could be read."""
    rows = iter(probabilities)
    return [
        Failure(name, picture) if isinstance(picture, ImageError) else Answer(name, picture, next(rows))
        for name, picture in zip(names, found, strict=True)
    ]


COLUMNS = ("picture", "digit", "probability", "next", "next_probability", "unsure", "resized")
LABEL_COLUMNS = ("label", "right")  # where labels are known


def as_table(answers: Sequence[Answer]) -> str:
    labelled = any(answer.label is not None for answer in answers)
    headings = ["picture", "digit", "probability", "next", "probability", *(["label"] if labelled else []), ""]
    rows = [_row(answer, labelled) for answer in answers]
    lines = [table(headings, rows, fold=["picture"], one_line=["picture"])]
    unsure = sum(answer.unsure for answer in answers)
    if unsure:
        lines.append(f"unsure: {unsure:,} of {len(answers):,} {'is' if unsure == 1 else 'are'} below {UNSURE:.0%}.")
    if labelled:
        right = sum(bool(answer.right) for answer in answers)
        lines.append(f"{right:,} of {counted(len(answers), 'image')} {'is' if right == 1 else 'are'} right.")
    return "\n".join(lines)


def _row(answer: Answer, labelled: bool) -> list[str]:
    (digit, probability), (second, second_probability), *_ = answer.ranking
    cells = [answer.name, str(digit), f"{probability:.1%}", str(second), f"{second_probability:.1%}"]
    marks = [mark for mark, holds in (("unsure", answer.unsure), ("wrong", answer.right is False)) if holds]
    return [*cells, *([str(answer.label)] if labelled else []), ", ".join(marks)]


def as_csv(answers: Sequence[Answer], *, labelled: bool) -> str:
    """Return CSV as in RFC 4180, since names may hold commas and line breaks; printing adds the last line feed."""
    text = io.StringIO(newline="")
    columns = (*COLUMNS, *LABEL_COLUMNS) if labelled else COLUMNS
    writer = csv.DictWriter(text, columns, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(map(_document, answers))
    return text.getvalue().removesuffix("\n")


def as_json(answers: Sequence[Answer], failures: Sequence[Failure], version: Version) -> str:
    pictures = [_document(answer) for answer in answers]
    failed = [{"picture": f.name, "code": ImageError.code, "message": str(f.error)} for f in failures]
    document = {"model": version.name, "dataset": version.about["dataset"], "pictures": pictures, "failed": failed}
    return json.dumps(document, indent=2)


def _document(answer: Answer) -> dict[str, Any]:
    (digit, probability), (second, second_probability), *_ = answer.ranking
    label = {} if answer.label is None else {"label": answer.label, "right": answer.right}
    return {
        "picture": answer.name,
        "digit": digit,
        "probability": round(probability, 6),
        "next": second,
        "next_probability": round(second_probability, 6),
        "probabilities": [round(float(value), 6) for value in answer.probabilities],  # of the digits 0 to 9
        "unsure": answer.unsure,
        "resized": answer.picture.resized,
        **label,
    }
