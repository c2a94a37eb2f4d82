"""The summary as text for people: tables for a terminal, notes on the figures, and what has changed in the data.

Rich is imported late, since notices and the status of a schedule need only the sentences.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import starmap
from typing import TYPE_CHECKING

from mnist_lib.catalog import DATASETS, PICTURE_MODEL, entry_of
from mnist_lib.data.corrections import CorrectionCounts
from mnist_lib.data.groups import GroupCounts
from mnist_lib.data.request import Growth
from mnist_lib.results import Accuracy, TrialRecord
from mnist_lib.run_documents import (
    ChangesSummary,
    DatasetSummary,
    FailedTrial,
    FoldsSummary,
    ModelSummary,
    NearCopiesSummary,
    Summary,
)
from mnist_lib.spec import INEXACT_TEXT, is_exact
from mnist_lib.wording import and_balanced, counted, interval_text, percent, rounded

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

# With 181 images in batches of 128, keras-cnn was right for 58% after 40 steps; in batches of 16, for 95% after 240.
FEW_STEPS, FEW_STEPS_PER_EPOCH = 200, 10
WIDE = 0.05  # of a 95% interval: folds are then worth their time
PICTURE_MODEL_ADVICE = f"train a network that suits pictures: --models {PICTURE_MODEL}"
BALANCE = "to let every class count the same, train with --score balanced-accuracy --class-weights balanced"
MADE_UP_TEXTS = {  # of `mnist_lib.data.made_up`
    "noise": "noise",
    "surfaces": "plain and graded surfaces",
    "blobs": "blurred colours, and blobs",
    "tiles": "test pictures whose tiles are in another order",
    "two": "halves of two test pictures",
    "counter-examples": "your counter-examples that are held out",
}
KINDS = ("added", "removed", "relabelled")
SPLIT_NAMES = {"train": "for training", "test": "for the test"}


def result_tables(summary: Summary) -> list["RenderableType"]:
    """Return a table of models, a table of trials, the reasons of failures, facts of the data, notes, the time."""
    from rich.text import Text

    timing = summary.timing
    before_storing = timing.start_seconds + timing.prepare_seconds + timing.trials_seconds
    time = (
        f"Time: {timing.wall_seconds:.1f} s in total: {timing.start_seconds:.1f} s start,"
        f" {timing.prepare_seconds:.1f} s data, {timing.trials_seconds:.1f} s training,"
        f" {timing.wall_seconds - before_storing:.1f} s storing and report"
    )
    models: list[RenderableType] = []
    if summary.models:
        title = f"Accuracy on the {summary.dataset.test:,} test images of {summary.dataset.name}\n"
        models = [Text(title, "bold"), _table(*starmap(_model_cells, summary.models.items())), ""]
    texts = [f"{trial.id} failed: {trial.error.code} {trial.error.message}" for trial in summary.failed]
    texts += [folds_text(summary.folds)] if summary.folds else []
    texts += [*data_warnings(summary), *data_texts(summary.dataset)]
    for name, model in summary.models.items():
        texts += [f"{name}: test accuracy {text}." for text in partial_accuracies(model)]
    if summary.label_errors and summary.label_errors.count:
        errors = label_errors_text(summary.label_errors.count)
        texts.append(f"{errors}; python -m jobs.review shows the images first.")
    return [*models, _table(*map(_trial_cells, summary.trials)), "", *texts, *notes(summary), time]


def plain_table(first: str, *others: str) -> "Table":
    """Return an empty table without lines: the first column is on the left, others on the right."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="")
    table.add_column(first, no_wrap=True)
    for heading in others:
        table.add_column(heading, justify="right")
    return table


def _table(*rows: Mapping[str, str]) -> "Table":
    """Return a table of rows, each with its cells by heading. A column without any text is left out."""
    headings = dict.fromkeys(heading for row in rows for heading, text in row.items() if text)
    table = plain_table(*headings)
    for row in rows:
        table.add_row(*(row.get(heading, "") for heading in headings))
    return table


def _model_cells(name: str, model: ModelSummary) -> dict[str, str]:
    std = model.std_test_accuracy
    balanced = model.mean_test_balanced_accuracy if model.score != "accuracy" else None
    return {
        "model": name,
        "trials": str(model.trials),
        "mean ± std": percent(model.mean_test_accuracy) + ("" if std is None else f" ± {100 * std:.2f}"),
        "95% interval": interval_text(model.ci95),
        "highest": percent(model.highest_test_accuracy),
        "ensemble": percent(model.ensemble_test_accuracy) if model.trials > 1 else "-",
        "balanced": "" if balanced is None else percent(balanced),
        "always answers": model.always_answers or "",
    }


