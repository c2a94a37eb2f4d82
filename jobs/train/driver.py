"""A run, from the plan to the stored models. It connects trials and the cluster, and never imports TensorFlow."""

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from cluster.connection.session import end_children, end_of_node
from cluster.deadlines import Clock, Limits
from cluster.errors import ClusterError, ClusterLostError
from cluster.lanes.fan_out import FanOut
from cluster.lanes.lane import RayLanes
from cluster.lanes.ports import Cluster
from cluster.lanes.resources import LanePlan, live_nodes, wait_for_plan
from cluster.lanes.tasks import result_of, start_beside_driver
from jobs.console.exit_codes import TrainingError
from jobs.console.signals import stoppable
from jobs.console.terminal import step
from jobs.train import worker
from jobs.train.dataset import RunDataset
from jobs.train.display import display
from jobs.train.options import TrainOptions
from jobs.train.planning import connected, plan_of
from jobs.train.progress import RunProgress
from jobs.train.recorder import Recorder
from jobs.train.reporting import load_in_background, write_index, write_report
from mnist_lib.assignment import Assignment
from mnist_lib.clock import now_text
from mnist_lib.data.split import Dataset, DatasetInfo
from mnist_lib.errors import IntegrityError, ModelError
from mnist_lib.model_file import ModelFile
from mnist_lib.objects.protocol import Objects, failpoint
from mnist_lib.report.summary import Stored, summarize
from mnist_lib.results import Tally, TrialResult
from mnist_lib.run_documents import DRIVER
from mnist_lib.spec import TrialSpec, by_cost
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


def train_trials(
    options: TrainOptions,
    trials: Sequence[TrialSpec],
    begin: float,
    folder: RunFolder,
    code: Mapping[str, Any],
    advice: str,
) -> dict[str, Any]:
    """Train all trials on a cluster, store the results, and return the summary.

    Trials that earlier drivers of the run have finished are not repeated.

    Args:
        begin: Unix time at which the command began.
        code: the result of `code_version`.
        advice: what to print when the user interrupts the run.

    Raises:
        DataError: the dataset is missing or damaged; nothing is trained.
        ResourcesError, ClusterLostError: as in `FanOut.events`.
        VersionsError: the workers have different package versions.
        StoreError: the storage cannot be written, or another process took over the run.
    """
    deadline = options.deadline(begin - folder.seconds_worked())
    if options.report:
        load_in_background()
    with connected(options) as cluster_seconds, stoppable(advice, end_children, end_of_node()):
        data = RunDataset(folder, options, trials)
        record_start(folder, begin, cluster_seconds)
        return train_on(data, options, trials, deadline, folder, code)


def record_start(folder: RunFolder, begin: float, cluster_seconds: float) -> None:
    """Record in the history of the run that a driver is connected to the cluster.

    Args:
        begin: Unix time at which the driver's command began.
        cluster_seconds: how long it took to connect.
    """
    start = max(0.0, time.time() - begin - cluster_seconds)  # the clock may have been set back
    phases = {"start": round(start, 3), "cluster": round(cluster_seconds, 3)}
    folder.append_history({"event": DRIVER, "trial": "", "phases": phases})


