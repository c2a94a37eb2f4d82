"""Writes the report of a run and the index of all runs. A failure to write them is a warning, never an error."""

import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from jobs.console.options import flags_of, load_mapping
from jobs.train.options import TrainOptions
from mnist_lib.aggregation import Tally
from mnist_lib.data.request import DataRequest
from mnist_lib.data.split import Dataset
from mnist_lib.documents import decode
from mnist_lib.errors import IntegrityError, SpecError
from mnist_lib.objects.protocol import MAX_DOCUMENT_BYTES, Objects, concurrently
from mnist_lib.objects.storage import is_url
from mnist_lib.run_documents import SearchDocument, Summary
from mnist_lib.settings import defaults_of
from mnist_lib.store.champions.appointment import history, reign
from mnist_lib.store.champions.log import Champion, datasets_with_logs
from mnist_lib.store.runs import CONFIGURATION, INDEX, PLOTS, REPORT, SEARCH, SUMMARY, RunFolder
from mnist_lib.store.versions import find, model_names

if TYPE_CHECKING:
    from mnist_lib.report.index import Change, Row

MAX_ATTEMPTS = 5  # attempts to write an index that lists every complete run

log = logging.getLogger(__name__)


def load_in_background() -> None:
    """Import in a thread what a report needs, while the driver waits for the cluster."""

    def load() -> None:
        with _warn_only("report"):
            import mnist_lib.report.page  # noqa: F401

    threading.Thread(target=load, daemon=True).start()


def write_report(
    folder: RunFolder,
    summary: Summary,
    tallies: Mapping[str, Tally],
    dataset: Callable[[], Dataset],
    code: Mapping[str, Any],
    kind: type[TrainOptions] = TrainOptions,
) -> None:
    """Write the report of a run and its plots. `kind`: the type of its options, which has their defaults."""
    with _warn_only("report"):
        from mnist_lib.report.page import ReportedRun, report

        folder.flush()
        configuration = (folder.read(CONFIGURATION) or b"").decode(errors="replace")
        run = ReportedRun(
            summary=summary,
            history=folder.history(),
            tallies=tallies,
            dataset=dataset(),
            configuration=configuration,
            options=_options(configuration, kind),
            storage=folder.where.removesuffix(f"/runs/{folder.run}"),
            code=code,
            resumed=folder.resumed,
            search=_search(folder),
            pictures=pictures_link(folder.where, configuration),
        )
        made = report(run)
        for name, content in made.plots.items():
            folder.write(f"{PLOTS}/{name}.png", content)
        folder.write(REPORT, made.page)


def _search(folder: RunFolder) -> SearchDocument | None:
    content = folder.read(SEARCH)
    return None if content is None else decode(content, SearchDocument, f"{folder.where}/{SEARCH}")


def pictures_link(where: str, configuration: str) -> str | None:
    """Return the link from the report of a run to its folder of pictures, or None unless both are on this machine.

    The link is relative, so that a report that is moved names no folder above those that both are in.
    """
    dataset = load_mapping(configuration.encode(), CONFIGURATION).get("dataset")
    folder = DataRequest(dataset=dataset).folder if isinstance(dataset, str) and "/" in dataset else None
    return None if folder is None or is_url(where) else quote(os.fsencode(os.path.relpath(folder, where)))


def _options(configuration: str, kind: type[TrainOptions]) -> tuple[list[str], list[str]]:
    """Return the options as on a command line: those that differ from their defaults, and the rest."""
    options = load_mapping(configuration.encode(), CONFIGURATION)
    flags, defaults = flags_of(options), flags_of(defaults_of(kind))
    return [flag for flag in flags if flag not in defaults], [flag for flag in flags if flag in defaults]


def write_index(objects: Objects) -> None:
    """Write the index of all complete runs, including those that other processes complete meanwhile."""
    with _warn_only("index"):
        from mnist_lib.report.index import index

        written: set[str] | None = None
        for _ in range(MAX_ATTEMPTS):
            names = set(objects.names("runs"))
            complete = {name.split("/")[1] for name in names if name.endswith(f"/{SUMMARY}")}
            if complete == written:
                break
            rows = [*concurrently(partial(_row, objects, names), sorted(complete))]
            changes = [*_changes(objects)]
            left_out = [found for found in (*rows, *changes) if isinstance(found, str)]
            for found in left_out:
                log.warning("the index leaves out %s", found)
            shown = [row for row in rows if not isinstance(row, str)]
            objects.replace(
                INDEX, index(shown, [change for change in changes if not isinstance(change, str)], left_out)
            )
            written = complete


def _row(objects: Objects, names: Set[str], run: str) -> "Row | str":
    """Return the row of a complete run, or a text that names the run and says why it has no row."""
    from mnist_lib.report.index import row_of

    report = f"runs/{run}/{REPORT}"
    try:
        summary = RunFolder(objects, run).summary()
        if summary is None:
            return f"run {run}, because its summary has been deleted"
        return row_of(summary, report if report in names else None)
    except (IntegrityError, SpecError) as error:  # SpecError: no run of ours has this name
        return f"run {run}, because its summary is damaged ({error})"


def is_in_index(objects: Objects, run: str) -> bool:
    """Return whether the index lists a complete run; it does not if the driver was killed before it wrote the index."""
    return f">{run}<".encode() in (objects.read(INDEX, MAX_DOCUMENT_BYTES) or b"")


def _changes(objects: Objects) -> "Iterator[Change | str]":
    """Yield every change of a champion, or why a record of one cannot be shown."""
    for model in model_names(objects):
        for dataset in datasets_with_logs(objects, model):
            records = history(objects, model, dataset)
            current, newest = reign(records), records[-1]
            for record in records:
                if isinstance(record, IntegrityError):
                    yield f"a champion of {model} for {dataset} ({record})"
                elif record is current and isinstance(newest, Champion):
                    yield _change(objects, replace(record, test=newest.test or record.test), newest)
                elif record.kind != "keep":
                    yield _change(objects, record, None)


def _change(objects: Objects, record: Champion, newest: Champion | None) -> "Change":
    """Return a change of the champion. `newest`: the newest record of the log, if it is the current champion's."""
    from mnist_lib.report.index import Change

    budget = newest.budget if newest is not None else None
    return Change(
        model=record.model,
        version=record.version,
        at=record.at,
        kind=record.kind,
        why=record.why,
        current=newest is not None,
        dataset=record.dataset,
        accuracy=record.test.value if record.test else _test_accuracy(objects, record),
        interval=record.interval if newest is not None else None,
        budget=str(budget) if budget is not None else None,
    )


def _test_accuracy(objects: Objects, record: Champion) -> float | None:
    """Return the test accuracy of a version, if it is still known."""
    try:
        version = find(objects, record.model, record.version)
        return version.facts.test.value if version else None
    except IntegrityError:
        return None


@contextmanager
def _warn_only(what: str) -> Iterator[None]:
    """Turn every failure into a warning, since the models are already stored."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it logs messages about its caches
    try:
        yield
    except Exception as error:
        log.warning("the %s could not be written (%s: %s)", what, type(error).__name__, error)
        log.debug("", exc_info=True)
