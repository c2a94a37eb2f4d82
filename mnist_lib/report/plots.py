"""The plots of a report, each drawn once, as SVG for the page and as PNG.

All colours are defined here. In a page each becomes a CSS variable, so that a dark page can have its own.
"""

import html
import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, PercentFormatter, StrMethodFormatter

from mnist_lib.report.evidence import Course, ReportedSearch
from mnist_lib.run_documents import Summary
from mnist_lib.wording import printable, short_name

TEXT = "#1f2328"
LINE = "#c8ccd1"
LOST = "#c4320a"
SERIES = ("#1f5fbf", "#b2570a", "#1a7f4b", "#8250c4", "#a3346b", "#57606a")  # one for each model
VARIABLES = {TEXT: "--text", LINE: "--line", LOST: "--lost"} | {c: f"--series-{n}" for n, c in enumerate(SERIES)}
WIDTH = 5.0  # inches: text is readable on a phone, and no larger than the page's text on a wide screen
DOTS_PER_INCH = 160
SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",  # store text as text, not as outlines
    **dict.fromkeys(("font.size", "axes.titlesize"), 10),
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"), TEXT),
    **dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color", "grid.color"), LINE),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right"), False),
    **dict.fromkeys(("axes.grid", "axes.axisbelow"), True),
    "grid.linewidth": 0.5,
}
# If a run has more trials than this, their seeds are not shown. If a model has more than half as many, its curves are
# paler.
MAX_DISTINCT = 12
HEIGHT = 4.2  # inches, of the two plots that stand side by side
MAX_SHOWN = 6  # settings with a plot of their own
ROW_HEIGHT = 1.8  # inches


@dataclass(frozen=True)
class Plot:
    name: str
    svg: str
    png: bytes


def color_of(number: int) -> str:
    return SERIES[number % len(SERIES)]


@contextmanager
def _settings(more: Mapping[Any, Any] | None = None) -> Iterator[None]:
    """Ignore the user's own settings of Matplotlib."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update({**SETTINGS, **(more or {})})
        yield


def new_figure(height: float, rows: int = 1) -> tuple[Figure, Any]:
    with _settings():
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        return figure, figure.subplots(rows)


def legend(axes: Axes) -> None:
    """Draw a legend above the plot, if it has more than one entry."""
    handles, labels = axes.get_legend_handles_labels()
    if len(labels) > 1 and isinstance(axes.figure, Figure):
        names = [*map(short_name, labels)]
        made = axes.figure.legend(handles, names, loc="outside upper left", ncols=3, frameon=False, labelcolor=TEXT)
        for handle in made.legend_handles:
            if handle is not None:
                handle.set_alpha(1.0)  # if there are many curves, they are nearly transparent


def plot(name: str, figure: Figure) -> Plot:
    """Draw the figure as SVG for a page, and as PNG."""
    svg = io.StringIO()
    png = io.BytesIO()
    # Without a salt, two plots in a page could have the same identifiers.
    with warnings.catch_warnings(), _settings({"svg.hashsalt": name}):
        # A glyph that no font has is drawn as a box; names too long for the layout are cut at the edge.
        warnings.simplefilter("ignore", UserWarning)
        for text in figure.findobj(Text):  # Matplotlib would show a name with $ as a formula
            text.set(text=printable(text.get_text(), keep="\n"), parse_math=False)
        FigureCanvasAgg(figure)
        figure.savefig(png, format="png", dpi=DOTS_PER_INCH)
        figure.set_layout_engine("none")  # the PNG's layout is reused, which saves a third of the time
        figure.savefig(svg, format="svg", metadata={"Date": None}, transparent=True)
    return Plot(name, _for_page(svg.getvalue(), name), png.getvalue())


def _for_page(svg: str, name: str) -> str:
    """Return SVG for use inside HTML, with the page's font and colours."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"(font: [^;\"]*?px) [^;\"]*", r"\1 system-ui, sans-serif", svg)
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    start = f'<svg role="img" aria-label="plot: {html.escape(name)}"'
    return re.sub(r"<svg[^>]*?(viewBox=\"[^\"]*\")[^>]*>", lambda found: f"{start} {found[1]}>", svg, count=1)


