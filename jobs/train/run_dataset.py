"""The dataset of a run, prepared beside the driver and compared with that of the last run."""

import contextlib
import functools
import logging
import shlex
from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec import structs

from cluster.errors import ClusterError, ClusterLostError
from cluster.tasks import result_of, start_beside_driver
from jobs.console.terminal import is_capable, step
from jobs.train import worker
from jobs.train.options import TrainOptions
from jobs.train.plan import Plan
from jobs.train.planning import models_to_check
from mnist_lib.catalog import DATASETS
from mnist_lib.data.changes import MAX_EARLIER_RUNS, DatasetState, growth
from mnist_lib.data.corrections import labels_in_storage
from mnist_lib.data.dataset import Dataset
from mnist_lib.data.hold_out import require_untrained
from mnist_lib.data.prepared.folder import ProgressFile
from mnist_lib.environment import steady_time
from mnist_lib.errors import IntegrityError, ModelError
from mnist_lib.report.summary import dataset_summary
from mnist_lib.report.texts import changes_text, groups_texts, growth_texts, near_copies_texts
from mnist_lib.run_documents import (
    ChangesSummary,
    DatasetSummary,
    Summary,
)
from mnist_lib.spec import MIN_VALIDATION, VALIDATION_PERCENT
from mnist_lib.store.champions.log import datasets_with_logs
from mnist_lib.store.contents import StoredModel, origins
from mnist_lib.store.datasets import (
    RunData,
    begin_with,
    begun_with,
    earlier_runs,
    last_run,
    read_state,
    record_hashes,
    recorded_hashes,
    trained_images,
)
from mnist_lib.store.reference import objections, reference_of, with_reference_shape
from mnist_lib.store.runs import RunFolder
from mnist_lib.store.versions import Version
from mnist_lib.wording import counted

if TYPE_CHECKING:
    from numpy.typing import NDArray


log = logging.getLogger(__name__)


