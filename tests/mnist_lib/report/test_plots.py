"""Plots with names of others: shown literally, cut if they are long, and never an error."""

import html.parser
import warnings

import pytest
from hypothesis import given
from matplotlib.figure import Figure

from mnist_lib.report.plots import legend, new_figure, plot
from tests.support.hostile import ANY_TEXT, HOSTILE, is_harmless

NAMES = [HOSTILE, "$\\frac{$", "$x^2$", "漢" * 300, "-1", "<b>&"]


def texts_of(svg: str) -> list[str]:
    found: list[str] = []
    parser = html.parser.HTMLParser()
    parser.handle_data = lambda data: found.append(data.strip())  # type: ignore[method-assign]
    parser.feed(svg)
    return found


def test_names_are_shown_literally_in_a_title_a_legend_and_at_ticks() -> None:
    figure, axes = new_figure(3.0)
    for name in NAMES:
        axes.plot([0, 1], label=name)
    axes.set_title("$\\frac{$: $x$")
    axes.set_xticks(range(2), ["$x^2$", "$y$"])
    legend(axes)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn = plot("p", figure)
    assert is_harmless(drawn.svg)
    texts = texts_of(drawn.svg)
    assert {"$\\frac{$", "$x^2$", "$y$", "<b>&", "$\\frac{$: $x$"} <= {*texts}
    assert [text for text in texts if text.startswith("b\\x1b]0;x")]
    assert max(map(len, texts)) < 30


@pytest.mark.fuzz
@given(name=ANY_TEXT)
def test_any_name_can_be_drawn(name: str) -> None:
    figure = Figure(figsize=(0.5, 0.5))
    figure.text(0, 0, name)
    drawn = plot("p", figure)
    assert is_harmless(drawn.svg)
    drawn.svg.encode()
