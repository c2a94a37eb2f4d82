"""`jobs.review apply`: store the labels of an edited table."""

from collections import Counter
from dataclasses import asdict
from pathlib import Path

from jobs.console.exit_codes import UsageError
from jobs.console.output import CommandResult, log_to_stderr
from jobs.console.terminal import step
from jobs.review.additions import Additions
from jobs.review.background import item_of
from jobs.review.data import ReviewedData, read_data
from jobs.review.labels import Labels
from jobs.review.options import DEFAULT_DATASET, ApplyOptions
from jobs.review.order import Item
from jobs.review.table import Row, label_of, read_table
from jobs.review.viewing import Viewer
from mnist_lib.data.corrections import NONE, Reason, labels_file
from mnist_lib.errors import DataError, ImageError
from mnist_lib.objects.storage import open_storage
from mnist_lib.pictures.reading import NO_FOLDERS, Layout, Shape
from mnist_lib.wording import counted


def apply(options: ApplyOptions) -> CommandResult:
    """Store the labels of a table. All rows are checked first; a label that is already stored is not stored again."""
    log_to_stderr(verbose=options.verbose)
    if options.table is None:
        raise UsageError("table: expected the edited table of jobs.review --to, got none; see --help")
    rows, objects = read_table(options.table), open_storage(options.storage)
    named = {row.dataset for row in rows}
    if options.dataset is None and len(named) > 1:
        raise DataError(f"{options.table}: expected rows of one dataset, got {len(named):,}; name one with --dataset")
    request = options.request(options.dataset or next(iter(named), DEFAULT_DATASET))
    with step(f"reading {request.name}") as progress:
        data = read_data(request, objects, progress)
    labels = Labels(labels_file(request, objects), options.author())
    labels.refresh()
    viewer = Viewer(data, Layout(shape=Shape(*data.dataset.image_shape)), NO_FOLDERS)  # the hashes are compared
    try:
        made, new = _decisions(rows, data, labels, viewer, options.table)
        if new:
            additions = Additions.of(data)
            for item, label in new:
                assert isinstance(item.source, Path)
                content, examined = viewer.read_again(item.source)
                additions.add(content, image=item.image, suffix=examined.suffix, label=label, split=item.split)
    finally:
        viewer.close()
    if made:
        labels.decide_all(made)
    tally, repeated = labels.tally(), len(rows) - len(made)
    lines = [tally.text(labels.where)]
    if repeated:
        lines.append(f"{counted(repeated, 'label')} of the table {'was' if repeated == 1 else 'were'} already stored.")
    document = {**asdict(tally), "already_stored": repeated, "labels": labels.where}
    return CommandResult(document, lines, json=options.json)


def _decisions(
    rows: list[Row], data: ReviewedData, labels: Labels, viewer: Viewer, path: Path
) -> tuple[list[tuple[str, str, str | None, Reason]], list[tuple[Item, str]]]:
    """Return what is to be stored, and the new pictures with their labels. Raises DataError for a bad row."""
    made, new = list[tuple[str, str, str | None, Reason]](), list[tuple[Item, str]]()
    repeated = [image for image, count in Counter(row.image for row in rows).items() if count > 1]
    if repeated:
        raise DataError(f"{path}: expected one row for each picture, got several for {repeated[0]}; remove all but one")
    for row in rows:
        label, known = label_of(row, data.classes, path), data.known.get(row.image)
        if labels.is_decided(row.image, label):
            continue
        item = item_of(data, Path(row.file), row.image)
        if row.why == "uncertain" and item.split == "hold-out":
            raise DataError(f"{path}: row {row.number}: expected no uncertain picture of the hold-out; restore the row")
        if known is None and item.is_new and label != NONE:
            _require_unchanged(row, viewer, path)
            new.append((item, label))
        made.append((row.image, label, item.label, row.why))
    return made, new


def _require_unchanged(row: Row, viewer: Viewer, path: Path) -> None:
    try:
        found = viewer.read_again(Path(row.file))[1].image_hash
    except ImageError as error:
        raise DataError(f"{path}: row {row.number}: {row.file}: {error}") from error
    if found != row.image:
        raise DataError(f"{path}: row {row.number}: expected the picture that was listed, got another; remove the row")
