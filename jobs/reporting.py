"""Writes what people look at after a run: its report, and the index over all runs. No run fails for them."""

import logging
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from mnist_lib.catalog import MODELS
from mnist_lib.data.split import Dataset
from mnist_lib.errors import IntegrityError
from mnist_lib.report.index import Change, index
from mnist_lib.report.page import Run, report
from mnist_lib.store.champions import Champion, history
from mnist_lib.store.contents import accuracy_of_version
from mnist_lib.store.objects import Objects
from mnist_lib.store.runs import CONFIGURATION, INDEX, PLOTS, REPORT, SUMMARY, RunFolder
from mnist_lib.store.versions import find
from mnist_lib.tally import Tally

READERS = 16  # summaries at once; a bucket answers late, but many

log = logging.getLogger(__name__)


def write_report(
    folder: RunFolder,
    summary: Mapping[str, Any],
    tallies: Mapping[str, Tally],
    dataset: Callable[[], Dataset],
    code: Mapping[str, Any],
) -> None:
    with _no_run_fails("report"):
        folder.flush()
        run = Run(
            summary=summary,
            history=folder.history(),
            tallies=tallies,
            dataset=dataset(),
            configuration=(folder.read(CONFIGURATION) or b"").decode(errors="replace"),
            storage=folder.where.removesuffix(f"/runs/{folder.run}"),
            code=code,
        )
        made = report(run)
        for name, content in made.plots.items():
            folder.write(f"{PLOTS}/{name}.png", content)
        folder.write(REPORT, made.page)


def write_index(objects: Objects) -> None:
    """Of all runs, whoever else writes it at the same time."""
    with _no_run_fails("index"):
        names = set(objects.names("runs"))
        runs = sorted({name.split("/")[1] for name in names if name.endswith(f"/{SUMMARY}")})
        with ThreadPoolExecutor(READERS) as readers:
            summaries = [found for found in readers.map(lambda run: _summary(objects, run), runs) if found is not None]
        reports = {run: f"runs/{run}/{REPORT}" for run in runs if f"runs/{run}/{REPORT}" in names}
        objects.replace(INDEX, index(summaries, reports, [*_changes(objects)]))


def _summary(objects: Objects, run: str) -> dict[str, Any] | None:
    try:
        return RunFolder(objects, run).summary()
    except IntegrityError as error:
        log.warning("%s; the index leaves it out", error)
        return None


def _changes(objects: Objects) -> Iterator[Change]:
    for model in MODELS:
        for record in history(objects, model):
            if isinstance(record, Champion):
                accuracy = _accuracy(objects, record)
                yield Change(model, record.version, record.at, record.kind, record.why, accuracy)


def _accuracy(objects: Objects, record: Champion) -> float | None:
    try:
        version = find(objects, record.model, record.version)
        return None if version is None else accuracy_of_version(version).value
    except IntegrityError:
        return None


@contextmanager
def _no_run_fails(what: str) -> Iterator[None]:
    """What was trained is stored by now; a page that cannot be drawn is told, and that is all."""
    try:
        yield
    except Exception as error:
        log.warning("the %s could not be written (%s: %s)", what, type(error).__name__, error)
        log.debug("", exc_info=True)
