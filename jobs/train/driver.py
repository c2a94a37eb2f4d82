"""A run, from the plan to the stored models. It connects trials and the cluster, and never imports TensorFlow."""

import logging
import math
import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from cluster.deadlines import Clock, Limits
from cluster.fan_out import FanOut
from cluster.lanes import Cluster
from cluster.nodes import LanePlan, live_nodes, wait_for_plan
from cluster.ray_lanes import RayLanes
from cluster.session import end_children, end_of_node
from jobs.console.exit_codes import TrainingError
from jobs.console.signals import stoppable
from jobs.train import worker
from jobs.train.dataset import RunDataset
from jobs.train.display import display
from jobs.train.options import TrainOptions
from jobs.train.planning import connected, plan_of
from jobs.train.progress import RunProgress
from jobs.train.recorder import Recorder
from jobs.train.reporting import load_in_background
from jobs.train.storing import StoredData, Times, predict_on, store_run
from mnist_lib.assignment import Assignment
from mnist_lib.clock import SystemClock, steady_time
from mnist_lib.model_file import Call, ModelFile, trust
from mnist_lib.run_documents import DriverConnected, FailedTrial, SearchSummary, SuccessfulTrial, Summary
from mnist_lib.spec import TrialSpec, by_cost
from mnist_lib.store.runs import RunFolder
from mnist_lib.wording import counted

log = logging.getLogger(__name__)

CLOCK = SystemClock()


def train_trials(
    options: TrainOptions,
    trials: Sequence[TrialSpec],
    begin: float,
    folder: RunFolder,
    code: Mapping[str, Any],
    advice: str,
) -> Summary:
    """Train all trials on a cluster, store the results, and return the summary.

    Trials that earlier drivers of the run have finished are not repeated.

    Args:
        begin: the value of `steady_time()` when the command began.
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
        return train_on(data, options, trials, begin, deadline, folder, code)


def record_start(folder: RunFolder, begin: float, cluster_seconds: float) -> None:
    """Record in the history of the run that a driver is connected to the cluster.

    Args:
        begin: the value of `steady_time()` when the driver's command began.
        cluster_seconds: how long it took to connect.
    """
    start = steady_time() - begin - cluster_seconds
    phases = {"start": round(start, 3), "cluster": round(cluster_seconds, 3)}
    folder.append_history(DriverConnected(phases=phases))


def train_on(
    data: RunDataset,
    options: TrainOptions,
    trials: Sequence[TrialSpec],
    begin: float,
    deadline: float,
    folder: RunFolder,
    code: Mapping[str, Any],
    search: SearchSummary | None = None,
) -> Summary:
    """Do what `train_trials` does, on a cluster that is connected.

    Args:
        begin: as in `train_trials`.
        deadline: the value of `steady_time()` after which no further epoch is trained.
        search: what the summary says about the search that has found the settings of these trials.
    """
    files = options.model_files
    trust([Call(files[spec.model], spec.model, spec.arguments) for spec in trials if spec.model in files])
    with Recorder(folder, trials) as recorder:
        if recorder.unfinished:
            plan = lane_plan(options, len(recorder.unfinished))
            limits, resources = options.limits(), options.resources(plan.cpus, plan.gpus)
            lanes = RayLanes(worker.run_lane, plan, limits, [data.images], resources, options.pace())
            with fan_out_of(lanes, limits, plan, recorder, deadline, options.max_concurrent, files=files) as fan_out:
                facts = data.facts()
                progress = RunProgress(trials, recorder.rows, plan.lanes, deadline)
                record_events(fan_out, recorder, progress, shown=not options.quiet)
        else:
            facts = data.facts()
    if options.require_all:
        _require_all(recorder.rows)
    times = Times(begin, data.begin, data.prepared, trained=steady_time())
    stored = StoredData(data.summary(facts), data.content, data.state, data.earlier)
    predict = predict_on(folder.objects, data.images)
    return store_run(folder, recorder, facts, options, code, times, stored, predict, search)


def fan_out_of(
    cluster: Cluster,
    limits: Limits,
    plan: LanePlan,
    recorder: Recorder,
    deadline: float = math.inf,
    max_lanes: int | None = None,
    clock: Clock = CLOCK,
    files: Mapping[str, ModelFile] = MappingProxyType({}),
) -> FanOut:
    """Start lanes for the unfinished trials of a run.

    Args:
        deadline: the value of `clock.monotonic()` after which no further epoch is trained.
        max_lanes: the maximum number of lanes; None for as many as fit.
        files: the files that define models, by model.
    """

    def payload(spec: TrialSpec, ends_by: float) -> Assignment | None:
        if not recorder.is_ready(spec.id):
            return None
        checkpoint, epochs = recorder.checkpoint(spec.id), recorder.epochs(spec.id)
        return Assignment(spec, checkpoint, files.get(spec.model), ends_by, epochs=epochs)

    fan_out = FanOut(
        cluster,
        limits,
        plan,
        payload,
        deadline=deadline,
        max_lanes=max_lanes,
        is_full=lambda: recorder.is_full,
        clock=clock,
    )
    fan_out.submit(by_cost(recorder.unfinished))
    return fan_out


def record_events(
    fan_out: FanOut, recorder: Recorder, progress: RunProgress, *, shown: bool = True, clock: Clock = time
) -> None:
    """Record and show every event of a run until all of its trials have ended."""
    with display(progress, shown=shown, clock=clock) as show:
        for event in fan_out.events():
            recorder.record(event, fan_out.attempts)
            trial = progress.update(event, fan_out.attempts)
            if trial is not None:
                show(trial)


def _require_all(trials: Sequence[SuccessfulTrial | FailedTrial]) -> None:
    """Raise TrainingError if a trial has failed for a reason that may not recur."""
    lost = [(trial.id, trial.error) for trial in trials if isinstance(trial, FailedTrial) and trial.error.retry]
    if lost:
        (trial, error), *others = lost
        more = f" (and {counted(len(others), 'other trial')})" if others else ""
        raise TrainingError(
            f"{trial}{more}: {error.message}; nothing is stored yet; the same command trains what is missing",
            error.code,
        )


def lane_plan(options: TrainOptions, trials: int) -> LanePlan:
    """Wait until at least one trial fits on the nodes, and return the plan."""
    plan = wait_for_plan(lambda: plan_of(options, trials, live_nodes()), options.wait_for_resources or 0.0)
    log.info("preparing %s; starting %s for %s", options.dataset, plan, counted(trials, "trial"))
    return plan
