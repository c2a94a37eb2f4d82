"""The index of a storage: current champions, the runs of each dataset, and the history of the champions."""

import logging
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import partial

from msgspec import structs

from mnist_lib.errors import IntegrityError, SpecError
from mnist_lib.objects.protocol import Objects, concurrently
from mnist_lib.report.page import render
from mnist_lib.report.summary import settings_of
from mnist_lib.run_documents import Summary
from mnist_lib.store.champions.appointment import current_appointment, history
from mnist_lib.store.champions.log import Champion, datasets_with_logs
from mnist_lib.store.runs import INDEX, REPORT, SUMMARY, RunFolder
from mnist_lib.store.versions import model_names

MAX_ATTEMPTS = 5  # attempts to write an index that lists every complete run
MAX_RUNS = 500  # of one dataset in its table

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Row:
    """A row of the table of runs."""

    summary: Summary
    link: str | None  # to the report
    settings: Mapping[str, Mapping[str, str]]  # as returned by `settings_of`


@dataclass(frozen=True)
class Change:
    """A version that became champion."""

    record: Champion  # that of the current champion has its accuracy and budget in the newest record
    is_current: bool = False


def write_index(objects: Objects) -> None:
    """Write the index of all complete runs, including those that other processes complete meanwhile."""
    written: set[str] | None = None
    for _ in range(MAX_ATTEMPTS):
        names = set(objects.names("runs"))
        complete = {name.split("/")[1] for name in names if name.endswith(f"/{SUMMARY}")}
        if complete == written:
            break
        found = [*concurrently(objects, partial(_row, objects, names), sorted(complete)), *_changes(objects)]
        left_out = [text for text in found if isinstance(text, str)]
        for text in left_out:
            log.warning("the index leaves out %s", text)
        rows = [row for row in found if isinstance(row, Row)]
        changes = [change for change in found if isinstance(change, Change)]
        objects.replace(INDEX, index(rows, changes, left_out))
        written = complete


def _row(objects: Objects, names: Set[str], run: str) -> Row | str:
    """Return the row of a complete run, or a text that names the run and says why it has no row."""
    report = f"runs/{run}/{REPORT}"
    try:
        summary = RunFolder(objects, run).summary()
        if summary is None:
            return f"run {run}, because its summary has been deleted"
        small = structs.replace(summary, label_errors=None)  # the rows of all runs are in memory
        return Row(small, report if report in names else None, settings_of(summary))
    except (IntegrityError, SpecError) as error:  # SpecError: no run of ours has this name
        return f"run {run}, because its summary is damaged ({error})"


def _changes(objects: Objects) -> Iterator[Change | str]:
    """Yield every change of a champion, or why a record of one cannot be shown."""
    for model in model_names(objects):
        for dataset in datasets_with_logs(objects, model):
            records = history(objects, model, dataset)
            if not records:  # a process was killed before it wrote the first one
                continue
            current = current_appointment(records)
            newest = records[-1]
            for record in records:
                if isinstance(record, IntegrityError):
                    yield f"a champion of {model} for {dataset} ({record})"
                elif record is current and isinstance(newest, Champion):
                    yield Change(replace(newest, at=record.at, kind=record.kind, why=record.why), is_current=True)
                elif record.kind != "keep":
                    yield Change(record)


def index(rows: Sequence[Row], changes: Sequence[Change], left_out: Sequence[str] = ()) -> bytes:
    """Return the page.

    Args:
        rows: in any order.
        changes: in order of time for each model.
        left_out: what cannot be shown, each with the reason.
    """
    runs = sorted(rows, key=lambda row: (row.summary.ended, row.summary.run), reverse=True)
    changes = sorted(changes, key=lambda change: change.record.at)
    groups = []
    for dataset in dict.fromkeys(row.summary.dataset.name for row in runs):
        of_dataset = [row for row in runs if row.summary.dataset.name == dataset]
        groups.append(
            {
                "dataset": dataset,
                "rows": of_dataset,
                "differing": _differing(of_dataset),
                "models": _models(of_dataset),
            }
        )
    champions = [change for change in changes if change.is_current]
    champions.sort(key=lambda change: (change.record.model, change.record.dataset))
    return render(
        "index.html",
        groups=groups,
        total=len(runs),
        max_runs=MAX_RUNS,
        models=_models(runs),
        champions=champions,
        changes=changes[::-1],
        left_out=left_out,
    )


def _models(rows: Sequence[Row]) -> list[str]:
    return sorted({name for row in rows for name in row.summary.models})


def _differing(rows: Sequence[Row]) -> list[str]:
    """Return the settings in which two runs differ for the same model."""

    def differs(name: str, model: str) -> bool:
        of_model = [row.settings.get(name, {}) for row in rows if model in row.summary.models]
        return len({by_model.get(model) for by_model in of_model}) > 1

    names = dict.fromkeys(name for row in rows for name in row.settings)
    return [name for name in names if any(differs(name, model) for model in _models(rows))]
