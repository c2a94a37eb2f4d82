"""The plots of a report and of the index."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, PercentFormatter, StrMethodFormatter

from mnist_lib.report.drawing import LOST, TEXT, WIDTH, Plot, color_of, legend, new_figure, plot
from mnist_lib.report.evidence import DRIVER, AttemptTimes, PhaseTimes, StoredTrial
from mnist_lib.results import EpochDone
from mnist_lib.run_documents import Summary
from mnist_lib.wording import short_name

# If a run has more trials than this, their seeds are not shown. If a model has more than half as many, its curves are
# paler.
MAX_DISTINCT = 12
MAX_LANES = 24
MIN_MARGIN = timedelta(minutes=30)  # shown before the first run and after the last one
MAX_NUMBERED = 40  # classes of a matrix whose cells contain numbers
MAX_MATRIX = 16.0  # inches
# The opacity of the bars of each phase before and after training.
PHASES = {"start": 0.75, "cluster": 0.5, "import": 0.3, "data": 0.6, "compile": 0.15, "store": 0.9}
HEIGHT = 4.2  # inches, of the two plots that stand side by side

Points = Sequence[tuple[datetime, float]]


def accuracy_of_trials(summary: Summary) -> Plot:
    trials = summary.successful
    few = len(trials) <= MAX_DISTINCT
    figure, axes = new_figure(HEIGHT)
    for number, (name, model) in enumerate(summary.models.items()):
        xs = [x for x, trial in enumerate(trials) if trial.model == name]
        values = [trials[x].test_accuracy for x in xs]
        errors = np.abs(np.transpose([trials[x].test_ci95 for x in xs]) - values)
        colour, left, right = color_of(number), xs[0] - 0.4, xs[-1] + 0.4
        axes.fill_between([left, right], *model.ci95, color=colour, alpha=0.15, linewidth=0)
        axes.hlines(model.mean_test_accuracy, left, right, color=colour, linewidth=1.2)
        axes.errorbar(xs, values, errors, fmt="o", color=colour, ms=4 if few else 2.5, elinewidth=0.8, label=name)
    seeds = [str(trial.seed) for trial in trials] if few else []
    axes.set_xticks(range(len(seeds)), seeds)
    axes.set_xlabel("seed" if few else f"{len(trials)} trials, by model and seed")
    axes.set_title("accuracy on test", loc="left")
    axes.grid(axis="x", visible=False)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    legend(axes)
    return plot("accuracy", figure)


def learning_curves(summary: Summary, curves: Mapping[str, Sequence[EpochDone]]) -> Plot:
    """Draw the training loss, and the accuracy on validation or, without validation, in training."""
    figure, (above, below) = new_figure(HEIGHT, rows=2)
    for number, name in enumerate(_models(summary)):
        own = [curves[trial.id] for trial in summary.trials if trial.model == name and trial.id in curves]
        style: dict[str, Any] = {
            "color": color_of(number),
            "alpha": min(1.0, max(0.15, MAX_DISTINCT / max(len(own), 1) / 2)),
        }
        _add_curves(above, [[(done.epoch, done.loss) for done in curve] for curve in own], **style)
        accuracies = [[(done.epoch, (done.validation or done.train).value) for done in curve] for curve in own]
        _add_curves(below, accuracies, **style, label=name if own else None)
    above.set_title("loss in training", loc="left")
    losses = [done.loss for curve in curves.values() for done in curve]
    above.set_yscale("log")
    above.yaxis.set_major_locator(LogLocator(subs=(1.0,) if max(losses) > 100 * min(losses) else (1.0, 2.0, 5.0)))
    above.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))  # the exponent of a power would be too small to read
    above.yaxis.set_minor_formatter(NullFormatter())
    validated = any(done.validation for curve in curves.values() for done in curve)
    below.set_title(f"accuracy {'on validation' if validated else 'in training'}", loc="left")
    below.yaxis.set_major_formatter(PercentFormatter(1.0))
    below.set_xlabel("epoch")
    last = max(curve[-1].epoch for curve in curves.values())
    steps = MaxNLocator(8, steps=[1, 2, 5, 10], integer=True).tick_values(1, last)
    for axes in (above, below):
        axes.set_xticks([1, *(tick for tick in steps if 1 < tick <= last)])
    legend(below)
    return plot("learning-curves", figure)


def _add_curves(
    axes: Axes, curves: Sequence[Sequence[tuple[float, float]]], label: str | None = None, **style: Any
) -> None:
    """Draw the curves of a model as one collection, which for a thousand of them is much faster than lines.

    A curve of one point is a dot.
    """
    lines, dots = [curve for curve in curves if len(curve) > 1], [curve[0] for curve in curves if len(curve) == 1]
    if lines:
        axes.add_collection(LineCollection(lines, linewidth=1, label=label, **style))
    if dots:
        axes.plot(*zip(*dots, strict=True), ".", **style, label=None if lines else label)
    axes.autoscale_view()


def confusion(name: str, number: int, stored: StoredTrial, classes: Sequence[str]) -> Plot:
    """Draw images by label and predicted class, as PNG only: the page has a table, which screen readers can read."""
    size = max(WIDTH, min(0.32 * len(classes), MAX_MATRIX))
    figure, axes = new_figure(size, width=size)
    numbered, font = len(classes) <= MAX_NUMBERED, 8 if len(classes) <= MAX_NUMBERED else 5
    wrong = stored.confusion - np.diag(stored.confusion.diagonal())  # the correct predictions would hide all others
    shades = LinearSegmentedColormap.from_list(name, ["#ffffff", color_of(number)])
    axes.imshow(wrong, cmap=shades, vmin=0, vmax=1.6 * stored.most_confused)
    for label, predicted in np.argwhere(stored.confusion) if numbered else ():
        weight, count = "bold" if label == predicted else "normal", str(stored.confusion[label, predicted])
        axes.text(predicted, label, count, ha="center", va="center", fontsize=8, weight=weight)
    axes.set(xlabel="predicted class", ylabel="label")
    upright = max(map(len, classes)) <= 2
    names = [*map(short_name, classes)]
    axes.set_xticks(range(len(classes)), names, rotation=0 if upright else 90, fontsize=font)
    axes.set_yticks(range(len(classes)), names, fontsize=font)
    axes.set_title(f"{name}: images by label and predicted class", loc="left")
    axes.grid(visible=False)
    return plot(f"confusion-{name}", figure, in_page=False)


def calibration(stored: Mapping[str, StoredTrial]) -> Plot:
    """Draw how often a prediction of a given probability is correct."""
    figure, axes = new_figure(3.6)
    axes.plot([0, 1], [0, 1], color=TEXT, linewidth=0.8, linestyle="--", label="perfect")
    for number, (name, trial) in enumerate(stored.items()):
        bins = trial.calibration
        probabilities, accuracies = [b.mean_probability for b in bins], [b.accuracy for b in bins]
        axes.plot(probabilities, accuracies, color=color_of(number), linewidth=1, label=name)
        sizes = [8 + 60 * b.images / sum(b.images for b in bins) for b in bins]
        axes.scatter(probabilities, accuracies, sizes, color=color_of(number), linewidth=0)
    axes.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="probability of the predicted class", ylabel="share correct")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0))
    legend(axes)
    return plot("calibration", figure)


def time_line(summary: Summary, attempts: Sequence[AttemptTimes], phases: Sequence[PhaseTimes]) -> Plot:
    """Draw a row for the driver and for each process that trained, with a bar for each attempt and each phase."""
    models = {trial.id: trial.model for trial in summary.trials}
    lanes = list(dict.fromkeys([DRIVER, *(attempt.lane for attempt in attempts)]))
    shown = lanes[: MAX_LANES + 1]
    figure, axes = new_figure(1.3 + 0.28 * len(shown))
    for phase, alpha in PHASES.items():
        own_phases = [times for times in phases if times.phase == phase and times.lane in shown]
        rows, begins = [shown.index(times.lane) for times in own_phases], [times.begin for times in own_phases]
        lengths = [times.end - times.begin for times in own_phases]
        label = phase if own_phases else None
        axes.barh(rows, lengths, 0.62, begins, facecolor=(TEXT, alpha), linewidth=0, label=label)
    names = _models(summary)
    for number, name in enumerate(names):
        own = [attempt for attempt in attempts if models[attempt.trial] == name and attempt.lane in shown]
        for lost in (False, True):
            some = [attempt for attempt in own if (attempt.outcome != "ok") == lost]
            rows, begins = [shown.index(attempt.lane) for attempt in some], [attempt.begin for attempt in some]
            lengths = [max(attempt.end - attempt.begin, 1e-3) for attempt in some]
            style = {"edgecolor": LOST, "linewidth": 1.5} if lost else {"linewidth": 0}
            label = name if some and (not lost or len(some) == len(own)) else None
            axes.barh(
                rows, lengths, 0.62, begins, facecolor=(color_of(number), 0.35 if lost else 0.85), label=label, **style
            )
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set_yticks(range(len(shown)), [DRIVER, *(str(number) for number in range(1, len(shown)))])
    axes.set(xlabel="seconds", ylabel="process" + (f" (of {len(lanes) - 1})" if len(lanes) > len(shown) else ""))
    axes.grid(axis="y", visible=False)
    legend(axes)
    return plot("time-line", figure)


def over_time(name: str, series: Mapping[str, tuple[int, Points, Points]]) -> Plot:
    """Draw accuracies over time. series: by model, the number of its colour, its runs, and its champions."""
    figure, axes = new_figure(3.2)
    for model, (number, runs, champions) in series.items():
        if runs:
            axes.plot(*zip(*runs, strict=True), "o-", color=color_of(number), markersize=3, linewidth=0.8, label=model)
        if champions:
            axes.plot(*zip(*champions, strict=True), "*", color=color_of(number), markersize=11)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    times = [at for _, runs, champions in series.values() for at, _ in (*runs, *champions)]
    margin = max((max(times) - min(times)) / 20, MIN_MARGIN)
    axes.set_xlim(min(times) - margin, max(times) + margin)
    locator = AutoDateLocator(maxticks=6)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    legend(axes)
    return plot(name, figure)


def _models(summary: Summary) -> list[str]:
    """Return the models in the order of their colours: those with a result come first."""
    return list(dict.fromkeys([*summary.models, *(trial.model for trial in summary.trials)]))
