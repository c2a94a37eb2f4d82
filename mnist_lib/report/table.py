"""The summary as tables and lines of text for a terminal."""

import math

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from mnist_lib.catalog import DIGITS
from mnist_lib.report.data_texts import data_texts
from mnist_lib.results import Accuracy
from mnist_lib.run_documents import SuccessfulTrial, Summary
from mnist_lib.wording import counted, percent

# With 181 images in batches of 128, keras-cnn was right for 58% after 40 steps; in batches of 16, for 95% after 240.
FEW_STEPS, FEW_STEPS_PER_EPOCH = 200, 10


def result_tables(summary: Summary) -> list[RenderableType]:
    """Return a table of models, a table of trials, the reasons of failures, facts of the data, notes, the time."""
    dataset, timing = summary.dataset, summary.timing
    title = Text(f"Accuracy on the {dataset.test:,} test images of {dataset.name}\n", "bold")
    failures = [f"{trial.id} failed: {trial.error.code} {trial.error.message}" for trial in summary.failed]
    total, data, training = timing.wall_seconds, timing.prepare_seconds, timing.trials_seconds
    start = timing.start_seconds or 0.0  # older releases counted from the connection to the cluster
    parts = f"{start:.1f} s start, {data:.1f} s data, {training:.1f} s training"
    time = f"{total:.1f} s in total: {parts}, {total - start - data - training:.1f} s storing and report"
    models: list[RenderableType] = [title, _models(summary), ""] if summary.models else []
    return [*models, _trials(summary), "", *failures, *data_texts(summary), *notes(summary), f"Time: {time}"]


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="")
    table.add_column(first, no_wrap=True)
    for heading in others:
        table.add_column(heading, justify="right")
    return table


def _models(summary: Summary) -> Table:
    table = _table("model", "trials", "mean ± std", "95% interval", "highest", "ensemble")
    for name, model in summary.models.items():
        std = model.std_test_accuracy
        table.add_row(
            name,
            str(model.trials),
            percent(model.mean_test_accuracy) + ("" if std is None else f" ± {100 * std:.2f}"),
            " to ".join(map(percent, model.ci95)),
            percent(model.highest_test_accuracy),
            percent(model.ensemble_test_accuracy) if model.trials > 1 else "-",
        )
    return table


def _trials(summary: Summary) -> Table:
    table = _table("trial", "test", "chosen epoch", "seconds", "images/s", "devices")
    for trial in summary.trials:
        if isinstance(trial, SuccessfulTrial):
            table.add_row(
                trial.id,
                percent(trial.test_accuracy),
                f"{trial.best_epoch} of {trial.trained_epochs}",
                f"{trial.train_seconds:.1f}",
                f"{trial.images_per_second:,.0f}",
                ", ".join(trial.devices),
            )
        else:
            table.add_row(trial.id, "failed")
    return table


def notes(summary: Summary) -> list[str]:
    """Return notes about the figures, one sentence each."""
    notes = []
    if any(model.ci95_over == "test images" for model in summary.models.values()):
        notes.append("The interval of a single trial is over test images; with --seeds 2 or more it is over seeds.")
    dataset = summary.dataset
    equal_classes = dataset.test / len(dataset.classes or DIGITS)  # of runs of early versions of the program
    chance = (dataset.largest_class or equal_classes) / dataset.test
    for trial in summary.successful:
        if trial.trained_epochs < trial.epochs:
            epochs = f"{trial.trained_epochs} of {trial.epochs} epochs"
            notes.append(f"{trial.id} trained {epochs}, as many as the time limit allowed.")
    for name in summary.models:
        trials = [trial for trial in summary.successful if trial.model == name]
        if sum((trial.test for trial in trials), Accuracy(0, 0)).interval()[0] <= chance:
            guessing = f"guessing, which is right for {percent(chance)}"
            notes.append(f"{name} is not better than {guessing}; try more --epochs, if it has weights to train.")
        per_epoch = math.ceil(dataset.train / (trials[0].global_batch_size or 1))
        if per_epoch < FEW_STEPS_PER_EPOCH and (steps := per_epoch * trials[0].trained_epochs) < FEW_STEPS:
            few = f"{name} took only {counted(steps, 'step')}, {per_epoch} in each epoch"
            notes.append(f"{few}; try a smaller --batch-size or more --epochs.")
    return notes
