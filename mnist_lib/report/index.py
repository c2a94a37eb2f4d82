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


@dataclass(frozen=True)
class Change:
    """A version that became champion."""

    model: str
    version: int
    at: str  # UTC, ISO 8601
    kind: str
    why: str
    accuracy: float | None  # on the test split; None if that cannot be told any more


def index(summaries: Sequence[Mapping[str, Any]], reports: Mapping[str, str], changes: Sequence[Change]) -> bytes:
    """
    Args:
        summaries: of the complete runs, in any order.
        reports: where they are, from the index on, by the names of the runs that have one.
        changes: of all models, in any order.
    """
    runs = sorted(summaries, key=lambda summary: (summary.get("ended", ""), summary["run"]), reverse=True)
    accuracies: dict[str, list[tuple[datetime, float]]] = defaultdict(list)
    for summary in reversed(runs):
        if "ended" in summary:  # an older program did not write it
            for name, model in summary["models"].items():
                accuracies[name].append((datetime.fromisoformat(summary["ended"]), model["mean_test_accuracy"]))
    stars: dict[str, list[tuple[datetime, float]]] = defaultdict(list)
    for change in sorted(changes, key=lambda change: change.at):
        if change.accuracy is not None:
            stars[change.model].append((datetime.fromisoformat(change.at), change.accuracy))
    page = template("index.html").render(
        runs=runs[:MOST_RUNS_SHOWN],
        total=len(runs),
        models=sorted({name for summary in runs for name in summary["models"]}),
        reports=reports,
        changes=sorted(changes, key=lambda change: change.at, reverse=True),
        plot=Markup(plots.over_time(accuracies, stars).svg) if accuracies else None,
    )
    return page.encode()