def _trial_cells(trial: TrialRecord | FailedTrial) -> dict[str, str]:
    if not isinstance(trial, TrialRecord):
        return {"trial": trial.id, "test": "failed"}
    return {
        "trial": trial.id,
        "test": percent(trial.test_accuracy),
        "balanced": percent(trial.test_score) if trial.spec.score != "accuracy" else "",
        "chosen epoch": f"{trial.best_epoch} of {rounded(trial.trained_epochs)}",
        "seconds": f"{trial.train_seconds:.1f}",
        "images/s": f"{trial.images_per_second:,.0f}",
        "devices": ", ".join(trial.devices),
    }


def folds_text(folds: FoldsSummary) -> str:
    """Return the accuracy on the images of all folds as a sentence."""
    accuracies = [
        f"{name} {percent(model.accuracy)} ({interval_text(model.ci95)})" + and_balanced(model.balanced_accuracy)
        for name, model in folds.models.items()
    ]
    found = ", ".join(accuracies) or "no model was trained on all of them"
    share = f"{folds.folds - 1}/{folds.folds}"
    return f"Folds: {found} on {counted(folds.images, 'image')}, by models trained on {share} of them."


def notes(summary: Summary) -> list[str]:
    """Return notes about the figures, one sentence each."""
    notes = []
    models = summary.models
    for varying in dict.fromkeys(model.ci95_over for model in models.values()):
        names = ", ".join(name for name, model in models.items() if model.ci95_over == varying)
        notes.append(f"The 95% interval of {names} allows for {varying}.")
    dataset = summary.dataset
    width = max((model.ci95[1] - model.ci95[0] for model in models.values()), default=0.0)
    if width > WIDE and summary.folds is None and dataset.name not in DATASETS:
        few = f"With {counted(dataset.test, 'test image')}, the 95% interval is {100 * width:.0f} points wide"
        notes.append(f"{few}; to measure the accuracy on the training images, too, train with --folds 5.")
    for trial in summary.successful:
        if trial.trained_epochs < trial.spec.epochs:
            epochs = f"{rounded(trial.trained_epochs)} of {trial.spec.epochs} epochs"
            notes.append(f"{trial.id} trained {epochs}, as many as the time limit allowed.")
    if not all(is_exact(trial.devices, trial.spec.deterministic) for trial in summary.successful):
        notes.append(f"The weights are not exact: {INEXACT_TEXT}.")
    first_trials = {trial.spec.model: trial for trial in reversed(summary.successful)}
    for name, model in models.items():
        if faults := _faults(name, model, dataset):
            notes.append(f"{name} {faults}.")
        trial = first_trials[name]
        per_epoch = math.ceil(dataset.train / trial.spec.global_batch_size)
        steps = round(per_epoch * trial.trained_epochs)
        if per_epoch < FEW_STEPS_PER_EPOCH and steps < FEW_STEPS:
            few = f"{name} took only {counted(steps, 'step')}, {per_epoch} in each epoch"
            notes.append(f"{few}; try a smaller --batch-size or more --epochs.")
    return notes


def label_errors_text(count: int) -> str:
    return f"{counted(count, 'label')} may be wrong"


def _faults(name: str, model: ModelSummary, dataset: DatasetSummary) -> str:
    """Return what is wrong with the answers of a model, and what to do, or ""."""
    suits = dataset.name in DATASETS or entry_of(name).suits_pictures
    remedy = "try more --epochs, if it has weights to train" if suits else PICTURE_MODEL_ADVICE
    faults = []
    if model.always_answers is not None:
        faults.append(f"always answers {model.always_answers}")
        if _small_classes(model):
            remedy = BALANCE if model.score == "accuracy" else "add images of the other classes"
    low, chance, has = _lower_limit_and_chance(model, dataset)
    if faults or low <= chance:
        faults.append(f"is not clearly better than guessing, which {has} {percent(chance)}")
    mirrored = () if faults else model.mirrored[:1]  # a model that has learned nothing confuses all classes
    if neglect := _neglect(model, dataset.classes):
        faults.append(neglect)
        remedy = BALANCE
    for one, other in mirrored:
        faults.append(f"confuses {one} and {other}, and its training images are mirrored")
        remedy = "leave out flip in --augment if one of them looks like the other in a mirror"
    return f"{' and '.join(faults)}; {remedy}" if faults else ""


