"""The report of a run: one self-contained page that begins with the result, and its plots.

Every figure of the summary is read by its path, which the page contains as `data-path`.
"""

import functools
import os
import platform
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any
from urllib.parse import quote

import jinja2
from markupsafe import Markup, escape

from mnist_lib.catalog import DATASETS
from mnist_lib.data.dataset import Dataset
from mnist_lib.data.made_up import MAKERS
from mnist_lib.documents import builtins_of
from mnist_lib.report import evidence, plots
from mnist_lib.report.aggregation import Tally
from mnist_lib.report.dataset import data_url, examples_for_report
from mnist_lib.report.evidence import Course, ReportedSearch, StoredTrial
from mnist_lib.report.label_errors import suspects
from mnist_lib.report.summary import settings_of
from mnist_lib.report.texts import (
    KINDS,
    MADE_UP_TEXTS,
    SPLIT_NAMES,
    changes_by_class,
    corrections_texts,
    folds_text,
    groups_texts,
    notes,
    objection_texts,
    unusual_texts,
)
from mnist_lib.results import Accuracy
from mnist_lib.run_documents import Summary
from mnist_lib.store.runs import CONFIGURATION, RunFolder
from mnist_lib.wording import counted, percent, printable, rounded

ABOUT_PICTURES = ("left out", "resized and cropped to", "converted to")  # beginnings of notices that name pictures
MAX_CHANGED_CLASSES = 50  # rows in the table of changes

# How templates format numbers, by the name of the format.
NUMBER_FORMATS: dict[str, Callable[[Any], str]] = {
    "percent": percent,
    "tenths": lambda value: f"{100 * value:.1f}".removesuffix(".0"),
    "points": lambda value: f"{100 * value:.2f}",
    "count": rounded,
    "rate": lambda value: f"{value:,.0f}",
    "seconds": lambda value: f"{value:.1f}",
}


@dataclass(frozen=True, kw_only=True)
class ReportedRun:
    """What a report is made from."""

    folder: RunFolder  # its history, configuration and search
    summary: Summary
    tallies: Mapping[str, Tally]  # of the models with a successful trial
    dataset: Dataset
    options: tuple[Sequence[str], Sequence[str]]  # as on a command line: first those that differ from the defaults
    code: Mapping[str, Any]  # as in `environment.code_version`
    pictures: str | None = None  # URL of the folder of pictures, relative to the report, if the page can open it


@dataclass(frozen=True)
class Report:
    page: bytes  # HTML
    plots: Mapping[str, bytes]  # PNG, by name


def report(run: ReportedRun) -> Report:
    labels = run.dataset.test.labels
    stored = {name: StoredTrial.of(tally.chosen.probabilities, labels) for name, tally in sorted(run.tallies.items())}
    folder = run.folder
    dataset = run.summary.dataset
    near = run.dataset.report.near_copies
    search, course = ReportedSearch.of(folder.search(), run.summary), Course.of(folder.history(), run.summary)
    drawn = [plots.accuracy_of_trials(run.summary)] if stored else []
    if course.curves:
        drawn.append(plots.learning_curves(run.summary, course))
    if course.attempts:
        drawn.append(plots.time_line(run.summary, course))
    if search and search.tried:
        drawn += [plots.settings_plot(search), plots.rungs_plot(search)]
    page = render(
        "report.html",
        run=run,
        storage=folder.where.removesuffix(f"/runs/{folder.run}"),
        configuration=(folder.read(CONFIGURATION) or b"").decode(errors="replace"),
        summary=run.summary,
        failed=run.summary.failed,
        balanced=any(trial.spec.score != "accuracy" for trial in run.summary.trials),
        figure=_figures(run.summary),
        notes=[*objection_texts(run.summary.dataset), *unusual_texts(run.summary), *notes(run.summary)],
        settings=settings_of(run.summary),
        plots={plot.name: Markup(plot.svg) for plot in drawn},
        stored=stored,
        disagreements=evidence.Disagreements.of(run.tallies, labels) if run.tallies else None,
        evidence=evidence,
        test=run.dataset.test,
        train=run.dataset.train,
        folds_text=folds_text(run.summary.folds) if run.summary.folds else None,
        suspects=suspects(run.summary.label_errors, run.dataset, evidence.MAX_PICTURES),
        rejected=rejected_by_kind(run.tallies),
        not_made_up=[MADE_UP_TEXTS[kind] for kind in MAKERS if kind not in run.dataset.made_up],
        near_copies=[*zip(near.test, near.train, strict=True)][: evidence.MAX_PICTURES // 2] if near else [],
        link=functools.partial(_link, run.pictures),
        left_out=[notice for notice in dataset.notices if notice.startswith(ABOUT_PICTURES)],
        classes=run.dataset.classes,
        # Options of commands that the report shows:
        where=[o for o in run.options[0] if o.startswith("--dataset=") and run.dataset.name not in DATASETS],
        weights={trial.spec.model: trial.spec.weights for trial in run.summary.trials},
        ink=" ink" if run.dataset.name in DATASETS else "",  # light on dark, and shown dark on light
        examples=data_url(examples_for_report(run.dataset)),
        data_url=data_url,
        data_facts=[*groups_texts(dataset.groups), *corrections_texts(dataset.corrections)],
        changes=changes_by_class(dataset.changes, run.dataset.classes) if dataset.changes else {},
        change_headings=[f"{kind} {split}" for kind in KINDS for split in SPLIT_NAMES.values()],
        max_classes=MAX_CHANGED_CLASSES,
        search=search,
        attempts=course.attempts,
        nodes=sorted({trial.node for trial in run.summary.successful}),
        system=f"{platform.system()} {platform.machine()}",
    )
    return Report(page, {plot.name: plot.png for plot in drawn})


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


def _figures(summary: Summary) -> Callable[[str, str], Markup]:
    """Return a function that takes the path of a figure in the summary and a format, and returns the figure as HTML."""
    document = builtins_of(summary)

    def figure(path: str, format: str) -> Markup:
        value: Any = document
        for key in path.split("/"):
            value = value[key if isinstance(value, dict) else int(key)]
        text = NUMBER_FORMATS[format](value)
        return Markup('<data value="{}" data-path="{}">{}</data>').format(value, path, text)

    return figure
