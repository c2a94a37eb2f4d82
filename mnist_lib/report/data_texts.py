"""What people read about the data of a run: what has changed since the last run, and which labels are corrected."""

from collections.abc import Mapping, Sequence

from mnist_lib.data.corrections import CorrectionCounts
from mnist_lib.data.request import Growth
from mnist_lib.results import Accuracy
from mnist_lib.run_documents import ChangesSummary, ModelSummary, Summary
from mnist_lib.wording import counted, percent

KINDS = ("added", "removed", "relabelled")
SPLIT_NAMES = {"train": "for training", "test": "for the test"}


def totals(changes: ChangesSummary) -> dict[str, int]:
    """Return the number of changed images of each kind."""
    return {kind: sum(sum(by_class.values()) for by_class in getattr(changes, kind).values()) for kind in KINDS}


def changes_text(changes: ChangesSummary) -> str:
    """Return the changes as a phrase: "3 images added (2 for training, 1 for the test) since run r"."""
    parts = []
    for kind, total in totals(changes).items():
        by_split = {split: sum(by_class.values()) for split, by_class in getattr(changes, kind).items()}
        where = ", ".join(f"{count:,} {SPLIT_NAMES.get(split, split)}" for split, count in by_split.items() if count)
        if total:
            parts.append(f"{counted(total, 'image')} {kind} ({where})")
    return f"{', '.join(parts) or 'no image has changed'} since run {changes.since}"


def growth_texts(unusual: Mapping[str, Growth]) -> list[str]:
    """Return phrases about the classes to which unusually many images were added."""
    return [
        f"{counted(growth.added, 'image')} added to class {name}, where {growth.usual:,.1f} a run are usual"
        for name, growth in unusual.items()
    ]


def unusual_texts(summary: Summary) -> list[str]:
    """Return sentences about unusual numbers of new images, and about unusually low accuracies on them."""
    unusual = summary.dataset.changes.unusual if summary.dataset.changes else {}
    texts = [f"Unusual: {text}; check that they belong there." for text in growth_texts(unusual)]
    for name, model in summary.models.items():
        if model.new_test_before:
            texts.append(f"Unusual: {name} has {new_test_text(model.new_test, model.new_test_before)}.")
    return texts


def new_test_text(test: Accuracy | None, before: Accuracy | None) -> str:
    """Return the accuracy of a stored trial on the new test images as a phrase; "" if there are none.

    Args:
        before: the accuracy of earlier runs, if it is much higher.
    """
    if test is None or not test.total:
        return ""
    fell = f", a fall from {percent(before.value)} in earlier runs" if before else ""
    return f"{percent(test.value)} on {counted(test.total, 'new picture')}{fell}"


def changes_by_class(changes: ChangesSummary, classes: Sequence[str]) -> dict[str, list[int]]:
    """Return a row for each class with changes: for each of `KINDS`, the images for training and those for the test.

    Args:
        classes: the names of the present classes, which come first.
    """
    columns = [getattr(changes, kind).get(split, {}) for kind in KINDS for split in SPLIT_NAMES]
    names = dict.fromkeys([*classes, *(name for column in columns for name in column)])
    rows = {name: [column.get(name, 0) for column in columns] for name in names}
    return {name: row for name, row in rows.items() if any(row)}


def corrections_texts(corrections: CorrectionCounts | None) -> list[str]:
    """Return sentences about the corrections of a dataset, if there are any."""
    if corrections is None:
        return []
    counts = (corrections.applied, corrections.removed, corrections.confirmed)
    applied, removed, confirmed = (counted(count, "image") for count in counts)
    texts = [f"Corrections: {applied} relabelled, {removed} removed, {confirmed} confirmed."]
    if corrections.holdout:
        texts.append(f"Of these changes, {corrections.holdout:,} concern test images.")
    if disputed := corrections.disputed_holdout:
        were = "was" if disputed == 1 else "were"
        texts.append(
            f"{counted(disputed, 'test image')} {were} corrected because a model disputed the label, which favours"
            " that model."
        )
    return texts


def data_texts(summary: Summary) -> list[str]:
    """Return sentences about the data of a run, and about accuracies on a part of the test images."""
    dataset, texts = summary.dataset, []
    if dataset.changes:
        texts.append(f"Data: {changes_text(dataset.changes)}.")
    texts += [*corrections_texts(dataset.corrections), *unusual_texts(summary)]
    for name, model in summary.models.items():
        texts += [f"{name}: test accuracy {text}." for text in partial_accuracies(model)]
    return texts


def partial_accuracies(model: ModelSummary) -> list[str]:
    """Return the accuracies of a stored trial on a part of the test images, or with other labels, as phrases."""
    phrases = []
    if new := model.new_test:
        phrases.append(f"{percent(new.value)} on the {counted(new.total, 'new picture')} alone")
    if published := model.published_test:
        images = counted(published.total, "image")
        phrases.append(f"{percent(published.value)} on the published labels of {images}")
    return phrases
