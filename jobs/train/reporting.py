"""Writes the report of a run and the index of all runs. A failure to write them is a warning, never an error."""

import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

from jobs.console.options import load_mapping
from jobs.train.commands import flags_by_default
from jobs.train.options import TrainOptions
from mnist_lib.data.dataset import Dataset
from mnist_lib.data.request import DataRequest
from mnist_lib.objects.protocol import MAX_DOCUMENT_BYTES, Objects
from mnist_lib.objects.storage import is_url
from mnist_lib.report.aggregation import Tally
from mnist_lib.run_documents import Summary
from mnist_lib.store.runs import CONFIGURATION, INDEX, PLOTS, REPORT, RunFolder

log = logging.getLogger(__name__)


def load_in_background() -> None:
    """Import in a thread what a report needs, while the driver waits for the cluster."""

    def load() -> None:
        with _warn_only("report"):
            import mnist_lib.report.page  # noqa: F401

    threading.Thread(target=load, daemon=True).start()


def add(
    folder: RunFolder,
    summary: Summary,
    tallies: Mapping[str, Tally],
    dataset: Callable[[], Dataset],
    code: Mapping[str, Any],
    kind: type[TrainOptions] = TrainOptions,
) -> None:
    """Write the report of a run and its plots. `kind`: the type of its options, which has their defaults."""
    with _warn_only("report"):
        from mnist_lib.report.evidence import ReportedRun
        from mnist_lib.report.page import report

        folder.flush()
        configuration = load_mapping(folder.read(CONFIGURATION) or b"", CONFIGURATION)
        run = ReportedRun(
            folder=folder,
            summary=summary,
            tallies=tallies,
            dataset=dataset(),
            options=flags_by_default(configuration, kind, summary.dataset.name),
            code=code,
            pictures=pictures_link(folder.where, configuration.get("dataset")),
        )
        made = report(run)
        for name, content in made.plots.items():
            folder.write(f"{PLOTS}/{name}.png", content)
        folder.write(REPORT, made.page)


def pictures_link(where: str, dataset: object) -> str | None:
    """Return the link from the report of a run to its folder of pictures, or None unless both are on this machine.

    The link is relative, so that a report that is sent to others does not name the folders that contain both.
    """
    folder = DataRequest(dataset=dataset).folder if isinstance(dataset, str) and "/" in dataset else None
    return None if folder is None or is_url(where) else quote(os.fsencode(os.path.relpath(folder, where)))


def update(objects: Objects, run: str | None = None) -> None:
    """Write the index of all complete runs.

    Args:
        run: a complete run. If the index lists it, nothing is written; a run is missing from the index only if its
            driver was killed. By default, the index is written again, if there is one.
    """
    known = objects.read(INDEX, MAX_DOCUMENT_BYTES) or b""
    if known if run is None else f">{run}<".encode() not in known:
        with _warn_only("index"):
            from mnist_lib.report.index import write_index

            write_index(objects)


@contextmanager
def _warn_only(what: str) -> Iterator[None]:
    """Turn every failure into a warning, since the models are already stored."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it logs messages about its caches
    try:
        yield
    except Exception as error:
        log.warning("the %s could not be written (%s: %s)", what, type(error).__name__, error)
        log.debug("", exc_info=True)
