"""A review without a browser: a CSV table with a column for the label, which is edited and then applied."""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast, get_args

from jobs.predict.answers import FORMULA
from jobs.review.order import Item
from mnist_lib.data.corrections import NONE, Reason
from mnist_lib.errors import DataError
from mnist_lib.objects.output_file import atomic_output
from mnist_lib.wording import printable

COLUMNS = ("hash", "file", "split", "why", "answer", "probability", "note", "current", "label", "dataset")
REQUIRED = ("hash", "file", "why", "label", "dataset")
MAX_TABLE_BYTES = 100_000_000
APOSTROPHE = "'"
NAMES = "surrogateescape"  # how Python represents names of files that are not UTF-8


@dataclass(frozen=True)
class Row:
    """A row with a label."""

    number: int  # in the file; the headings are row 1
    image: str
    file: str
    why: Reason
    label: str
    dataset: str


def write_table(path: Path, chosen: Iterable[tuple[Item, Reason]], model_classes: Sequence[str], dataset: str) -> int:
    """Write a table of pictures, and return how many there are. Raises OutputError if it cannot be written.

    Text that a spreadsheet could run as a formula gets an apostrophe in front.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    count = 0
    for item, why in chosen:
        answer = probability = ""
        if item.probabilities is not None:
            answer = model_classes[int(item.probabilities.argmax())]
            probability = f"{item.confidence:.4f}"
        file = str(item.source.absolute()) if isinstance(item.source, Path) else item.name
        cells = (item.image, file, item.split, why, answer, probability, item.note, item.label or "", "", dataset)
        writer.writerow(map(_cell, cells))
        count += 1
    with atomic_output(path) as written:
        written.write_text(text.getvalue(), encoding="utf-8", errors=NAMES, newline="")
    return count


def read_table(path: Path) -> list[Row]:
    """Return the rows that have a label. Raises DataError with the number of a bad row."""
    try:
        if path.stat().st_size > MAX_TABLE_BYTES:
            raise DataError(f"{path}: expected at most {MAX_TABLE_BYTES // 10**6} MB; apply it in parts")
        with path.open(encoding="utf-8-sig", errors=NAMES, newline="") as opened:
            text = opened.read()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); name the table of jobs.review --to") from error
    headings = text.partition("\n")[0]
    rows = csv.DictReader(io.StringIO(text), delimiter=";" if ";" in headings and "," not in headings else ",")
    missing = [name for name in REQUIRED if name not in (rows.fieldnames or ())]
    if missing:
        raise DataError(f"{path}: expected the columns {', '.join(COLUMNS)}, got none named {missing[0]}; restore it")
    found = []
    for number, cells in enumerate(rows, start=2):
        image, file, why, label, dataset = (_text(cells[name] or "") for name in REQUIRED)
        if not label.strip():
            continue
        if why not in get_args(Reason) or len(image) != 32 or not set(image) <= set("0123456789abcdef"):
            got = printable(f"{why[:20]!r} and {image[:40]!r}")
            raise DataError(
                f"{path}: row {number}: expected a reason and a hash as they were written, got {got}; restore the row"
            )
        found.append(Row(number, image, file, cast(Reason, why), label, dataset))
    return found


def label_of(row: Row, classes: Sequence[str], path: Path) -> str:
    """Return the label of a row. Raises DataError if it is not a class of the dataset."""
    text = row.label.strip()
    for label in (row.label, text, text.removesuffix(".0")):  # some spreadsheets write a whole number with ".0"
        if label in classes or label == NONE:
            return label
    known = ", ".join(classes[:20]) + (", ..." if len(classes) > 20 else "")
    got = printable(row.label[:40])
    raise DataError(f"{path}: row {row.number}: expected one of {known}, or {NONE}, got {got}; correct the row")


def _cell(text: str) -> str:
    """Return a cell that no spreadsheet runs as a formula. A formula after apostrophes gets another apostrophe."""
    return APOSTROPHE + text if FORMULA.match(text.lstrip(APOSTROPHE)) else text


def _text(cell: str) -> str:
    """Return the text from which `_cell` made the cell."""
    return cell[1:] if cell.startswith(APOSTROPHE) and FORMULA.match(cell.lstrip(APOSTROPHE)) else cell
