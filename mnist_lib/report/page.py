"""The report of a run: one self-contained page, with the answer at the top, and its plots.

Every figure that the summary holds is taken from it by its path, which stands beside it in the page (`data-path`).
"""

import platform
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from mnist_lib.data.split import Dataset
from mnist_lib.report import plots
from mnist_lib.report.drawing import VARIABLES, Plot
from mnist_lib.report.evidence import Disputes, StoredTrial, attempts, learning_curves
from mnist_lib.report.images import data_url, sample_of
from mnist_lib.report.table import notes, percent
from mnist_lib.results import Tally

MOST_ROWS_OPEN = 20  # of the trials; more are there to be opened

# By name, in the page's template.
NUMBER_FORMATS: dict[str, Callable[[Any], str]] = {
    "percent": percent,
    "points": lambda value: f"{100 * value:.2f}",
    "count": lambda value: f"{value:,}",
    "rate": lambda value: f"{value:,.0f}",
    "seconds": lambda value: f"{value:.1f}",
}


@dataclass(frozen=True, kw_only=True)
class ReportedRun:
    """What a report is made from."""

    summary: Mapping[str, Any]
    history: Sequence[Mapping[str, Any]]
    tallies: Mapping[str, Tally]  # of the models of which a trial succeeded
    dataset: Dataset
    configuration: str  # as YAML
    storage: str
    code: Mapping[str, Any]  # as in `environment.code_version`


@dataclass(frozen=True)
class Report:
    page: bytes  # HTML
    plots: Mapping[str, bytes]  # PNG, by name


def report(run: ReportedRun) -> Report:
    stored = {
        name: StoredTrial.of(tally.chosen.probabilities, run.dataset.test.labels)
        for name, tally in sorted(run.tallies.items())
    }
    drawn = _plots(run, stored)
    page = template("report.html").render(
        summary=run.summary,
        failed=[trial for trial in run.summary["trials"] if trial["status"] == "failed"],
        figure=_figures(run.summary),
        notes=notes(run.summary),
        plots={plot.name: Markup(plot.svg) for plot in drawn},
        stored=stored,
        disputes=Disputes.of([*run.tallies.values()], run.dataset.test.labels) if run.tallies else None,
        test=run.dataset.test,
        sample=data_url(sample_of(run.dataset.train)),
        data_url=data_url,
        attempts=attempts(run.history),
        most_rows_open=MOST_ROWS_OPEN,
        nodes=sorted({trial["node"] for trial in run.summary["trials"] if trial["status"] == "ok"}),
        configuration=run.configuration,
        storage=run.storage,
        code=run.code,
        system=f"{platform.system()} {platform.machine()}",
    )
    return Report(page.encode(), {plot.name: plot.png for plot in drawn})


def template(name: str) -> jinja2.Template:
    """Of this package's; what is put into it is escaped, and a name that is not there is an error."""
    folder = resources.files("mnist_lib.report") / "templates"
    loader = jinja2.FunctionLoader(lambda name: (folder / name).read_text(encoding="utf-8"))
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals["colours"] = VARIABLES
    environment.filters |= {**NUMBER_FORMATS, "quoted": shlex.quote}
    return environment.get_template(name)


def _plots(run: ReportedRun, stored: Mapping[str, StoredTrial]) -> list[Plot]:
    drawn = []
    if stored:
        drawn.append(plots.accuracy_of_trials(run.summary))
        drawn += [plots.confusion(name, number, trial) for number, (name, trial) in enumerate(stored.items())]
        drawn.append(plots.calibration(stored))
    curves, tried = learning_curves(run.history), attempts(run.history)
    if curves:
        drawn.append(plots.learning_curves(run.summary, curves))
    if tried:
        drawn.append(plots.time_line(run.summary, tried))
    return drawn


def _figures(summary: Mapping[str, Any]) -> Callable[[str, str], Markup]:
    """(path, format) -> that figure of the summary, for people and for programs."""

    def figure(path: str, format: str) -> Markup:
        value: Any = summary
        for key in path.split("/"):
            value = value[int(key) if isinstance(value, list) else key]
        text = NUMBER_FORMATS[format](value)
        return Markup(f'<data value="{value}" data-path="{path}">{text}</data>')  # numbers, and names of the catalog

    return figure
