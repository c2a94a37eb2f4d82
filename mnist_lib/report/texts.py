"""The summary as text for people: tables for a terminal, notes on the figures, and what has changed in the data.

Rich is imported late, since notices and the status of a schedule need only the sentences.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from mnist_lib.catalog import DATASETS, PICTURE_MODEL, entry_of
from mnist_lib.data.corrections import CorrectionCounts
from mnist_lib.data.groups import GroupCounts
from mnist_lib.data.request import Growth
from mnist_lib.results import Accuracy, TrialRecord
from mnist_lib.run_documents import (
    ChangesSummary,
    DatasetSummary,
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

    dataset, timing = summary.dataset, summary.timing
    title = Text(f"Accuracy on the {dataset.test:,} test images of {dataset.name}\n", "bold")
    failures = [f"{trial.id} failed: {trial.error.code} {trial.error.message}" for trial in summary.failed]
    total, data, training = timing.wall_seconds, timing.prepare_seconds, timing.trials_seconds
    start = timing.start_seconds
    parts = f"{start:.1f} s start, {data:.1f} s data, {training:.1f} s training"
    time = f"{total:.1f} s in total: {parts}, {total - start - data - training:.1f} s storing and report"
    models: list[RenderableType] = [title, _models(summary), ""] if summary.models else []
    folds = [folds_text(summary.folds)] if summary.folds else []
    errors = summary.label_errors.count if summary.label_errors else 0
    wrong = [f"{label_errors_text(errors)}; python -m jobs.review shows the images first."] if errors else []
    rest = [*failures, *folds, *data_texts(summary), *wrong, *notes(summary), f"Time: {time}"]
    return [*models, _trials(summary), "", *rest]


def plain_table(first: str, *others: str) -> "Table":
    """Return an empty table without lines: the first column is on the left, others on the right."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="")
    table.add_column(first, no_wrap=True)
    for heading in others:
        table.add_column(heading, justify="right")
    return table


def _models(summary: Summary) -> "Table":
    models = summary.models.values()
    balanced = any(model.score != "accuracy" for model in models)
    constant = any(model.always_answers is not None for model in models)
    table = plain_table(
        *("model", "trials", "mean ± std", "95% interval", "highest", "ensemble"),
        *(["balanced"] if balanced else []),
        *(["always answers"] if constant else []),
    )
    for name, model in summary.models.items():
        std = model.std_test_accuracy
        table.add_row(
            name,
            str(model.trials),
            percent(model.mean_test_accuracy) + ("" if std is None else f" ± {100 * std:.2f}"),
            interval_text(model.ci95),
            percent(model.highest_test_accuracy),
            percent(model.ensemble_test_accuracy) if model.trials > 1 else "-",
            *([_share(model.mean_test_balanced_accuracy)] if balanced else []),
            *([model.always_answers or "-"] if constant else []),
        )
    return table


def _share(share: float | None) -> str:
    return "-" if share is None else percent(share)


def _trials(summary: Summary) -> "Table":
    balanced = any(trial.spec.score != "accuracy" for trial in summary.trials)
    headings = ["trial", "test", *(["balanced"] if balanced else []), "chosen epoch", "seconds", "images/s", "devices"]
    table = plain_table(*headings)
    for trial in summary.trials:
        if isinstance(trial, TrialRecord):
            table.add_row(
                trial.id,
                percent(trial.test_accuracy),
                *([_share(trial.test_balanced_accuracy)] if balanced else []),
                f"{trial.best_epoch} of {rounded(trial.trained_epochs)}",
                f"{trial.train_seconds:.1f}",
                f"{trial.images_per_second:,.0f}",
                ", ".join(trial.devices),
            )
        else:
            table.add_row(trial.id, "failed")
    return table


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
    for varying in dict.fromkeys(model.ci95_over for model in summary.models.values()):
        names = ", ".join(name for name, model in summary.models.items() if model.ci95_over == varying)
        notes.append(f"The 95% interval of {names} allows for {varying}.")
    dataset = summary.dataset
    width = max((model.ci95[1] - model.ci95[0] for model in summary.models.values()), default=0.0)
    if width > WIDE and summary.folds is None and dataset.name not in DATASETS:
        few = f"With {counted(dataset.test, 'test image')}, the 95% interval is {100 * width:.0f} points wide"
        notes.append(f"{few}; to measure the accuracy on the training images, too, train with --folds 5.")
    chance = dataset.largest_class / dataset.test
    for trial in summary.successful:
        if trial.trained_epochs < trial.spec.epochs:
            epochs = f"{rounded(trial.trained_epochs)} of {trial.spec.epochs} epochs"
            notes.append(f"{trial.id} trained {epochs}, as many as the time limit allowed.")
    if not all(is_exact(trial.devices, trial.spec.deterministic) for trial in summary.successful):
        notes.append(f"The weights are not exact: {INEXACT_TEXT}.")
    for name, model in summary.models.items():
        trials = [trial for trial in summary.successful if trial.spec.model == name]
        suits = dataset.name in DATASETS or entry_of(name).suits_pictures
        if faults := _faults(model, dataset.classes, chance, suits=suits):
            notes.append(f"{name} {faults}.")
        per_epoch = math.ceil(dataset.train / trials[0].spec.global_batch_size)
        if per_epoch < FEW_STEPS_PER_EPOCH and (steps := round(per_epoch * trials[0].trained_epochs)) < FEW_STEPS:
            few = f"{name} took only {counted(steps, 'step')}, {per_epoch} in each epoch"
            notes.append(f"{few}; try a smaller --batch-size or more --epochs.")
    return notes