def accuracy_of_trials(summary: Summary) -> Plot:
    trials = summary.successful
    few = len(trials) <= MAX_DISTINCT
    figure, axes = new_figure(HEIGHT)
    for number, (name, model) in enumerate(summary.models.items()):
        xs = [x for x, trial in enumerate(trials) if trial.spec.model == name]
        values = [trials[x].test_accuracy for x in xs]
        errors = np.abs(np.transpose([trials[x].test_ci95 for x in xs]) - values)
        colour = color_of(number)
        left = xs[0] - 0.4
        right = xs[-1] + 0.4
        axes.fill_between([left, right], *model.ci95, color=colour, alpha=0.15, linewidth=0)
        axes.hlines(model.mean_test_accuracy, left, right, color=colour, linewidth=1.2)
        axes.errorbar(xs, values, errors, fmt="o", color=colour, ms=4 if few else 2.5, elinewidth=0.8, label=name)
    # Such as "0", or "0-f2" in a fold.
    seeds = [trial.id.removeprefix(f"{trial.spec.model}-s") for trial in trials] if few else []
    axes.set_xticks(range(len(seeds)), seeds)
    axes.set_xlabel("seed" if few else f"{len(trials)} trials, by model and seed")
    axes.set_title("accuracy on test", loc="left")
    axes.grid(axis="x", visible=False)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    legend(axes)
    return plot("accuracy", figure)


def learning_curves(summary: Summary, course: Course) -> Plot:
    """Draw the training loss, and the accuracy on validation or, without validation, in training."""
    curves = course.curves
    figure, (above, below) = new_figure(HEIGHT, rows=2)
    for number, name in enumerate(_models(summary)):
        own = [curves[trial.id] for trial in summary.trials if trial.spec.model == name and trial.id in curves]
        style: dict[str, Any] = {
            "color": color_of(number),
            "alpha": min(1.0, max(0.15, MAX_DISTINCT / max(len(own), 1) / 2)),
        }
        _add_curves(above, [[(done.epoch, done.loss) for done in curve] for curve in own], **style)
        accuracies = [[(done.epoch, (done.validation or done.train).score) for done in curve] for curve in own]
        _add_curves(below, accuracies, **style, label=name if own else None)
    above.set_title("loss in training", loc="left")
    losses = [done.loss for curve in curves.values() for done in curve]
    above.set_yscale("log")
    above.yaxis.set_major_locator(LogLocator(subs=(1.0,) if max(losses) > 100 * min(losses) else (1.0, 2.0, 5.0)))
    above.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))  # the exponent of a power would be too small to read
    above.yaxis.set_minor_formatter(NullFormatter())
    validated = [done.validation for curve in curves.values() for done in curve if done.validation]
    below.set_title(f"{validated[0].score_name} on validation" if validated else "accuracy in training", loc="left")
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
    lines = [curve for curve in curves if len(curve) > 1]
    dots = [curve[0] for curve in curves if len(curve) == 1]
    if lines:
        axes.add_collection(LineCollection(lines, linewidth=1, label=label, **style))
    if dots:
        axes.plot(*zip(*dots, strict=True), ".", **style, label=None if lines else label)
    axes.autoscale_view()


def _models(summary: Summary) -> list[str]:
    """Return the models in the order of their colours: those with a result come first."""
    return list(dict.fromkeys([*summary.models, *(trial.spec.model for trial in summary.trials)]))


def settings_plot(search: ReportedSearch) -> Plot:
    """Draw the score of each configuration against each of its settings, coloured by the rung that it reached."""
    names = [*search.space][:MAX_SHOWN]
    figure, axes_of_names = new_figure(ROW_HEIGHT * len(names), rows=len(names))
    for name, axes in zip(names, np.atleast_1d(axes_of_names), strict=True):
        shown = [one for one in search.tried if name in one.settings]
        space = str(search.space[name])  # a range, such as "0.1..10:log", or values
        levels = sorted({one.settings[name] for one in shown}, key=lambda value: (str(type(value)), value))
        is_range = ".." in space
        for position, epochs in enumerate(search.rungs):
            of_rung = [one for one in shown if one.epochs == epochs]
            values = [one.settings[name] for one in of_rung]
            places = values if is_range else [levels.index(value) for value in values]
            label = f"{epochs} epochs" if epochs > 1 else "1 epoch"
            axes.plot(places, [one.score for one in of_rung], "o", ms=4, color=color_of(position), label=label)
        if space.endswith(":log"):
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))  # the exponent of a power would be too small
            axes.xaxis.set_minor_formatter(NullFormatter())
        if not is_range:
            axes.set_xticks(range(len(levels)), [short_name(printable(str(level))) for level in levels])
        axes.set_title(short_name(printable(name)), loc="left")
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    legend(np.atleast_1d(axes_of_names)[0])
    return plot("search-settings", figure)
