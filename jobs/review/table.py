"""A review without a browser: a CSV table with a column for the label, which is edited and then applied."""

import contextlib
import csv
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple, cast, get_args

from jobs.console.output import CommandResult, log_to_stderr
from jobs.console.terminal import step
from jobs.review.data import Additions, ReviewItem, Viewer, read_data
from jobs.review.labels import Decision, DecisionError, Labels
from jobs.review.options import DEFAULT_DATASET, ApplyOptions
from jobs.review.session import require_allowed
from mnist_lib.data.corrections import NONE, Reason, labels_file
from mnist_lib.errors import DataError, ImageError
from mnist_lib.objects.output_file import atomic_output
from mnist_lib.objects.storage import open_storage
from mnist_lib.pictures.reading import Layout, Shape
from mnist_lib.wording import FORMULA, counted, printable

COLUMNS = ("hash", "file", "split", "why", "answer", "probability", "note", "current", "label", "dataset")
REQUIRED = ("hash", "file", "why", "label", "dataset")
MAX_TABLE_BYTES = 100_000_000
APOSTROPHE = "'"
NAMES = "surrogateescape"  # how Python represents names of files that are not UTF-8


class Row(NamedTuple):
    """A row with a label."""

    number: int  # in the file; the headings are row 1
    image: str
    file: str
    why: Reason
    label: str
    dataset: str


def write_table(
    path: Path, chosen: Iterable[tuple[ReviewItem, Reason]], model_classes: Sequence[str], dataset: str
) -> None:
    """Write a table of pictures. Raises OutputError if it cannot be written.

    As on the page, it has no answer of the model for a picture that measures how good the model is.
    Text that a spreadsheet could run as a formula gets an apostrophe in front.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    for item, why in chosen:
        answer = probability = ""
        if item.answer is not None:
            answer = model_classes[int(item.answer.argmax())]
            probability = f"{item.answer.max():.4f}"
        file = str(item.source.absolute()) if isinstance(item.source, Path) else item.name
        cells = (item.image, file, item.split, why, answer, probability, item.note, item.label or "", "", dataset)
        writer.writerow(map(_cell, cells))
    with atomic_output(path) as written:
        written.write_text(text.getvalue(), encoding="utf-8", errors=NAMES, newline="")


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
    labelled = []
    for number, cells in enumerate(rows, start=2):
        image, file, why, label, dataset = (_text(cells[name] or "") for name in REQUIRED)
        if not label.strip():
            continue
        if why not in get_args(Reason) or len(image) != 32 or not set(image) <= set("0123456789abcdef"):
            got = printable(f"{why[:20]!r} and {image[:40]!r}")
            raise DataError(
                f"{path}: row {number}: expected a reason and a hash as they were written, got {got}; restore the row"
            )
        labelled.append(Row(number, image, file, cast(Reason, why), label, dataset))
    return labelled


def apply_table(options: ApplyOptions) -> CommandResult:
    """Store the labels of a table. All rows are checked first; a label that is already stored is not stored again."""
    log_to_stderr(verbose=options.verbose)
    rows, objects = read_table(options.table), open_storage(options.storage)
    names = {row.dataset for row in rows}
    if options.dataset is None and len(names) > 1:
        raise DataError(f"{options.table}: expected rows of one dataset, got {len(names):,}; name one with --dataset")
    request = options.request(options.dataset or next(iter(names), DEFAULT_DATASET))
    with step(f"reading {request.name}") as progress:
        data = read_data(request, objects, progress)
    labels = Labels(labels_file(request, objects), options.author())
    labels.refresh()
    viewer = Viewer(data, Layout(shape=Shape(*data.dataset.image_shape)))  # the hashes are compared
    with contextlib.closing(viewer):
        decided = _decided(rows, labels, viewer, options.table)
        new = [(item, decision.label) for decision, item in decided if item.is_new and decision.label != NONE]
        additions = Additions.of(data) if new else None
        for item, label in new:
            assert additions is not None
            additions.add(item, label, viewer)
    labels.decide(*(decision for decision, _ in decided))
    tally, repeated = labels.tally(), len(rows) - len(decided)
    lines = [tally.text(labels.where)]
    if repeated:
        lines.append(f"{counted(repeated, 'label')} of the table {'was' if repeated == 1 else 'were'} already stored.")
    return CommandResult(
        {**asdict(tally), "already_stored": repeated, "labels": labels.where}, lines, json=options.json
    )


def _decided(rows: Sequence[Row], labels: Labels, viewer: Viewer, path: Path) -> list[tuple[Decision, ReviewItem]]:
    """Return what is to be stored, with the pictures. Raises DataError for a bad row."""
    decided = list[tuple[Decision, ReviewItem]]()
    repeated = [image for image, count in Counter(row.image for row in rows).items() if count > 1]
    if repeated:
        raise DataError(f"{path}: expected one row for each picture, got several for {repeated[0]}; remove all but one")
    for row in rows:
        label, item = class_in_row(row, viewer.data.classes, path), viewer.data.file_item(Path(row.file), row.image)
        if labels.is_decided(row.image, label, row.why):
            continue
        try:
            require_allowed(row.why, item)
            if item.is_new and label != NONE:
                viewer.read_again(item)
        except DecisionError as error:
            raise DataError(f"{path}: row {row.number}: {error}") from error
        except ImageError as error:
            raise DataError(f"{path}: row {row.number}: {row.file}: {error}") from error
        decided.append((Decision(image=row.image, label=label, why=row.why, replaced=item.label), item))
    return decided


def class_in_row(row: Row, classes: Sequence[str], path: Path) -> str:
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