def _lower_limit_and_chance(model: ModelSummary, dataset: DatasetSummary) -> tuple[float, float, str]:
    """Return the lower limit of the score of a model, the score of a guess, and the verb for such a score."""
    if model.score == "accuracy" or not model.recall:
        return model.ci95[0], dataset.largest_class / dataset.test, "is correct for"
    import numpy as np  # late, as Rich

    from mnist_lib.intervals import interval_of_recalls

    correct, totals = np.array([(row.correct, row.total) for row in model.recall if row.total]).T
    low, _ = interval_of_recalls(correct / totals, totals)
    return low, 1 / len(totals), "has a balanced accuracy of"


def _neglect(model: ModelSummary, classes: Sequence[str]) -> str:
    """Return that a model neglects the small class that it recognises least, or "".

    It does so if it recognises this class less than half as often as all images, and not by chance: if it recognised
    each class like all images, so few would be recognised with a probability below 5% in any small class.
    """
    from mnist_lib.data.changes import tail

    small = _small_classes(model)
    if not small or model.score != "accuracy" or model.always_answers is not None:
        return ""
    worst = min(small, key=lambda label: model.recall[label].correct / model.recall[label].total)
    row = model.recall[worst]
    accuracy = model.best_trial_test_accuracy
    by_chance = len(small) * tail(row.total - row.correct, row.total, 1 - accuracy)
    if row.correct / row.total >= accuracy / 2 or by_chance >= 0.05:
        return ""
    few = f"{row.correct:,} of {counted(row.total, 'test image')} ({interval_text(row.ci95)})"
    return f"neglects {classes[worst]}: it recognises {few}, but {percent(accuracy)} of all"


def _small_classes(model: ModelSummary) -> list[int]:
    """Return the classes with less than half as many test images as if all classes were equally large."""
    sizes = [row.total for row in model.recall]
    present = sum(map(bool, sizes))
    return [label for label, size in enumerate(sizes) if 0 < 2 * present * size < sum(sizes)]


def totals(changes: ChangesSummary) -> dict[str, int]:
    """Return the number of changed images of each kind."""
    return {kind: sum(sum(by_class.values()) for by_class in getattr(changes, kind).values()) for kind in KINDS}


def objections_text(name: str, objections: Sequence[str]) -> str:
    """Return why no model that was trained on a dataset is promoted."""
    return f"{name} has changed unexpectedly: {'; '.join(objections)}"


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


def data_warnings(summary: Summary) -> list[str]:
    """Return sentences about what a person should check in the data.

    They say why no model was promoted, with the command that accepts the dataset, and name unusual numbers of new
    images and unusually low accuracies on them.
    """
    dataset = summary.dataset
    texts = []
    if dataset.objections:
        texts.append(f"{objections_text(dataset.name, dataset.objections)}. To accept the change: {dataset.accept}")
    unusual = growth_texts(dataset.changes.unusual) if dataset.changes else []
    texts += [f"Unusual: {text}; check that they belong there." for text in unusual]
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


def groups_texts(groups: GroupCounts | None) -> list[str]:
    """Return a sentence about the groups of the images, or none if they have no groups."""
    if groups is None:
        return []
    return [f"Groups by {groups.by}: {groups.train:,} for training and validation, {groups.test:,} for the test."]


def near_copies_texts(found: NearCopiesSummary | None) -> list[str]:
    """Return a sentence that counts the test images that resemble a training image; none if there are none."""
    if found is None or not found.count:
        return []
    such = "".join(f", such as {files.test} ({files.train})" for files in found.first[:1])
    resemble = "resembles" if found.count == 1 else "resemble"
    images = counted(found.compared, "test image")
    return [f"Near-copies: {found.count:,} of {images} {resemble} a training image{such}."]


def data_texts(dataset: DatasetSummary) -> list[str]:
    """Return sentences about the data of a run: what has changed, groups, corrections and near-copies."""
    return [
        *([f"Data: {changes_text(dataset.changes)}."] if dataset.changes else []),
        *groups_texts(dataset.groups),
        *corrections_texts(dataset.corrections),
        *near_copies_texts(dataset.near_copies),
    ]


def partial_accuracies(model: ModelSummary) -> list[str]:
    """Return the accuracies of a stored trial on a part of the test images, or with other labels, as phrases."""
    tests = (
        (model.new_test, None, "that are new"),
        (model.published_test, None, "with the published labels"),
        (model.reviewed_test, model.reviewed_test_ci95, "reviewed at random"),
        (model.distinct_test, model.distinct_test_ci95, "that resemble no training image"),
    )
    return [
        f"{percent(test.value)}{f' ({interval_text(ci95)})' if ci95 else ''} on {counted(test.total, 'image')} {which}"
        for test, ci95, which in tests
        if test
    ]
