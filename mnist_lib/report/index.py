"""The index of a storage: every complete run, the newest first; accuracy over time; when which version took over."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from markupsafe import Markup

from mnist_lib.report import plots
from mnist_lib.report.page import template

MOST_RUNS_SHOWN = 500


@dataclass(frozen=True, kw_only=True)
class Row:
    """A run."""

    run: str
    ended: str  # UTC, ISO 8601; "" of one that an older program completed
    dataset: str
    trials: int
    failed: int
    accuracies: Mapping[str, float]  # by model, the mean over its trials
    champions: Mapping[str, int]  # of the models whose version was the champion then, its number
    link: str | None  # to its report


@dataclass(frozen=True)
class Change:
    """A version that became champion."""

    model: str
    version: int
    at: str  # UTC, ISO 8601
    kind: str
    why: str
    accuracy: float | None  # on the test split; None if that cannot be told any more


def row_of(summary: Mapping[str, Any], link: str | None) -> Row:
    """Raises KeyError, TypeError, ValueError or AttributeError for what is no summary."""
    models, trials = summary["models"], summary["trials"]
    ended = str(summary.get("ended", ""))
    if ended:
        datetime.fromisoformat(ended)
    return Row(
        run=str(summary["run"]),
        ended=ended,
        dataset=str(summary["dataset"]["name"]),
        trials=len(trials),
        failed=sum(trial["status"] == "failed" for trial in trials),
        accuracies={str(name): float(model["mean_test_accuracy"]) for name, model in models.items()},
        champions={str(name): int(model["version"]) for name, model in models.items() if model.get("champion")},
        link=link,
    )


def index(rows: Sequence[Row], changes: Sequence[Change]) -> bytes:
    """Both in any order; the changes of all models."""
    runs = sorted(rows, key=lambda row: (row.ended, row.run), reverse=True)
    accuracies: dict[str, list[tuple[datetime, float]]] = defaultdict(list)
    for row in reversed(runs):
        if row.ended:
            for name, accuracy in row.accuracies.items():
                accuracies[name].append((datetime.fromisoformat(row.ended), accuracy))
    stars: dict[str, list[tuple[datetime, float]]] = defaultdict(list)
    for change in sorted(changes, key=lambda change: change.at):
        if change.accuracy is not None:
            stars[change.model].append((datetime.fromisoformat(change.at), change.accuracy))
    page = template("index.html").render(
        runs=runs[:MOST_RUNS_SHOWN],
        total=len(runs),
        models=sorted({name for row in runs for name in row.accuracies}),
        changes=sorted(changes, key=lambda change: change.at, reverse=True),
        plot=Markup(plots.over_time(accuracies, stars).svg) if accuracies else None,
    )
    return page.encode()