def label_errors_text(count: int) -> str:
    return f"{counted(count, 'label')} may be wrong"


def _faults(model: ModelSummary, classes: Sequence[str], chance: float, *, suits: bool) -> str:
    """Return what is wrong with the answers of a model, and what to do, or "".

    Args:
        chance: the share of the largest class, for which always answering it is right.
        suits: whether the network suits the pictures of the dataset.
    """
    faults, by_accuracy = [], model.score == "accuracy"
    neglected = neglected_class(model) if by_accuracy and model.always_answers is None else None
    if model.always_answers is not None:
        faults.append(f"always answers {model.always_answers}")
    low, has = model.ci95[0], "is right for"
    if not by_accuracy and model.recall:
        import numpy as np  # late, as Rich

        from mnist_lib.intervals import interval_of_recalls

        correct, totals = np.array([(row.correct, row.total) for row in model.recall if row.total]).T
        (low, _), has = interval_of_recalls(correct / totals, totals), "has a balanced accuracy of"
        chance = 1 / len(totals)
    if faults or low <= chance:
        faults.append(f"is not clearly better than guessing, which {has} {percent(chance)}")
    mirrored = () if faults else model.mirrored[:1]  # a model that has learned nothing confuses all classes
    if neglected is not None:
        row = model.recall[neglected]
        few = f"{row.correct:,} of {counted(row.total, 'test image')} ({interval_text(row.ci95)})"
        accuracy = percent(model.best_trial_test_accuracy)
        faults.append(f"neglects {classes[neglected]}: it recognises {few}, but {accuracy} of all")
    for one, other in mirrored:
        faults.append(f"confuses {one} and {other}, and its training images are mirrored")
    remedy = "try more --epochs, if it has weights to train" if suits else PICTURE_MODEL_ADVICE
    if neglected is not None or (model.always_answers is not None and small_classes(model)):
        remedy = BALANCE if by_accuracy else "add images of the other classes"
    if mirrored:
        remedy = "leave out flip in --augment if one of them looks like the other in a mirror"
    return f"{' and '.join(faults)}; {remedy}" if faults else ""


def small_classes(model: ModelSummary) -> list[int]:
    """Return the classes with less than half as many test images as if all classes were equally large."""
    sizes = [row.total for row in model.recall]
    present = sum(map(bool, sizes))
    return [label for label, size in enumerate(sizes) if 0 < 2 * present * size < sum(sizes)]


def neglected_class(model: ModelSummary) -> int | None:
    """Return the small class that is recognised least, if less than half as often as all images and not by chance.

    Chance: if it were recognised like all images, so few would be with a probability of 5% or more in some small class.
    """
    from mnist_lib.data.changes import tail

    recall = {label: model.recall[label].correct / model.recall[label].total for label in small_classes(model)}
    worst, accuracy = min(recall, key=recall.__getitem__, default=0), model.best_trial_test_accuracy
    if not recall or recall[worst] >= accuracy / 2:
        return None
    row = model.recall[worst]
    return worst if len(recall) * tail(row.total - row.correct, row.total, 1 - accuracy) < 0.05 else None


def totals(changes: ChangesSummary) -> dict[str, int]:
    """Return the number of changed images of each kind."""
    return {kind: sum(sum(by_class.values()) for by_class in getattr(changes, kind).values()) for kind in KINDS}


def objections_text(name: str, objections: Sequence[str]) -> str:
    """Return why no model that was trained on a dataset is promoted."""
    return f"{name} has changed unexpectedly: {'; '.join(objections)}"


def objection_texts(dataset: DatasetSummary) -> list[str]:
    """Return why no model was promoted, with the command that accepts the dataset; none if nothing is objected to."""
    if not dataset.objections:
        return []
    return [f"{objections_text(dataset.name, dataset.objections)}. To accept the change: {dataset.accept}"]


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


def data_texts(summary: Summary) -> list[str]:
    """Return sentences about the data of a run, and about accuracies on a part of the test images."""
    dataset = summary.dataset
    texts = objection_texts(dataset)
    if dataset.changes:
        texts.append(f"Data: {changes_text(dataset.changes)}.")
    texts += [*groups_texts(dataset.groups), *corrections_texts(dataset.corrections), *unusual_texts(summary)]
    texts += near_copies_texts(dataset.near_copies)
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
    if (reviewed := model.reviewed_test) and model.reviewed_test_ci95:
        interval, images = interval_text(model.reviewed_test_ci95), counted(reviewed.total, "image")
        phrases.append(f"{percent(reviewed.value)} (95% interval {interval}) on {images} reviewed at random")
    if (distinct := model.distinct_test) and (limits := model.distinct_test_ci95):
        others = f"{percent(distinct.value)} ({interval_text(limits)})"
        phrases.append(f"{others} on the {counted(distinct.total, 'image')} that resemble no training image")
    return phrases
