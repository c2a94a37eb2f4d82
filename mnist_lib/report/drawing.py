"""Draw a plot with Matplotlib once, and return it as SVG for a page and as PNG.

All colours are defined here. In a page each becomes a CSS variable, so that a dark page can have its own.
"""

import html
import io
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.text import Text

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


@dataclass(frozen=True)
class Plot:
    name: str
    svg: str  # "" if it was drawn without one
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


def new_figure(height: float, rows: int = 1, width: float = WIDTH) -> tuple[Figure, Any]:
    with _settings():
        figure = Figure(figsize=(width, height), layout="constrained")
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


def plot(name: str, figure: Figure, *, in_page: bool = True) -> Plot:
    """Draw the figure as PNG and, for a page, as SVG."""
    svg, png = io.StringIO(), io.BytesIO()
    with (
        warnings.catch_warnings(),
        _settings({"svg.hashsalt": name}),
    ):  # otherwise two plots in a page could have the same identifiers
        # A glyph that no font has is drawn as a box; names too long for the layout are cut at the edge.
        warnings.simplefilter("ignore", UserWarning)
        _show_text_literally(figure)
        FigureCanvasAgg(figure)
        figure.savefig(png, format="png", dpi=DOTS_PER_INCH)
        if in_page:
            figure.set_layout_engine("none")  # the PNG's layout is reused, which saves a third of the time
            figure.savefig(svg, format="svg", metadata={"Date": None}, transparent=True)
    return Plot(name, _for_page(svg.getvalue(), name) if in_page else "", png.getvalue())


def _show_text_literally(figure: Figure) -> None:
    """Show every text of a figure as it is: printable, and never as a formula, as Matplotlib shows a name with $."""
    for text in figure.findobj(Text):
        text.set(text=printable(text.get_text(), keep="\n"), parse_math=False)


def _for_page(svg: str, name: str) -> str:
    """Return SVG for use inside HTML, with the page's font and colours."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"(font: [^;\"]*?px) [^;\"]*", r"\1 system-ui, sans-serif", svg)
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    start = f'<svg role="img" aria-label="plot: {html.escape(name)}"'
    return re.sub(r"<svg[^>]*?(viewBox=\"[^\"]*\")[^>]*>", lambda found: f"{start} {found[1]}>", svg, count=1)
