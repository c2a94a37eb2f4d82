"""The predictions for pictures, as a table, CSV or JSON."""

import csv
import functools
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from jobs.console.output import table
from jobs.console.terminal import Drawn
from jobs.predict.batches import Prediction
from mnist_lib.errors import ImageError
from mnist_lib.pictures.likeness import REJECT_SHARE
from mnist_lib.pictures.reading import Picture
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

COLUMNS = ("picture", "class", "probability", "next", "next_probability", "unsure", "resized")


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


def as_lines(answers: Sequence[Answer]) -> list[str]:
    """Return a table, and lines that count what is unsure and rejected."""
    rows = []
    for answer in answers:
        cells = [cell for name, probability in answer.ranking for cell in (name, f"{probability:.1%}")]
        mark = UNSURE if answer.rejection == UNSURE else ""
        rows.append([answer.name, *([str(answer.rejection), "", "", ""] if answer.is_rejected else cells), mark])
    headings = ("picture", "class", "probability", "next", "probability", "")
    lines = [table(headings, rows, fold=["picture"])]
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