class RunDataset:
    """The dataset of a run: prepared beside the driver from now on, compared with that of the last run, and recorded.

    What a run begins with is recorded, so that it keeps its labels and the shape of its images when it is resumed after
    others have been corrected or added.
    """

    def __init__(self, folder: RunFolder, plan: Plan, pretrained: Any) -> None:
        self._folder = folder
        self._plan = plan
        objects = folder.objects
        self._begun = begun_with(folder)
        options = plan.options
        asked = options.data()
        request = asked.shaped(self._begun.image_shape) if self._begun else with_reference_shape(asked, objects)
        self._has_known_shape = request != asked
        self.name = request.name
        self._since = self._begun.since if self._begun else last_run(objects, request.name)
        self._reference = None if request.entry else reference_of(objects, request.name)
        self.begin = self.prepared = steady_time()  # when the run began, and when the dataset was prepared
        self._known: Dataset | None = None
        before = read_state(objects, request.name, self._since.fingerprint) if self._since else None
        files = [sha256 for of_model in plan.weights_sha256.values() for sha256 in of_model.values()]
        self._trained = trained_images(objects, origins(objects, options.init_from or (), files))
        self._progress = ProgressFile(request)
        preparation = worker.Preparation(
            request=request,
            labels=labels_in_storage(request, objects),
            used=self._begun.labels if self._begun else None,
            records=recorded_hashes(objects, request),
            before=None if before is None else np.frombuffer(before, np.uint8),
            trained=self._trained,
            progress=self._progress,
        )
        self.images, self._info, self._state = start_beside_driver(
            worker.prepare_dataset, preparation, models_to_check(plan), pretrained, num_returns=3
        )

    @property
    def info(self) -> Dataset:
        """What the driver needs to know about the dataset, for which it waits."""
        return self._known or self.wait()

    def wait(self) -> Dataset:
        """Wait for the dataset, check it, record it as that of the run, and log what is unusual; only once."""
        if self._known is None:
            self._known = info = self._prepared()
            self.prepared = steady_time()
            self._plan = self._plan.resolve_defaults(lambda: len(info.train))
            options = self._plan.options
            info.check_use(options.percent_for_validation, options.folds)
            if options.folds is not None:
                require_untrained(info, self._trained)
            self._log_info(info, options)
            self._begin_with(info, options)
            self._log_changes(info)
        return self._known

    def _begin_with(self, info: Dataset, options: TrainOptions) -> None:
        """Record what the run begins with, and compare it with what an earlier driver has recorded."""
        if self._begun is None:
            begun = RunData(
                info.report.used_labels,
                self._since,
                options.init_from or (),
                info.image_shape,  # type: ignore[arg-type]  # it has 1, 3 or 4 channels
                info.report.unreadable,
            )
            begin_with(self._folder, begun)
        self._folder.require_same("fingerprint.txt", info.fingerprint, "dataset")
        record_hashes(self._folder.objects, info.name, info.report.new_records)
        self._known = info.reporting(new_records=None)

    def _log_info(self, info: Dataset, options: TrainOptions) -> None:
        log.info("%s: %s training images, %s test images", info.name, f"{len(info.train):,}", f"{len(info.test):,}")
        for text in groups_texts(info.group_counts):
            log.info("%s: %s", info.name, text)
        if not info.report.reusable:
            log.info(
                "the folder of prepared datasets could not be written, so the images are among the temporary files, and"
                " the next run may have to prepare them again; use another --data-dir"
            )
        if options.percent_for_validation is None and not info.validation_size(None):
            log.info(
                "%s: trains on all %s training images and stores the last epoch, since %d%% are fewer than %d; hold"
                " some out with --validation-percent",
                *(info.name, f"{len(info.train):,}", VALIDATION_PERCENT, MIN_VALIDATION),
            )
        for notice in info.report.notices:
            log.warning("%s: %s", info.name, notice)
        if self._has_known_shape:
            size = " x ".join(map(str, info.image_shape))
            log.info("%s: images of %s, as before in this storage; choose others with --image-size", info.name, size)

    def _log_changes(self, info: Dataset) -> None:
        summary = self.summary()
        for text in summary.objections:
            log.warning("%s has changed unexpectedly: %s", info.name, text)
        for text in near_copies_texts(summary.near_copies):
            log.warning("%s: %s", info.name, text)
        changes = summary.changes
        if changes:
            log.info("%s: %s", info.name, changes_text(changes))
            for text in growth_texts(changes.unusual):
                log.warning("%s: %s", info.name, text)
        elif self._since:
            log.warning("%s: what has changed since run %s is not known", info.name, self._since.run)
        elif self._begun is None and (others := self._other_folders()):
            log.info(
                "%s is new in this storage, which has champions for %s; if it is one of them and was renamed, use"
                " --dataset-name %s",
                info.name,
                ", ".join(others),
                others[0],
            )

    def _prepared(self) -> Dataset:
        """Wait for the dataset, and show how much of a folder is read: on a terminal as a bar, or else in the log."""
        shown = not self._plan.options.quiet
        with step(f"importing TensorFlow and preparing {self._plan.options.dataset}", shown=shown) as show:

            def progress() -> str:
                if (so_far := self._progress.read()) is not None:
                    show(so_far)
                return so_far or ""

            try:
                logged = not (shown and is_capable())
                info: Dataset = result_of(self._info, "the preparation of the dataset", progress, logged=logged)
            finally:
                self._progress.remove()
        return info

    def _other_folders(self) -> list[str]:
        """Return the names of other folders for which the models of this run have champions; none without a folder."""
        request = self._plan.options.data()
        if request.entry or request.tfds or request.dataset_name:
            return []
        objects = self._folder.objects
        models = {spec.model for spec in self._plan.trials}
        names = {name for model in models for name in datasets_with_logs(objects, model)}
        return sorted(names - {*DATASETS, request.name})

    def summary(self) -> DatasetSummary:
        """Return what the summary of the run says about the prepared dataset."""
        return structs.replace(
            dataset_summary(self.info, self._plan.options.percent_for_validation),
            changes=self._changes(),
            objections=self._objections,
            accept=shlex.join(self._accept_command) if self._objections else None,
            newly_damaged=len({*self.info.report.unreadable} - self._known_unreadable),
        )

    def _changes(self) -> ChangesSummary | None:
        changes = self.info.report.changes
        since = self._since
        if changes is None or since is None:
            return None
        earlier = [run.dataset.changes.added for run in self.earlier if run.dataset.changes]
        return ChangesSummary(
            since=since.run,
            at=since.at,
            added=changes.added,
            removed=changes.removed,
            relabelled=changes.relabelled,
            unusual=growth(changes.added, earlier),
        )

    @functools.cached_property
    def _objections(self) -> tuple[str, ...]:
        """The reasons not to promote the models of this run. See `store.reference`."""
        reference = self._reference
        info = self.info
        if reference is None:
            return ()
        content = read_state(self._folder.objects, info.name, reference.fingerprint)
        before = None
        try:
            before = DatasetState.read(content or b"", "the pictures of the reference")
        except IntegrityError as error:
            log.warning("%s: it is not known which pictures are gone: %s", info.name, error)
        return objections(reference, before, info)

    @property
    def _accept_command(self) -> list[str]:
        state = self.info.fingerprint[:12]
        words = ["python", "-m", "jobs.models", "accept", self.info.name, "--state", state]
        return [*words, "--storage", self._plan.options.storage]

    @functools.cached_property
    def _known_unreadable(self) -> frozenset[str]:
        """The paths that the last run of the dataset could not read either."""
        known: tuple[str, ...] | None = ()
        with contextlib.suppress(IntegrityError):
            begun = begun_with(RunFolder(self._folder.objects, self._since.run)) if self._since else None
            known = begun.unreadable if begun else ()
        return frozenset(known or ())

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

    def predict(self, version: Version, positions: "NDArray[np.intp]") -> "NDArray[np.float32]":
        """Predict test images, given by their positions, with a stored version in a task: [n, classes]."""
        log.info("%s predicts %s that are new to it", version.name, counted(len(positions), "image"))
        stored = StoredModel.read(self._folder.objects, version)
        task = start_beside_driver(worker.predict_images, stored, self.images, positions)
        try:
            probabilities: NDArray[np.float32] = result_of(task, f"the predictions of {version.name}")
        except ClusterLostError:
            raise
        except ClusterError as error:  # its worker died; the champion stays, and the run goes on
            raise ModelError(str(error)) from error
        return probabilities
