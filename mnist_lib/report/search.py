"""What a report says about a search: its settings against their scores, its rungs, and its best configurations."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter, PercentFormatter, StrMethodFormatter

from mnist_lib.report.drawing import Plot, color_of, legend, new_figure, plot
from mnist_lib.results import mean_accuracy
from mnist_lib.run_documents import SearchDocument, Summary
from mnist_lib.wording import printable, short_name

MAX_SHOWN = 6  # settings with a plot of their own
BEST = 10  # configurations in the table
ROW_HEIGHT = 1.8  # inches


@dataclass(frozen=True)
class Tried:
    """A configuration that has a score."""

    number: int
    settings: Mapping[str, Any]
    scores: Mapping[int, float]  # by epoch, of the rungs that it has completed

    @property
    def epochs(self) -> int:
        return max(self.scores)

    @property
    def score(self) -> float:
        return self.scores[self.epochs]


@dataclass(frozen=True)
class ReportedSearch:
    """The configurations that have completed a rung, the best first, and the winner with fresh seeds."""

    rungs: Sequence[int]
    tried: Sequence[Tried]
    unfinished: int  # number of configurations whose first rung was not complete when time ran out
    winner: int
    settings: Sequence[str]
    ranges: frozenset[str]  # settings that were drawn from a range
    logarithmic: frozenset[str]  # of these, the ones whose range was logarithmic
    in_search: float  # validation accuracy of the winner
    train: Sequence[str]  # the options of `jobs.train` for the winner's settings
    # Mean accuracies of the final trials; None if none succeeded. Fresh seeds are compared on the validation images of
    # the search, so only the test images show how much of its score was luck.
    with_fresh_seeds: float | None  # on validation
    on_test: float | None

    @classmethod
    def of(cls, document: SearchDocument, summary: Summary) -> "ReportedSearch | None":
        """Return what a report shows of a search, or None if no configuration was trained."""
        scores: dict[int, dict[int, float]] = {}
        rows = [(rung.epochs, number, score) for rung in document.decisions for number, score in rung.scores.items()]
        failed = {number for _, number, score in rows if score is None}
        for epochs, number, score in rows:
            if number not in failed and score is not None and score.total:
                scores.setdefault(number, {})[epochs] = score.value
        tried = [Tried(n, document.configurations.get(n, {}), by_epoch) for n, by_epoch in scores.items()]
        best = document.best
        if best is None:
            return None
        return cls(
            rungs=document.rungs,
            tried=sorted(tried, key=lambda one: (-one.score, one.number)),
            unfinished=len(document.unfinished),
            settings=[*document.space],
            ranges=frozenset(name for name, given in document.space.items() if ".." in str(given)),
            logarithmic=frozenset(name for name, given in document.space.items() if str(given).endswith(":log")),
            winner=best.configuration,
            in_search=best.validation.value,
            train=summary.search.train if summary.search else (),
            with_fresh_seeds=mean_accuracy(trial.validation for trial in summary.successful),
            on_test=mean_accuracy(trial.test for trial in summary.successful),
        )

    @property
    def is_complete(self) -> bool:
        """Return whether the winner has completed the last rung."""
        return any(one.number == self.winner and one.epochs == self.rungs[-1] for one in self.tried)

    @property
    def best(self) -> Sequence[Tried]:
        return self.tried[:BEST]


def settings_plot(search: ReportedSearch) -> Plot:
    """Draw the score of each configuration against each of its settings, coloured by the rung that it reached."""
    names = search.settings[:MAX_SHOWN]
    figure, found = new_figure(ROW_HEIGHT * len(names), rows=len(names))
    for name, axes in zip(names, found if len(names) > 1 else [found], strict=True):
        shown = [one for one in search.tried if name in one.settings]
        is_range = name in search.ranges
        levels = [] if is_range else sorted({one.settings[name] for one in shown}, key=lambda v: (str(type(v)), v))
        for position, epochs in enumerate(search.rungs):
            own = [one for one in shown if one.epochs == epochs]
            given = [one.settings[name] for one in own]
            label = f"{epochs} epochs" if epochs > 1 else "1 epoch"
            values = given if is_range else [levels.index(value) for value in given]
            axes.plot(values, [one.score for one in own], "o", ms=4, color=color_of(position), label=label)
        if name in search.logarithmic:
            logarithmic(axes)
        if not is_range:
            axes.set_xticks(range(len(levels)), [short_name(printable(str(level))) for level in levels])
        axes.set_title(short_name(printable(name)), loc="left")
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    legend(found[0] if len(names) > 1 else found)
    return plot("search-settings", figure)


def logarithmic(axes: Axes) -> None:
    """Use a logarithmic x-axis whose numbers are not written as powers, which would be too small to read."""
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def rungs_plot(search: ReportedSearch) -> Plot:
    """Draw the score of each configuration over the rungs that it has completed."""
    figure, axes = new_figure(3.0)
    for one in reversed(search.tried):
        is_winner = one.number == search.winner
        style: dict[str, Any] = {"color": color_of(1 if is_winner else 0), "alpha": 1.0 if is_winner else 0.35}
        axes.plot([*one.scores], [*one.scores.values()], "o-", ms=3, lw=1.6 if is_winner else 0.8, **style)
    if search.rungs[-1] > 4 * search.rungs[0]:
        axes.set_xscale("log")
    axes.set_xticks(search.rungs, [str(epochs) for epochs in search.rungs])
    axes.set_xticks([], minor=True)
    axes.set(xlabel="epochs")
    axes.set_title("validation accuracy", loc="left")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    return plot("search-rungs", figure)
