"""Writes what people look at after a run: its report, and the index over all runs. No run fails for them."""

import logging
from collections.abc import Callable, Iterator, Mapping, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from mnist_lib.catalog import MODELS
from mnist_lib.data.split import Dataset
from mnist_lib.errors import IntegrityError
from mnist_lib.results import Tally
from mnist_lib.store.champions import Champion, history
from mnist_lib.store.contents import accuracy_of_version
from mnist_lib.store.objects import Objects
from mnist_lib.store.runs import CONFIGURATION, INDEX, PLOTS, REPORT, SUMMARY, RunFolder
from mnist_lib.store.versions import find

if TYPE_CHECKING:
    from mnist_lib.report.index import Change, Row

READERS = 16  # summaries at once; a bucket answers late, but many
MOST_TRIES = 5

log = logging.getLogger(__name__)


def write_report(
    folder: RunFolder,
    summary: Mapping[str, Any],
    tallies: Mapping[str, Tally],
    dataset: Callable[[], Dataset],
    code: Mapping[str, Any],
) -> None:
    with _no_run_fails("report"):
        from mnist_lib.report.page import ReportedRun, report

        folder.flush()
        run = ReportedRun(
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
    """Of all runs that are complete when it returns, whoever else completes one and writes it at the same time."""
    with _no_run_fails("index"):
        from mnist_lib.report.index import index

        written: set[str] | None = None
        for _ in range(MOST_TRIES):
            names = set(objects.names("runs"))
            complete = {name.split("/")[1] for name in names if name.endswith(f"/{SUMMARY}")}
            if complete == written:
                break
            with ThreadPoolExecutor(READERS) as readers:
                rows = list(readers.map(partial(_row, objects, names), sorted(complete)))
            objects.replace(INDEX, index([row for row in rows if row is not None], [*_changes(objects)]))
            written = complete


def _row(objects: Objects, names: Set[str], run: str) -> "Row | None":
    from mnist_lib.report.index import row_of

    report = f"runs/{run}/{REPORT}"
    try:
        return row_of(RunFolder(objects, run).summary() or {}, report if report in names else None)
    except (IntegrityError, KeyError, TypeError, ValueError, AttributeError) as error:
        log.warning("the index leaves out run %s: its summary is damaged (%s)", run, error)
        return None


def is_in_index(objects: Objects, run: str) -> bool:
    """A driver that was killed between a run's end and the index has left it out."""
    return f">{run}<".encode() in (objects.read(INDEX) or b"")


def _changes(objects: Objects) -> "Iterator[Change]":
    from mnist_lib.report.index import Change

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
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # or it would tell of its caches
    try:
        yield
    except Exception as error:
        log.warning("the %s could not be written (%s: %s)", what, type(error).__name__, error)
        log.debug("", exc_info=True)