def train_on(
    data: RunDataset,
    options: TrainOptions,
    trials: Sequence[TrialSpec],
    deadline: float,
    folder: RunFolder,
    code: Mapping[str, Any],
    search: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Do what `train_trials` does, on a cluster that is connected.

    Args:
        deadline: the Unix time after which no further epoch is trained.
        search: what the summary says about the search that has found the settings of these trials.
    """
    shown = not options.quiet
    with Recorder(folder, trials) as recorder:
        if recorder.unfinished:
            plan = lane_plan(options, len(recorder.unfinished))
            limits, resources = options.limits(), options.resources(plan.cpus, plan.gpus)
            lanes = RayLanes(worker.run_lane, plan, limits, [data.images], resources, options.pace())
            files = options.model_files
            with fan_out_of(lanes, limits, plan, recorder, deadline, options.max_concurrent, files=files) as fan_out:
                facts = data.facts()
                progress = RunProgress(trials, recorder.rows, plan.lanes, deadline)
                with display(progress, shown=shown) as show:
                    for event in fan_out.events():
                        recorder.record(event, fan_out.attempts)
                        trial = progress.update(event, fan_out.attempts)
                        if trial is not None:
                            show(trial)
        else:
            facts = data.facts()
    if options.require_all:
        _require_all(recorder.rows)
    times = Times(data.begin, data.prepared, trained=time.monotonic())
    stored = StoredData(data.summary(facts), data.content, data.state)
    predict = _predict_on(folder.objects, data.images)
    return store_run(folder, recorder, facts, options, code, times, stored, predict, search)


@dataclass(frozen=True)
class StoredData:
    """What is stored about the dataset of a run."""

    summary: Mapping[str, Any]
    dataset: Callable[[], Dataset]  # for the report
    state: Callable[[], bytes]  # for the next run, see `data.changes`


def _predict_on(objects: Objects, images: Any) -> Predict:
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


@dataclass(frozen=True)
class Times:
    """Moments of a run, as seconds of `time.monotonic`."""

    begin: float
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
    search: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Store the models, the report and the summary of a trained run, and delete what only resuming needed.

    Args:
        predict: predicts test images with an earlier version; None if that is not possible.
        search: as in `train_on`.

    Returns:
        the summary.
    """
    shown = not options.quiet
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
        timing={
            "wall_seconds": time.monotonic() - times.begin,
            "prepare_seconds": times.prepared - times.begin,
            "trials_seconds": times.trained - times.prepared,
            "store_seconds": time.monotonic() - times.trained,
        },
        ended=now_text(),
    ) | ({} if search is None else {"search": dict(search)})
    if options.report:
        with step("writing the report", shown=shown):
            write_report(folder, summary, recorder.tallies, data.dataset, code, type(options))
    store_state(folder.objects, facts.name, facts.fingerprint, data.state())
    failpoint("run.before_summary")
    folder.complete(summary)
    record_last_run(folder, summary)
    failpoint("run.before_forget")
    delete_trial_state(folder, [row["id"] for row in recorder.rows])
    if options.report:
        write_index(folder.objects)
    return summary


def fan_out_of(
    cluster: Cluster,
    limits: Limits,
    plan: LanePlan,
    recorder: Recorder,
    deadline: float = math.inf,
    max_lanes: int | None = None,
    clock: Clock = time,
    files: Mapping[str, ModelFile] = MappingProxyType({}),
) -> FanOut:
    """Start lanes for the unfinished trials of a run.

    Args:
        deadline: the Unix time after which no further epoch is trained.
        max_lanes: the maximum number of lanes; None for as many as fit.
        files: the files that define models, by model.
    """

    def payload(spec: TrialSpec, rounds: int) -> Assignment:
        seconds = (deadline - time.time()) / rounds
        return Assignment(spec, recorder.checkpoint(spec.id), files.get(spec.model), seconds)

    fan_out = FanOut(cluster, limits, plan, payload, max_lanes=max_lanes, is_full=lambda: recorder.is_full, clock=clock)
    fan_out.submit(by_cost(recorder.unfinished))
    return fan_out


def _require_all(rows: Sequence[Mapping[str, Any]]) -> None:
    """Raise TrainingError if a trial has failed for a reason that may not recur."""
    lost = [(row["id"], row["error"]) for row in rows if row["status"] == "failed" and row["error"]["retry"]]
    if lost:
        (trial, error), *others = lost
        more = f" (and {counted(len(others), 'other trial')})" if others else ""
        raise TrainingError(
            f"{trial}{more}: {error['message']}; nothing is stored yet; the same command trains what is missing",
            error["code"],
        )


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


def lane_plan(options: TrainOptions, trials: int) -> LanePlan:
    """Wait until at least one trial fits on the nodes, and return the plan."""
    plan = wait_for_plan(lambda: plan_of(options, trials, live_nodes()), options.wait_for_resources or 0.0)
    log.info("preparing %s; starting %s for %s", options.dataset, plan, counted(trials, "trial"))
    return plan


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
