"""The plots of a report: what each shows of the summary, the history and the stored trials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, PercentFormatter, StrMethodFormatter

from mnist_lib.report.drawing import LOST, TEXT, WIDTH, Plot, color_of, figure_of, legend, plot

if TYPE_CHECKING:
    from mnist_lib.report.evidence import AttemptTimes, StoredTrial
    from mnist_lib.results import EpochDone

MOST_CURVES = 12  # of a model, drawn strongly enough to be told apart
MOST_LANES = 24
LEAST_MARGIN = timedelta(minutes=30)  # of one run alone, there is no span

Points = Sequence[tuple[datetime, float]]


def accuracy_of_trials(summary: Mapping[str, Any]) -> Plot:
    """A point for each trial with the interval of its test images; a band for the mean of each model."""
    trials = [trial for trial in summary["trials"] if trial["status"] == "ok"]
    dot = 4 if len(trials) <= MOST_CURVES else 2.5
    figure, axes = figure_of(3.0)
    for number, (name, model) in enumerate(summary["models"].items()):
        own = [(x, trial) for x, trial in enumerate(trials) if trial["model"] == name]
        xs, values = [x for x, _ in own], [trial["test_accuracy"] for _, trial in own]
        low, high = zip(*(trial["test_ci95"] for _, trial in own), strict=True)
        below = [value - least for value, least in zip(values, low, strict=True)]
        above = [most - value for value, most in zip(values, high, strict=True)]
        colour = color_of(number)
        axes.fill_between([xs[0] - 0.4, xs[-1] + 0.4], *model["ci95"], color=colour, alpha=0.15, linewidth=0)
        axes.hlines(model["mean_test_accuracy"], xs[0] - 0.4, xs[-1] + 0.4, color=colour, linewidth=1.2)
        axes.errorbar(xs, values, (below, above), fmt="o", color=colour, markersize=dot, elinewidth=0.8, label=name)
    if len(trials) <= MOST_CURVES:
        axes.set_xticks(range(len(trials)), [str(trial["seed"]) for trial in trials])
        axes.set_xlabel("seed")
    else:
        axes.set_xticks([])
        axes.set_xlabel(f"{len(trials)} trials, by model and seed")
    axes.grid(axis="x", visible=False)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    legend(axes)
    about = "Test accuracy of each trial with its 95% interval, and the mean of each model with its own."
    return plot("accuracy", about, figure)


def learning_curves(summary: Mapping[str, Any], curves: Mapping[str, Sequence[EpochDone]]) -> Plot:
    """Loss in training, and accuracy on validation (without validation in training), by epoch."""
    figure, (above, below) = figure_of(4.6, rows=2)
    for number, name in enumerate(_models(summary)):
        own = [trial["id"] for trial in summary["trials"] if trial["model"] == name and trial["id"] in curves]
        for place, trial in enumerate(own):
            epochs = [done.epoch for done in curves[trial]]
            accuracy = [(done.validation or done.train).value for done in curves[trial]]
            look = {"color": color_of(number), "alpha": min(1.0, max(0.15, MOST_CURVES / len(own) / 2)), "linewidth": 1}
            dot = "." if len(epochs) == 1 else None
            above.plot(epochs, [done.loss for done in curves[trial]], marker=dot, **look)
            below.plot(epochs, accuracy, marker=dot, **look, label=None if place else name)
    above.set_title("loss in training", loc="left")
    losses = [done.loss for curve in curves.values() for done in curve]
    above.set_yscale("log")
    above.yaxis.set_major_locator(LogLocator(subs=(1.0,) if max(losses) > 100 * min(losses) else (1.0, 2.0, 5.0)))
    above.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))  # a power's exponent would be too small to read
    above.yaxis.set_minor_formatter(NullFormatter())
    validated = any(done.validation for curve in curves.values() for done in curve)
    below.set_title(f"accuracy {'on validation' if validated else 'in training'}", loc="left")
    below.yaxis.set_major_formatter(PercentFormatter(1.0))
    below.set_xlabel("epoch")
    for axes in (above, below):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend(below)
    return plot("learning-curves", "Loss and accuracy of each trial after each epoch.", figure)


def confusion(name: str, number: int, stored: StoredTrial) -> Plot:
    """Rows are labels, columns answers. The page has a table instead, which can be read aloud."""
    figure, axes = figure_of(WIDTH)
    wrong = stored.confusion - np.diag(stored.confusion.diagonal())  # right answers would drown the others
    shades = LinearSegmentedColormap.from_list(name, ["#ffffff", color_of(number)])
    axes.imshow(wrong, cmap=shades, vmin=0, vmax=1.6 * stored.most_confused)
    for label, row in enumerate(stored.confusion):
        for answer, count in enumerate(row):
            if count:
                weight = "bold" if label == answer else "normal"
                axes.text(answer, label, str(count), ha="center", va="center", fontsize=8, weight=weight)
    axes.set(xticks=range(len(wrong)), yticks=range(len(wrong)), xlabel="answer", ylabel="label")
    axes.set_title(f"{name}: images by label and answer", loc="left")
    axes.grid(visible=False)
    return plot(f"confusion-{name}", f"{name}: how many images of each label got which answer.", figure, in_page=False)


def calibration(stored: Mapping[str, StoredTrial]) -> Plot:
    """How often an answer of a given probability is right."""
    figure, axes = figure_of(3.4)
    axes.plot([0, 1], [0, 1], color=TEXT, linewidth=0.8, linestyle="--", label="as sure as right")
    for number, (name, trial) in enumerate(stored.items()):
        bins = trial.calibration
        probabilities, accuracies = [b.mean_probability for b in bins], [b.accuracy for b in bins]
        axes.plot(probabilities, accuracies, color=color_of(number), linewidth=1, label=name)
        sizes = [8 + 60 * b.images / sum(b.images for b in bins) for b in bins]
        axes.scatter(probabilities, accuracies, sizes, color=color_of(number), linewidth=0)
    axes.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="probability of the answer", ylabel="how often it is right")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0))
    legend(axes)
    return plot("calibration", "How often answers are right, by the probability that the model gives them.", figure)


def time_line(summary: Mapping[str, Any], attempts: Sequence[AttemptTimes]) -> Plot:
    """A row for each process that trained, a bar for each attempt at a trial."""
    models = {trial["id"]: trial["model"] for trial in summary["trials"]}
    numbers = {name: number for number, name in enumerate(_models(summary))}
    lanes = list(dict.fromkeys(attempt.lane for attempt in attempts))
    shown = lanes[:MOST_LANES]
    figure, axes = figure_of(1.3 + 0.28 * len(shown))
    labelled: set[str] = set()
    for attempt in attempts:
        if attempt.lane in shown:
            name, lost = models[attempt.trial], attempt.outcome != "ok"
            axes.barh(
                shown.index(attempt.lane),
                max(attempt.end - attempt.begin, 1e-3),
                left=attempt.begin,
                height=0.62,
                facecolor=(color_of(numbers[name]), 0.35 if lost else 0.85),
                edgecolor=LOST if lost else "none",
                linewidth=1.5 if lost else 0,
                label=name if name not in labelled else None,
            )
            labelled.add(name)
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set_yticks(range(len(shown)), [str(number) for number in range(1, len(shown) + 1)])
    axes.set(xlabel="seconds", ylabel="process")
    axes.grid(axis="y", visible=False)
    legend(axes)
    more = f" The first {MOST_LANES} of {len(lanes)} processes." if len(lanes) > MOST_LANES else ""
    about = f"When each process trained which trial; attempts that were lost have a red edge.{more}"
    return plot("time-line", about, figure)


def over_time(series: Mapping[str, Points], champions: Mapping[str, Points]) -> Plot:
    """Of each model, (datetime, accuracy) of its runs and of the versions that became champion."""
    figure, axes = figure_of(3.2)
    for number, (name, points) in enumerate(series.items()):
        axes.plot(*zip(*points, strict=True), "o-", color=color_of(number), markersize=3, linewidth=0.8, label=name)
        if champions.get(name):
            axes.plot(*zip(*champions[name], strict=True), "*", color=color_of(number), markersize=11)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    times = [at for points in (*series.values(), *champions.values()) for at, _ in points]
    margin = max((max(times) - min(times)) / 20, LEAST_MARGIN)
    axes.set_xlim(min(times) - margin, max(times) + margin)
    locator = AutoDateLocator(maxticks=6)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    legend(axes)
    return plot("over-time", "Mean test accuracy of each run over time; stars are new champions.", figure)


def _models(summary: Mapping[str, Any]) -> list[str]:
    """Those that have a result first, as everywhere in a report."""
    return list(dict.fromkeys([*summary["models"], *(trial["model"] for trial in summary["trials"])]))
