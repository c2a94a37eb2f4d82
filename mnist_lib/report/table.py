"""The summary as a table for people: the answer per model, then what it is made of."""

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from mnist_lib.results import Accuracy

CHANCE = 0.1  # ten classes of about equal size


def render(summary: Mapping[str, Any], console: Console) -> None:
    """Prints the tables and the notes that belong to them."""
    tables = [_models(summary)] if summary["models"] else []
    console.print(Group(*tables, _trials(summary), *map(Text, [*_failures(summary), *notes(summary)])))


def percent(value: float) -> str:
    return f"{100 * value:.2f}%"


def _models(summary: Mapping[str, Any]) -> Table:
    test = summary["dataset"]["test"]
    table = Table(
        title=f"Accuracy on the {test:,} test images of {summary['dataset']['name']}",
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
    )
    for heading in ("model", "trials", "mean ± std", "95% interval", "highest", "ensemble"):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    for name, model in summary["models"].items():
        std = model["std_test_accuracy"]
        table.add_row(
            name,
            str(model["trials"]),
            percent(model["mean_test_accuracy"]) + ("" if std is None else f" ± {100 * std:.2f}"),
            " to ".join(map(percent, model["ci95"])),
            percent(model["highest_test_accuracy"]),
            percent(model["ensemble_test_accuracy"]) if model["trials"] > 1 else "-",
        )
    return table


def _trials(summary: Mapping[str, Any]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("trial", "test", "correct", "best epoch", "seconds", "images/s", "devices"):
        table.add_column(heading, justify="left" if heading in ("trial", "devices") else "right")
    for trial in summary["trials"]:
        if trial["status"] == "ok":
            table.add_row(
                trial["id"],
                percent(trial["test_accuracy"]),
                f"{trial['test']['correct']:,}",
                f"{trial['best_epoch']} of {trial['trained_epochs']}",
                f"{trial['train_seconds']:.1f}",
                f"{trial['images_per_second']:,.0f}",
                ", ".join(trial["devices"]),
            )
        else:
            table.add_row(trial["id"], "failed")
    return table


def _failures(summary: Mapping[str, Any]) -> list[str]:
    failed = [trial for trial in summary["trials"] if trial["status"] == "failed"]
    return [f"{trial['id']} failed: {trial['error']['code']} {trial['error']['message']}" for trial in failed]


def notes(summary: Mapping[str, Any]) -> list[str]:
    """What a reader of the figures should know."""
    models = summary["models"].items()
    notes = []
    if any(model["ci95_over"] == "test images" for _, model in models):
        notes.append("The interval of a single trial is over test images; with --seeds 2 or more it is over seeds.")
    for trial in summary["trials"]:
        if trial["status"] == "ok" and trial["trained_epochs"] < trial["epochs"]:
            notes.append(f"{trial['id']} trained {trial['trained_epochs']} of {trial['epochs']} epochs: time was up.")
    for name, _ in models:
        if _counted(summary, name).interval()[0] <= CHANCE:
            notes.append(f"{name} is no better than guessing yet: it needs more steps; try more --epochs.")
    return notes


def _counted(summary: Mapping[str, Any], model: str) -> Accuracy:
    """Over all trials of a model."""
    counts = [trial["test"] for trial in summary["trials"] if trial["model"] == model and trial["status"] == "ok"]
    return sum((Accuracy(**count) for count in counts), Accuracy(0, 0))
