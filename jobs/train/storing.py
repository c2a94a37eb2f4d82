"""Stores what a run has trained: versions of the models, champions, the report, and the summary that completes it."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cluster.errors import ClusterError, ClusterLostError
from cluster.tasks import result_of, start_beside_driver
from jobs.console.terminal import step
from jobs.train import worker
from jobs.train.options import TrainOptions
from jobs.train.recorder import Recorder
from jobs.train.reporting import write_index, write_report
from mnist_lib.aggregation import Tally
from mnist_lib.clock import now_text, steady_time
from mnist_lib.data.split import Dataset, DatasetInfo
from mnist_lib.errors import IntegrityError, ModelError
from mnist_lib.objects.protocol import Objects, failpoint
from mnist_lib.report.summary import Stored, summarize
from mnist_lib.results import TrialResult
from mnist_lib.run_documents import DatasetSummary, SearchSummary, Summary, Timing
from mnist_lib.store.champions.challenge import Predict, promote
from mnist_lib.store.champions.promotion import Rule
from mnist_lib.store.champions.reigns import champion
from mnist_lib.store.contents import StoredModel, contents_of
from mnist_lib.store.datasets import record_last_run, store_state
from mnist_lib.store.publishing import publish
from mnist_lib.store.resumption import delete_trial_state, forget_result
from mnist_lib.store.runs import RunFolder
from mnist_lib.store.versions import Version
from mnist_lib.wording import counted

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StoredData:
    """What is stored about the dataset of a run."""

    summary: DatasetSummary
    dataset: Callable[[], Dataset]  # for the report
    state: Callable[[], bytes]  # for the next run, see `data.changes`
    earlier: Sequence[Summary] = ()  # the summaries of the last runs of the dataset


@dataclass(frozen=True)
class Times:
    """Moments of a run, as values of `steady_time()`."""

    begin: float  # of the command
    connected: float
    prepared: float
    trained: float


def store_run(
    folder: RunFolder,
    recorder: Recorder,
    facts: DatasetInfo,
    options: TrainOptions,
    code: Mapping[str, Any],
    times: Times,
    data: StoredData,
    predict: Predict | None = None,
    search: SearchSummary | None = None,
) -> Summary:
    """Store the models, the report and the summary of a trained run, and delete what only resuming needed.

    Args:
        predict: predicts test images with an earlier version; None if that is not possible.
        search: what the summary says about the search that has found the settings of these trials.

    Returns:
        the summary.
    """
    shown = not options.quiet
    recorder.require_shape((len(facts.test_labels), len(facts.classes)))
    for tally in recorder.tallies.values():
        _require_model(folder, tally)
    with step("storing the models", shown=shown):
        tallies = sorted(recorder.tallies.items())
        rule = options.rule()
        stored = {model: _store(folder, tally.chosen, facts, rule, code, predict) for model, tally in tallies}
    summary = summarize(
        run=folder.run,
        dataset=data.summary,
        tallies=recorder.tallies,
        stored=stored,
        labels=facts.test_labels,
        published=facts.published_test_labels,
        new=facts.changes.new_test if facts.changes else None,
        trials=recorder.rows,
        timing=Timing(
            wall_seconds=steady_time() - times.begin,
            start_seconds=times.connected - times.begin,
            prepare_seconds=times.prepared - times.connected,
            trials_seconds=times.trained - times.prepared,
            store_seconds=steady_time() - times.trained,
        ),
        ended=now_text(),
        earlier=data.earlier,
        search=search,
    )
    if options.report:
        with step("writing the report", shown=shown):
            write_report(folder, summary, recorder.tallies, data.dataset, code, type(options))
    store_state(folder.objects, facts.name, facts.fingerprint, data.state())
    failpoint("run.before_summary")
    folder.complete(summary)
    record_last_run(folder, summary)
    failpoint("run.before_forget")
    delete_trial_state(folder, [trial.id for trial in recorder.rows])
    if options.report:
        write_index(folder.objects)
    return summary


def _require_model(folder: RunFolder, tally: Tally) -> None:
    """Raise IntegrityError if no result of a model has its files. Warn if those of a better trial are lost."""
    best, chosen = tally.best_trial, tally.chosen
    if not chosen.files:
        forget_result(folder, best)
        raise IntegrityError(
            f"{best}: expected the files of its model, got none, since a better trial was lost; nothing is stored yet;"
            f" the same command trains {best} again"
        )
    if chosen.trial != best:
        log.warning("%s: its model is lost with a better trial's result; storing %s instead", best, chosen.trial)


def _store(
    folder: RunFolder,
    result: TrialResult,
    facts: DatasetInfo,
    rule: Rule,
    code: Mapping[str, Any],
    predict: Predict | None,
) -> Stored:
    """Publish the chosen trial of a model as a version, and promote it if the rule allows it."""
    model = result.spec.model
    files, about = contents_of(result, facts, folder.run, code)
    version = publish(folder.objects, model, folder.run, files, about)
    decision = promote(folder.objects, version, rule, predict)
    significance = decision.budget.document() if decision.budget else None
    return Stored(version.number, _is_champion(folder.objects, version, facts.name), decision.why, significance)


def _is_champion(objects: Objects, version: Version, dataset: str) -> bool:
    try:
        newest = champion(objects, version.model, dataset)
    except IntegrityError:  # the log of champions is damaged
        return False
    return newest is not None and newest.version == version.number


def predict_on(objects: Objects, images: Any) -> Predict:
    """Return a function that predicts test images with a stored version, in a task.

    Args:
        images: a Ray reference to the dataset.
    """

    def predict(version: Version, positions: "NDArray[np.intp]") -> "NDArray[np.float32]":
        log.info("%s predicts %s on which it was not tested", version.name, counted(len(positions), "test image"))
        stored = StoredModel.read(objects, version)
        task = start_beside_driver(worker.predict_test_images, stored, images, positions)
        try:
            found: NDArray[np.float32] = result_of(task, f"the predictions of {version.name}")
        except ClusterLostError:
            raise
        except ClusterError as error:  # its worker died; the champion stays, and the run goes on
            raise ModelError(str(error)) from error
        return found

    return predict
