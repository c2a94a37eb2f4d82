"""How a plot of a report is drawn by Matplotlib: once, as SVG for the page and as PNG.

Colours are named here and nowhere else. In the page each becomes a CSS variable, so that a dark page has others.
"""

import io
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

TEXT, LINE, LOST = "#1f2328", "#c8ccd1", "#c4320a"
SERIES = ("#1f5fbf", "#b2570a", "#1a7f4b", "#8250c4", "#a3346b", "#57606a")  # of models
VARIABLES = {TEXT: "--text", LINE: "--line", LOST: "--lost"} | {c: f"--series-{n}" for n, c in enumerate(SERIES)}
WIDTH = 4.6  # inches; at the width of a telephone its letters are still read
DOTS_PER_INCH = 160
SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text
    "font.size": 10,
    "axes.titlesize": 10,
    "text.color": TEXT,
    "axes.labelcolor": TEXT,
    "axes.edgecolor": LINE,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": TEXT,
    "ytick.labelcolor": TEXT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.5,
}


@dataclass(frozen=True)
class Plot:
    name: str
    about: str  # what it shows, for who does not see it
    svg: str
    png: bytes


def color_of(number: int) -> str:
    return SERIES[number % len(SERIES)]


@contextmanager
def _settings(more: Mapping[Any, Any] = MappingProxyType({})) -> Iterator[None]:
    """Whatever the user's own are."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update({**SETTINGS, **more})
        yield


def figure_of(height: float, rows: int = 1) -> tuple[Figure, Any]:
    with _settings():
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        return figure, figure.subplots(rows)


def legend(axes: Axes) -> None:
    """Above the plot, if there is more than one thing to tell apart."""
    handles, labels = axes.get_legend_handles_labels()
    if len(labels) > 1 and isinstance(axes.figure, Figure):
        made = axes.figure.legend(handles, labels, loc="outside upper left", ncols=3, frameon=False, labelcolor=TEXT)
        for handle in made.legend_handles:
            if handle is not None:
                handle.set_alpha(1.0)  # lines that are drawn faintly for their number


def plot(name: str, about: str, figure: Figure, *, in_page: bool = True) -> Plot:
    """`in_page` False: it has no `svg`."""
    svg, png = io.StringIO(), io.BytesIO()
    with _settings({"svg.hashsalt": name}):  # or identifiers of two plots in a page could be the same
        FigureCanvasAgg(figure)
        figure.savefig(png, format="png", dpi=DOTS_PER_INCH)
        if in_page:
            figure.set_layout_engine("none")  # where everything is, is known now; it took a third of the time
            figure.savefig(svg, format="svg", metadata={"Date": None}, transparent=True)
    return Plot(name, about, _for_page(svg.getvalue(), about) if in_page else "", png.getvalue())


def _for_page(svg: str, about: str) -> str:
    """Without what belongs to a file of its own; with the page's font and colours."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"(font: [^;\"]*?px) [^;\"]*", r"\1 system-ui, sans-serif", svg)
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    return re.sub(r"<svg[^>]*?(viewBox=\"[^\"]*\")[^>]*>", rf'<svg role="img" aria-label="{about}" \1>', svg, count=1)
