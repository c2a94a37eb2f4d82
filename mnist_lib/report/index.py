"""The index of a storage: current champions, the runs of each data set, and the history of the champions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from markupsafe import Markup

from mnist_lib.report import plots
from mnist_lib.report.page import render
from mnist_lib.report.summary import settings_of
from mnist_lib.run_documents import Summary

MAX_RUNS = 500  # of one dataset in its table; the plot shows all


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of the table of runs."""

    run: str
    ended: str  # UTC, ISO 8601; "" for a run of an early version of the program
    dataset: str
    trials: int
    failed: int
    settings: Mapping[str, Mapping[str, str]]  # as returned by `settings_of`
    accuracies: Mapping[str, float]  # by model, the mean over its trials
    champions: Mapping[str, int]  # by model, the version of this run if it was the champion at the end
    link: str | None  # to its report


@dataclass(frozen=True)
class Change:
    """A version that became champion."""

    model: str
    version: int
    at: str  # UTC, ISO 8601
    kind: str  # "promote" or "rollback"; "keep" if the first record of a renamed data set was a refusal
    why: str
    current: bool  # whether it is the latest change of its model and data set
    dataset: str
    accuracy: float | None = None  # on the newest hold-out, or on its own; None if it is no longer known
    interval: tuple[float, float] | None = None  # of the current champion's accuracy
    budget: str | None = None  # what is left of the significance for the data set; None if that is not known


def row_of(summary: Summary, link: str | None) -> Row:
    models = summary.models
    return Row(
        run=summary.run,
        ended=summary.ended,
        dataset=summary.dataset.name,
        trials=len(summary.trials),
        failed=len(summary.failed),
        settings=settings_of(summary),
        accuracies={name: model.mean_test_accuracy for name, model in models.items()},
        champions={name: model.version for name, model in models.items() if model.champion},
        link=link,
    )


def index(rows: Sequence[Row], changes: Sequence[Change], left_out: Sequence[str] = ()) -> bytes:
    """Return the page.

    Args:
        rows: in any order.
        changes: in order of time for each model.
        left_out: what cannot be shown, each with the reason.
    """
    runs = sorted(rows, key=lambda row: (row.ended, row.run), reverse=True)
    changes = sorted(changes, key=lambda change: change.at)
    models = sorted({name for row in runs for name in row.accuracies})
    groups = []
    for dataset in dict.fromkeys(row.dataset for row in runs):
        own = [row for row in runs if row.dataset == dataset]
        groups.append(
            {
                "dataset": dataset,
                "rows": own,
                "settings": _settings(own),
                "differing": _differing(own),
                "models": [name for name in models if any(name in row.accuracies for row in own)],
                "plot": _plot(f"over-time-{dataset}", models, own, [c for c in changes if c.dataset == dataset]),
            }
        )
    champions = sorted(
        (change for change in changes if change.current), key=lambda change: (change.model, change.dataset)
    )
    return render(
        "index.html",
        groups=groups,
        total=len(runs),
        max_runs=MAX_RUNS,
        models=models,
        champions=champions,
        changes=changes[::-1],
        left_out=left_out,
    )


def _settings(rows: Sequence[Row]) -> dict[str, dict[str, str]]:
    """Return the settings of each model in the newest of its runs. The newest run comes first."""
    settings: dict[str, dict[str, str]] = {}
    for row in rows:
        for name, by_model in row.settings.items():
            settings[name] = {**by_model, **settings.get(name, {})}
    return settings


def _differing(rows: Sequence[Row]) -> list[str]:
    """Return the settings in which two runs differ for the same model."""
    names = dict.fromkeys(name for row in rows for name in row.settings)
    models = dict.fromkeys(model for row in rows for model in row.accuracies)

    def differs(name: str, model: str) -> bool:
        return len({row.settings.get(name, {}).get(model) for row in rows if model in row.accuracies}) > 1

    return [name for name in names if any(differs(name, model) for model in models)]


def _plot(name: str, models: Sequence[str], rows: Sequence[Row], changes: Sequence[Change]) -> Markup | None:
    """Return a plot of the accuracies on one dataset over time; None if there is nothing to plot."""
    series = {}
    for number, model in enumerate(models):
        dated = [(row.ended, row.accuracies[model]) for row in rows[::-1] if row.ended and model in row.accuracies]
        runs = [(datetime.fromisoformat(at), accuracy) for at, accuracy in dated]
        own = [change for change in changes if change.model == model]
        stars = [(datetime.fromisoformat(c.at), c.accuracy) for c in own if c.accuracy is not None]
        if runs:
            series[model] = number, runs, stars
    return Markup(plots.over_time(name, series).svg) if series else None
