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
from matplotlib.patches import Patch
from matplotlib.text import Text
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, PercentFormatter, StrMethodFormatter

from mnist_lib.report.evidence import DRIVER, Course, ReportedSearch, Span
from mnist_lib.run_documents import Summary
from mnist_lib.wording import printable, short_name

TEXT, LINE, LOST = "#1f2328", "#c8ccd1", "#c4320a"
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
MAX_LANES = 24
# The opacity of the bars of each phase before and after training.
PHASES = {"start": 0.75, "cluster": 0.5, "import": 0.3, "data": 0.6, "compile": 0.15, "store": 0.9}
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
            if handle is not None and not isinstance(handle, Patch):  # bars keep their shade
                handle.set_alpha(1.0)  # if there are many curves, they are nearly transparent


def plot(name: str, figure: Figure) -> Plot:
    """Draw the figure as SVG for a page, and as PNG."""
    svg, png = io.StringIO(), io.BytesIO()
    # Without a salt, two plots in a page could have the same identifiers.
    with warnings.catch_warnings(), _settings({"svg.hashsalt": name}):
        # A glyph that no font has is drawn as a box; names too long for the layout are cut at the edge.
        warnings.simplefilter("ignore", UserWarning)
        for text in figure.findobj(Text):  # printable, and never as a formula, as Matplotlib shows a name with $
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
        colour, left, right = color_of(number), xs[0] - 0.4, xs[-1] + 0.4
        axes.fill_between([left, right], *model.ci95, color=colour, alpha=0.15, linewidth=0)
        axes.hlines(model.mean_test_accuracy, left, right, color=colour, linewidth=1.2)
        axes.errorbar(xs, values, errors, fmt="o", color=colour, ms=4 if few else 2.5, elinewidth=0.8, label=name)
    # "0", or "0-f2" in a fold.
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
    lines, dots = [curve for curve in curves if len(curve) > 1], [curve[0] for curve in curves if len(curve) == 1]
    if lines:
        axes.add_collection(LineCollection(lines, linewidth=1, label=label, **style))
    if dots:
        axes.plot(*zip(*dots, strict=True), ".", **style, label=None if lines else label)
    axes.autoscale_view()


def time_line(summary: Summary, course: Course) -> Plot:
    """Draw a row for the driver and for each process that trained, with a bar for each attempt and each phase."""
    attempts = course.attempts
    models = {trial.id: trial.spec.model for trial in summary.trials}
    lanes = list(dict.fromkeys([DRIVER, *(attempt.lane for attempt in attempts)]))
    shown = lanes[: MAX_LANES + 1]
    figure, axes = new_figure(1.3 + 0.28 * len(shown))

    def add(spans: Sequence[Span], label: str | None, **style: Any) -> None:
        rows, begins = [shown.index(span.lane) for span in spans], [span.begin for span in spans]
        lengths = [max(span.end - span.begin, 1e-3) for span in spans]
        axes.barh(rows, lengths, 0.62, begins, label=label if spans else None, **style)

    for phase, alpha in PHASES.items():
        spans = [span for span in course.phases if span.what == phase and span.lane in shown]
        add(spans, phase, facecolor=(TEXT, alpha), linewidth=0)
    for number, name in enumerate(_models(summary)):
        own = [attempt for attempt in attempts if models[attempt.what] == name and attempt.lane in shown]
        lost = [attempt for attempt in own if attempt.outcome != "ok"]
        add([one for one in own if one.outcome == "ok"], name, facecolor=(color_of(number), 0.85), linewidth=0)
        style: dict[str, Any] = {"edgecolor": LOST, "linewidth": 1.5}
        add(lost, name if len(lost) == len(own) else None, facecolor=(color_of(number), 0.35), **style)
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set_yticks(range(len(shown)), [DRIVER, *(str(number) for number in range(1, len(shown)))])
    axes.set(xlabel="seconds", ylabel="process" + (f" (of {len(lanes) - 1})" if len(lanes) > len(shown) else ""))
    axes.grid(axis="y", visible=False)
    legend(axes)
    return plot("time-line", figure)


def _models(summary: Summary) -> list[str]:
    """Return the models in the order of their colours: those with a result come first."""
    return list(dict.fromkeys([*summary.models, *(trial.spec.model for trial in summary.trials)]))


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
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))  # the exponent of a power would be too small
            axes.xaxis.set_minor_formatter(NullFormatter())
        if not is_range:
            axes.set_xticks(range(len(levels)), [short_name(printable(str(level))) for level in levels])
        axes.set_title(short_name(printable(name)), loc="left")
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    legend(found[0] if len(names) > 1 else found)
    return plot("search-settings", figure)


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
    axes.set_title(f"{search.measure} {search.score_name}", loc="left")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    return plot("search-rungs", figure)
