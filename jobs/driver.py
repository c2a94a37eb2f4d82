"""A run, from the plan to the stored models. Knows both sides: trials and the cluster. Never imports TensorFlow."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray

from cluster.fan_out import FanOut, Lost
from cluster.resources import LanePlan, deal
from cluster.tasks import result_of, start_beside_driver
from jobs import worker
from mnist_lib.data.split import DatasetInfo, validation_size
from mnist_lib.environment import package_versions
from mnist_lib.errors import IntegrityError
from mnist_lib.report.summary import Stored, summarize, trial_row
from mnist_lib.result import EpochDone, Started, TrialFailure, TrialResult
from mnist_lib.spec import Resources, TrialSpec
from mnist_lib.store.champions import champion, promote
from mnist_lib.store.contents import contents_of
from mnist_lib.store.objects import Objects
from mnist_lib.store.promotion import Rule
from mnist_lib.store.publishing import publish
from mnist_lib.store.runs import RunFolder
from mnist_lib.store.versions import Version
from mnist_lib.tally import Tally

log = logging.getLogger(__name__)

EVENTS_IN_FLIGHT = 16  # of a lane: what a worker may be ahead of the driver, whose memory they take


def run(
    *,
    folder: RunFolder,
    trials: Sequence[TrialSpec],
    plan: LanePlan,
    resources: Resources,
    data_dir: Path | None,
    data_source: Path | None,
    max_failures: int,
    rule: Rule,
    code: Mapping[str, Any],
) -> dict[str, Any]:
    """Trains all trials on the connected cluster, stores the results -> the summary, as written to the run's folder.

    Raises:
        DataError: the dataset cannot be had; nothing is trained.
        StoreError: the storage cannot be written, or the run was given up meanwhile.
    """
    begin = time.monotonic()
    dataset = trials[0].dataset
    log.info("preparing %s; starting %s for %d trial(s)", dataset, plan, len(trials))
    images, info = start_beside_driver(worker.prepare_dataset, dataset, data_dir, data_source, num_returns=2)
    run_lane = ray.remote(
        num_returns="streaming",
        num_cpus=plan.cpus,
        num_gpus=plan.gpus,
        max_retries=0,  # ours to retry
        max_calls=1,  # TensorFlow keeps its settings, and its GPU memory, until its process ends
    )(worker.run_lane).options(_generator_backpressure_num_objects=EVENTS_IN_FLIGHT)
    with FanOut(lambda specs: run_lane.remote(specs, [images], resources), max_failures) as fan_out:
        for lane in deal(trials, plan.lanes):
            fan_out.submit(lane)
        facts: DatasetInfo = result_of(info)
        prepared = time.monotonic()
        log.info("%s: %s images to train, %s to test", dataset, f"{facts.train:,}", f"{len(facts.test_labels):,}")
        outcomes = _Outcomes(folder, trials)
        for event in fan_out.events():
            outcomes.take(event, fan_out)
    trained = time.monotonic()
    stored = {
        model: _store(folder, tally.chosen, outcomes.histories[tally.chosen.trial], facts, rule, code)
        for model, tally in sorted(outcomes.tallies.items())
    }
    summary = summarize(
        run=folder.run,
        dataset=_dataset_row(facts, trials[0].validation_percent),
        tallies=outcomes.tallies,
        stored=stored,
        labels=facts.test_labels,
        trials=outcomes.rows,
        timing={
            "wall_seconds": time.monotonic() - begin,
            "prepare_seconds": prepared - begin,
            "trials_seconds": trained - prepared,
            "store_seconds": time.monotonic() - trained,
        },
    )
    folder.complete(summary)
    return summary


class _Outcomes:
    """Takes every event: to the log, the run's folder, and the tallies."""

    def __init__(self, folder: RunFolder, trials: Sequence[TrialSpec]) -> None:
        self.tallies: dict[str, Tally] = {}
        self.rows: list[dict[str, Any]] = []
        self.histories: dict[str, list[EpochDone]] = {}  # of the trials that run, and of those that were chosen
        self._folder = folder
        self._specs = {spec.id: spec for spec in trials}

    def take(self, event: object, fan_out: FanOut) -> None:
        match event:
            case Started():
                self.histories[event.trial] = []  # this attempt's
                for notice in event.notices:
                    log.warning("%s: %s", event.trial, notice)
                self._folder.append_history({"event": "started", **asdict(event)})
            case EpochDone():
                log.debug("%s: epoch %d, loss %.4f, %s", event.trial, event.epoch, event.loss, _validated(event))
                self._folder.append_history({"event": "epoch", **asdict(event)})
                self.histories[event.trial].append(event)
            case TrialResult():
                self._add(event)
                self._end(event, fan_out.attempts(event.trial))
            case TrialFailure():
                self._end(event, fan_out.attempts(event.trial))
            case Lost():
                code = "E-BUG" if event.traceback else "E-CRASH"
                message = f"failed after {event.attempts} attempt(s): {event.reason}"
                failure = TrialFailure(trial=event.item, code=code, message=message, details=event.traceback)
                self._end(failure, event.attempts)

    def _add(self, result: TrialResult) -> None:
        model = result.spec.model
        if model in self.tallies:
            self.tallies[model].add(result)
        else:
            self.tallies[model] = Tally(result)
        if result.versions != package_versions():
            log.warning("%s: trained with %s, unlike the driver", result.trial, dict(result.versions))

    def _end(self, outcome: TrialResult | TrialFailure, attempts: int) -> None:
        if all(tally.chosen.trial != outcome.trial for tally in self.tallies.values()):
            self.histories.pop(outcome.trial, None)
        row = trial_row(asdict(self._specs[outcome.trial]), outcome, attempts)
        self.rows.append(row)
        self._folder.write_json(f"trials/{outcome.trial}/result.json", row)
        self._folder.append_history({"event": "ended", "trial": outcome.trial, "status": row["status"]})
        done = f"[{len(self.rows)}/{len(self._specs)}] {outcome.trial}:"
        if isinstance(outcome, TrialResult):
            log.info("%s %.2f%% of the test images right", done, 100 * outcome.test.value)
        else:
            log.warning("%s failed: %s %s", done, outcome.code, outcome.message)
            log.debug("%s", outcome.details)


def _validated(event: EpochDone) -> str:
    return f"validation accuracy {event.validation.value:.4f}" if event.validation else "no validation"


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


def _store(
    folder: RunFolder,
    result: TrialResult,
    history: Sequence[EpochDone],
    facts: DatasetInfo,
    rule: Rule,
    code: Mapping[str, Any],
) -> Stored:
    """Publishes the chosen trial of one model; then promotes it, or not."""
    model = result.spec.model
    files, about = contents_of(result, history, facts, folder.run, code)
    version = publish(folder.objects, model, folder.run, files, about)
    decision = promote(folder.objects, version, rule)
    return Stored(version.number, _is_champion(folder.objects, version), decision.why)


def _is_champion(objects: Objects, version: Version) -> bool:
    try:
        newest = champion(objects, version.model)
    except IntegrityError:  # which is in use is not known
        return False
    return newest is not None and newest.version == version.number
