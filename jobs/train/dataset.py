"""The dataset of a run: prepared beside the driver, compared with that of the last run, and recorded at the end.

What a run begins with is recorded, so that it keeps its labels when it is resumed after someone has corrected others.
"""

import functools
import logging
from collections.abc import Sequence

import numpy as np

from cluster.tasks import result_of, start_beside_driver
from jobs.console.terminal import step
from jobs.train import worker
from jobs.train.options import TrainOptions
from jobs.train.planning import models_to_check
from mnist_lib.clock import steady_time
from mnist_lib.data.changes import MAX_EARLIER_RUNS, growth
from mnist_lib.data.corrections import labels_in_storage
from mnist_lib.data.split import Dataset, DatasetInfo
from mnist_lib.report.data_texts import changes_text, growth_texts
from mnist_lib.report.summary import dataset_summary
from mnist_lib.run_documents import ChangesSummary, DatasetSummary, Summary
from mnist_lib.spec import TrialSpec
from mnist_lib.store.datasets import RunData, begin_with, begun_with, earlier_runs, last_run, read_state
from mnist_lib.store.runs import RunFolder

log = logging.getLogger(__name__)


class RunDataset:
    """The dataset of a run, whose preparation begins at once."""

    def __init__(self, folder: RunFolder, options: TrainOptions, trials: Sequence[TrialSpec]) -> None:
        self._folder, self._options = folder, options
        request, objects = options.data(), folder.objects
        self._begun = begun_with(folder)
        self._since = self._begun.since if self._begun else last_run(objects, request.name)
        self.begin = self.prepared = steady_time()  # when the run began, and when the dataset was prepared
        self._facts: DatasetInfo | None = None
        before = read_state(objects, request.name, self._since.fingerprint) if self._since else None
        self.images, self._info, self._state = start_beside_driver(
            worker.prepare_dataset,
            request,
            models_to_check(options, trials),
            labels_in_storage(request, objects),
            self._begun.labels if self._begun else None,
            None if before is None else np.frombuffer(before, np.uint8),  # an array is sent without copying it
            num_returns=3,
        )

    def facts(self) -> DatasetInfo:
        """Wait until the dataset is prepared, check it, and return what the driver needs to know about it."""
        if self._facts is None:
            self._facts, self.prepared = self._wait(), steady_time()
        return self._facts

    def _wait(self) -> DatasetInfo:
        options, folder = self._options, self._folder
        with step(f"importing TensorFlow and preparing {options.dataset}", shown=not options.quiet):
            facts: DatasetInfo = result_of(self._info, "the preparation of the dataset")
        log.info(
            "%s: %s training images, %s test images", facts.name, f"{facts.train:,}", f"{len(facts.test_labels):,}"
        )
        if not facts.reusable:
            log.info(
                "the dataset's folder cannot be written, so each run prepares the dataset again; use another --data-dir"
            )
        facts.check(options.validation_percent)
        for notice in facts.notices:
            log.warning("%s: %s", facts.name, notice)
        if self._begun is None:
            begin_with(folder, RunData(facts.labels, self._since))
        folder.require_same("fingerprint.txt", facts.fingerprint, "dataset")
        changes = self.summary(facts).changes
        if changes:
            log.info("%s: %s", facts.name, changes_text(changes))
            for text in growth_texts(changes.unusual):
                log.warning("%s: %s", facts.name, text)
        elif self._since:
            log.warning("%s: what has changed since run %s is not known", facts.name, self._since.run)
        return facts

    def summary(self, facts: DatasetInfo) -> DatasetSummary:
        """Return what the summary of the run says about the dataset."""
        changes, since = facts.changes, self._since
        if changes is None or since is None:
            return dataset_summary(facts, self._options.validation_percent)
        earlier = [run.dataset.changes.added for run in self.earlier if run.dataset.changes]
        of_summary = ChangesSummary(
            since=since.run,
            at=since.at,
            added=changes.added,
            removed=changes.removed,
            relabelled=changes.relabelled,
            unusual=growth(changes.added, earlier),
        )
        return dataset_summary(facts, self._options.validation_percent, of_summary)

    @functools.cached_property
    def earlier(self) -> list[Summary]:
        """The summaries of the last runs of the dataset."""
        return earlier_runs(self._folder.objects, self._since.run, MAX_EARLIER_RUNS) if self._since else []

    def content(self) -> Dataset:
        dataset: Dataset = result_of(self.images, "the dataset")
        return dataset

    def state(self) -> bytes:
        """Return the state of the dataset, see `data.changes`."""
        return bytes(result_of(self._state, "the state of the dataset"))
