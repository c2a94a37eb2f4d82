"""A run, from the plan to the stored models. It connects trials and the cluster, and never imports TensorFlow."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.connection.address import address_of
from cluster.connection.session import end_children, session
from cluster.deadlines import Limits
from cluster.lanes.fan_out import FanOut
from cluster.lanes.lane import LaneStarter
from cluster.lanes.resources import LanePlan, Node, live_nodes, plan_lanes, split_evenly, wait_for_plan
from cluster.lanes.tasks import result_of, start_beside_driver
from jobs import SOURCE_FOLDERS
from jobs.console.signals import stoppable
from jobs.console.terminal import step
from jobs.train import worker
from jobs.train.display import display
from jobs.train.options import TrainOptions
from jobs.train.progress import RunProgress
from jobs.train.recorder import Recorder
from jobs.train.reporting import write_index, write_report
from mnist_lib.clock import now_text
from mnist_lib.data.split import DatasetInfo, validation_size
from mnist_lib.errors import IntegrityError
from mnist_lib.report.summary import Stored, summarize
from mnist_lib.results import TrialResult
from mnist_lib.spec import Pace, Resources, TrialSpec
from mnist_lib.store.champions import champion, promote
from mnist_lib.store.contents import contents_of
from mnist_lib.store.objects import Objects, failpoint
from mnist_lib.store.promotion import Rule
from mnist_lib.store.publishing import publish
from mnist_lib.store.resumption import delete_trial_state
from mnist_lib.store.runs import RunFolder
from mnist_lib.store.versions import Version
from mnist_lib.wording import counted

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Work:
    """What to train, and how.

    Args:
        plan: the number of trials to the plan of their lanes on the connected cluster.
        resources: a plan to what one trial runs on.
        code: the result of `code_version`.
        quiet: show no progress.
        report: write the report of the run and the index of all runs.
    """

    trials: Sequence[TrialSpec]
    plan: Callable[[int], LanePlan]
    resources: Callable[[LanePlan], Resources]
    data_dir: Path | None
    data_source: Path | None
    limits: Limits
    pace: Pace
    rule: Rule
    code: Mapping[str, Any]
    quiet: bool
    report: bool


def run(folder: RunFolder, work: Work) -> dict[str, Any]:
    """Train all trials on the connected cluster, store the results, and return the summary.

    Trials that earlier drivers of the run have finished are not repeated.

    Raises:
        DataError: the dataset is missing or damaged; nothing is trained.
        ResourcesError, ClusterLostError: as in `FanOut.events`.
        VersionsError: the workers have different package versions.
        StoreError: the storage cannot be written, or another process took over the run.
    """
    begin = time.monotonic()
    recorder = Recorder(folder, work.trials)
    dataset = work.trials[0].dataset
    images, info = start_beside_driver(worker.prepare_dataset, dataset, work.data_dir, work.data_source, num_returns=2)
    if recorder.unfinished:
        plan = work.plan(len(recorder.unfinished))
        log.info("preparing %s; starting %s for %s", dataset, plan, counted(len(recorder.unfinished), "trial"))
        lanes = LaneStarter(worker.run_lane, plan)
        resources = work.resources(plan)

        def start(specs: Sequence[TrialSpec]) -> Any:
            return lanes.start([images], resources, work.pace, specs, recorder.checkpoints(specs))

        with FanOut(start, work.limits, plan, lanes.release) as fan_out:
            for lane in split_evenly(recorder.unfinished, plan.lanes):
                fan_out.submit(lane)
            facts, prepared = _prepared(folder, info, work), time.monotonic()
            progress = RunProgress(work.trials, recorder.rows, work.pace.deadline)
            with display(progress, shown=not work.quiet) as show:
                for event in fan_out.events():
                    recorder.record(event, fan_out.attempts)
                    trial = progress.update(event, fan_out.attempts)
                    if trial is not None:
                        show(trial)
    else:
        facts, prepared = _prepared(folder, info, work), time.monotonic()
    trained = time.monotonic()
    with step("storing the models", shown=not work.quiet):
        stored = {
            model: _store(folder, tally.chosen, facts, work.rule, work.code)
            for model, tally in sorted(recorder.tallies.items())
        }
    summary = summarize(
        run=folder.run,
        dataset=_dataset_row(facts, work.trials[0].validation_percent),
        tallies=recorder.tallies,
        stored=stored,
        labels=facts.test_labels,
        trials=recorder.rows,
        timing={
            "wall_seconds": time.monotonic() - begin,
            "prepare_seconds": prepared - begin,
            "trials_seconds": trained - prepared,
            "store_seconds": time.monotonic() - trained,
        },
        ended=now_text(),
    )
    if work.report:
        with step("writing the report", shown=not work.quiet):
            write_report(folder, summary, recorder.tallies, lambda: result_of(images, "the dataset"), work.code)
    failpoint("run.before_summary")
    folder.complete(summary)
    failpoint("run.before_forget")
    delete_trial_state(folder, [spec.id for spec in work.trials])
    if work.report:
        write_index(folder.objects)
    return summary


def _prepared(folder: RunFolder, info: Any, work: Work) -> DatasetInfo:
    """Wait until the dataset is prepared, and return what the driver needs to know of it."""
    with step(f"importing TensorFlow and preparing {work.trials[0].dataset}", shown=not work.quiet):
        facts: DatasetInfo = result_of(info, "the preparation of the dataset")
    log.info("%s: %s training images, %s test images", facts.name, f"{facts.train:,}", f"{len(facts.test_labels):,}")
    if not facts.reusable:
        log.info("its folder cannot be written, so the next run prepares it again; choose another with --data-dir")
    folder.require_same("fingerprint.txt", facts.fingerprint, "dataset")
    return facts


def _dataset_row(facts: DatasetInfo, validation_percent: int) -> dict[str, Any]:
    validation = validation_size(facts.train, validation_percent)
    return {
        "name": facts.name,
        "version": facts.version,
        "fingerprint": facts.fingerprint,
        "train": facts.train - validation,
        "validation": validation,
        "test": len(facts.test_labels),
    }


def _store(folder: RunFolder, result: TrialResult, facts: DatasetInfo, rule: Rule, code: Mapping[str, Any]) -> Stored:
    """Publish the chosen trial of a model as a version, and promote that if the rule says so."""
    model = result.spec.model
    files, about = contents_of(result, facts, folder.run, code)
    version = publish(folder.objects, model, folder.run, files, about)
    decision = promote(folder.objects, version, rule)
    return Stored(version.number, _is_champion(folder.objects, version), decision.why)


def _is_champion(objects: Objects, version: Version) -> bool:
    try:
        newest = champion(objects, version.model)
    except IntegrityError:  # the log of champions is damaged
        return False
    return newest is not None and newest.version == version.number


def train_trials(
    options: TrainOptions,
    trials: Sequence[TrialSpec],
    begin: float,
    folder: RunFolder,
    code: Mapping[str, Any],
    advice: str,
) -> dict[str, Any]:
    """Train with these options and return the summary; `advice` is for a user who interrupts it."""
    shown, starting = not options.quiet, "joining the cluster" if address_of(options.address) else "starting Ray"
    with ExitStack() as stack:
        with step(starting, shown=shown):
            stack.enter_context(session(options.address, SOURCE_FOLDERS))
        stack.enter_context(stoppable(advice, end_children))
        work = Work(
            trials=trials,
            plan=lambda count: _plan_in_time(options, count),
            resources=lambda plan: options.resources(plan.cpus, plan.gpus),
            data_dir=options.data_dir,
            data_source=options.data_source,
            limits=options.limits(),
            pace=options.pace(begin),
            rule=options.rule(),
            code=code,
            quiet=options.quiet,
            report=options.report,
        )
        return run(folder, work)


def plan_of(options: TrainOptions, trials: int, nodes: Sequence[Node]) -> LanePlan:
    return plan_lanes(
        trials,
        nodes,
        gpus_per_trial=options.gpus_per_trial,
        cpus_per_trial=options.cpus_per_trial,
        nodes_per_trial=options.nodes_per_trial,
        max_concurrent=options.max_concurrent,
    )


def _plan_in_time(options: TrainOptions, trials: int) -> LanePlan:
    """Return the plan on the connected cluster; wait for missing nodes as long as --wait-for-resources says."""
    return wait_for_plan(lambda: plan_of(options, trials, live_nodes()), options.wait_for_resources or 0.0)
