"""The report of a run: one self-contained page that begins with the result, and its plots."""

import functools
import os
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any
from urllib.parse import quote

import jinja2
from markupsafe import Markup, escape

from mnist_lib.catalog import DATASETS
from mnist_lib.data.made_up import MAKERS
from mnist_lib.report import plots
from mnist_lib.report.aggregation import Tally, suspects
from mnist_lib.report.dataset import data_url, examples_for_report
from mnist_lib.report.evidence import MAX_PICTURES, Course, ReportedRun, ReportedSearch, StoredTrial
from mnist_lib.report.summary import settings_of
from mnist_lib.report.texts import MADE_UP_TEXTS, data_texts, data_warnings, folds_text, notes, partial_accuracies
from mnist_lib.results import Accuracy
from mnist_lib.store.runs import CONFIGURATION
from mnist_lib.wording import counted, interval_text, percent, printable, rounded

ABOUT_PICTURES = ("left out", "resized and cropped to", "converted to")  # beginnings of notices that name pictures

# How templates format numbers, by the name of the format.
NUMBER_FORMATS: dict[str, Callable[[Any], str]] = {
    "percent": percent,
    "interval": interval_text,
    "tenths": lambda value: f"{100 * value:.1f}".removesuffix(".0"),
    "points": lambda value: f"{100 * value:.2f}",
    "count": rounded,
    "rate": lambda value: f"{value:,.0f}",
    "seconds": lambda value: f"{value:.1f}",
}


@dataclass(frozen=True)
class Report:
    page: bytes  # HTML
    plots: Mapping[str, bytes]  # PNG, by name


def report(run: ReportedRun) -> Report:
    """Return the report of a run. Its page shows the summary, and what `evidence` finds in the rest of the run."""
    summary = run.summary
    labels = run.dataset.test.labels
    stored = {name: StoredTrial.of(tally.chosen.probabilities, labels) for name, tally in sorted(run.tallies.items())}
    search = ReportedSearch.of(run.folder.search(), summary)
    course = Course.of(run.folder.history(), summary)
    drawn = []
    if stored:
        drawn.append(plots.accuracy_of_trials(summary))
    if course.curves:
        drawn.append(plots.learning_curves(summary, course))
    if search and search.tried:
        drawn.append(plots.settings_plot(search))
    page = render(
        "report.html",
        run=run,
        summary=summary,
        classes=run.dataset.classes,
        balanced=any(trial.spec.score != "accuracy" for trial in summary.trials),
        notes=[*data_warnings(summary), *notes(summary)],
        settings=settings_of(summary),
        plots={plot.name: Markup(plot.svg) for plot in drawn},
        search=search,
        stored=stored,
        attempts=course.attempts,
        partial_accuracies=partial_accuracies,
        folds_text=folds_text(summary.folds) if summary.folds else None,
        rejected=rejected_by_kind(run.tallies),
        not_made_up=[
            text for kind, text in MADE_UP_TEXTS.items() if kind in MAKERS and kind not in run.dataset.made_up
        ],
        data_texts=data_texts(summary.dataset),
        left_out=[notice for notice in summary.dataset.notices if notice.startswith(ABOUT_PICTURES)],
        **_images(run),
        **_commands(run),
    )
    return Report(page, {plot.name: plot.png for plot in drawn})


def _images(run: ReportedRun) -> dict[str, Any]:
    """Return what the page needs to show images of the dataset."""
    dataset = run.dataset
    near = dataset.report.near_copies
    return {
        "test": dataset.test,
        "train": dataset.train,
        "ink": " ink" if dataset.name in DATASETS else "",  # light on dark, and shown dark on light
        "data_url": data_url,
        "link": functools.partial(_link, run.pictures),
        "examples": data_url(examples_for_report(dataset)),
        "suspects": suspects(run.summary.label_errors, dataset, MAX_PICTURES),
        "near_copies": [*zip(near.test, near.train, strict=True)][: MAX_PICTURES // 2] if near else [],
    }


def _commands(run: ReportedRun) -> dict[str, Any]:
    """Return the arguments of the commands that the page shows."""
    folder = run.folder
    return {
        "storage": folder.where.removesuffix(f"/runs/{folder.run}"),
        "where": [o for o in run.options[0] if o.startswith("--dataset=") and run.dataset.name not in DATASETS],
        "weights": {trial.spec.model: trial.spec.weights for trial in run.summary.trials},
        "configuration": (folder.read(CONFIGURATION) or b"").decode(errors="replace"),
    }


def rejected_by_kind(tallies: Mapping[str, Tally]) -> dict[str, dict[str, Accuracy]]:
    """Return how many pictures of something else each model rejects: by the text of their kind, and by model."""
    rejected = {name: tally.chosen.record.rejected for name, tally in tallies.items()}
    return {
        text: {name: counts[kind] for name, counts in rejected.items() if kind in counts}
        for kind, text in MADE_UP_TEXTS.items()
        if any(kind in counts for counts in rejected.values())
    }


def render(name: str, **values: Any) -> bytes:
    """Return the page of a template of this package. Values are escaped, and a missing one is an error."""
    # Our own text has no-break spaces, which stay.
    return printable(_templates().get_template(name).render(values), keep="\n\N{NO-BREAK SPACE}").encode()


@functools.cache
def _templates() -> jinja2.Environment:
    folder = resources.files("mnist_lib.report") / "templates"
    loader = jinja2.FunctionLoader(lambda name: (folder / name).read_text(encoding="utf-8"))
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals |= {"colours": plots.VARIABLES, "counted": counted}
    environment.filters |= {**NUMBER_FORMATS, "quoted": shlex.quote}
    environment.filters["minute"] = lambda moment: moment[:16].replace("T", " ")  # "2026-11-25 03:00"
    return environment


def _link(pictures: str | None, file: str) -> Markup:
    """Return the name of a file of a folder of pictures, as a link if there is a URL of that folder."""
    if pictures is None:
        return escape(file)
    return Markup('<a href="{}/{}">{}</a>').format(pictures, quote(os.fsencode(file)), file)
