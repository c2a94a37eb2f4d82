"""`jobs.train --plan`: what would run where, and why so; with --calibrate also for how long, by a short training."""

import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from cluster.connection.address import address_of
from cluster.connection.session import session
from cluster.lanes.fan_out import Died, FanOut
from cluster.lanes.lane import Lanes
from cluster.lanes.resources import LanePlan, Node, deal, live_nodes, this_machine
from cluster.lanes.tasks import result_of, start_beside_driver
from jobs import SOURCE_FOLDERS
from jobs.console import exit_codes
from jobs.train import worker
from jobs.train.options import TrainOptions
from mnist_lib.catalog import DATASETS
from mnist_lib.results import EpochDone, Started, TrialFailure
from mnist_lib.spec import Pace, TrialSpec

CALIBRATION_SET = {name: name if entry.embedded else "mnist-mini" for name, entry in DATASETS.items()}  # of its shape
CALIBRATION_EPOCHS = 6


@dataclass(frozen=True, kw_only=True)
class Expected:
    """How long the run would take."""

    seconds: float
    start_seconds: float  # until the first trial trains
    images_per_second: dict[str, float]  # by model, validation included


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """What would run where."""

    options: TrainOptions
    trials: Sequence[TrialSpec]
    nodes: Sequence[Node]
    plan: LanePlan
    expected: Expected | None

    @property
    def lanes(self) -> list[Sequence[TrialSpec]]:
        return deal(self.trials, self.plan.lanes)

    @property
    def devices(self) -> str:
        """Of each trial."""
        resources = self.options.resources(self.plan.cpus, self.plan.gpus)
        count = self.plan.nodes * (resources.gpus or resources.cpu_replicas)
        kind = "GPU" if resources.gpus else "CPU device"
        return f"{count} replica(s), one for each {kind}, and {self.plan.nodes * self.plan.cpus} thread(s)"

    @property
    def why(self) -> str:
        if self.plan.lanes == len(self.trials):
            lanes = "every trial has a lane of its own"
        elif self.plan.lanes == self.options.max_concurrent:
            lanes = "no more at once, by --max-concurrent"
        else:
            lanes = f"no more fit, of {self.plan.asked} each"
        if self.plan.gpus and self.options.gpus_per_trial is None:
            lanes += "; one GPU each, since models as small as these gain less from a second than two trials do"
        return lanes

    def document(self) -> dict[str, Any]:
        return {
            "lanes": [[trial.id for trial in lane] for lane in self.lanes],
            "cpus": self.plan.cpus,
            "gpus": self.plan.gpus,
            "nodes_per_trial": self.plan.nodes,
            "why": self.why,
            "nodes": [asdict(node) for node in self.nodes],
            "expected": asdict(self.expected) if self.expected else None,
        }

    def __str__(self) -> str:
        lines = [
            f"{len(self.trials)} trial(s) on {self.options.dataset} in {self.plan}: {self.why}",
            f"each trial: {self.devices}",
            *(f"  {node.host}: {node.cpus} CPU(s), {node.gpus} GPU(s)" for node in self.nodes),
            *(f"lane {n}: {', '.join(trial.id for trial in lane)}" for n, lane in enumerate(self.lanes, start=1)),
        ]
        if self.expected:
            rates = ", ".join(f"{model} {rate:,.0f}" for model, rate in self.expected.images_per_second.items())
            lines.append(
                f"expected: {self.expected.seconds:.0f} s, of which {self.expected.start_seconds:.0f} s until the first"
                f" trial trains (images/s as measured just now: {rates})"
            )
        return "\n".join(lines)


def outlook(
    options: TrainOptions, trials: Sequence[TrialSpec], plan_on: Callable[[Sequence[Node]], LanePlan]
) -> Outlook:
    """
    Args:
        plan_on: nodes -> the plan of this run on them.

    Raises:
        ResourcesError: there is none.
        TrainingError: a model that was to be measured failed.
    """
    if address_of(options.address) is None and not options.calibrate:
        nodes = [this_machine()]  # as Ray would see it: to start one takes seconds
        return Outlook(options=options, trials=trials, nodes=nodes, plan=plan_on(nodes), expected=None)
    begin = time.monotonic()
    with session(options.address, SOURCE_FOLDERS):
        nodes = live_nodes()
        plan = plan_on(nodes)
        expected = _measure(options, trials, plan, begin) if options.calibrate else None
    return Outlook(options=options, trials=trials, nodes=nodes, plan=plan, expected=expected)


def _measure(options: TrainOptions, trials: Sequence[TrialSpec], plan: LanePlan, begin: float) -> Expected:
    """Trains each model for a while, one after the other in one lane."""
    models = {trial.model: trial for trial in trials}
    dataset = CALIBRATION_SET[options.dataset]
    specs = [replace(trial, dataset=dataset, epochs=CALIBRATION_EPOCHS) for trial in models.values()]
    images, info = start_beside_driver(worker.prepare_dataset, dataset, options.data_dir, None, num_returns=2)
    lanes = Lanes(worker.run_lane, plan)
    resources = options.resources(plan.cpus, plan.gpus)
    told: list[tuple[float, Any]] = []
    with FanOut(
        lambda left: lanes.start([images], resources, Pace(), left, {}), options.limits(), plan, lanes.release
    ) as fan_out:
        fan_out.submit(specs)
        result_of(info, "the digits to calibrate with")
        for event in fan_out.events():
            if isinstance(event, TrialFailure):
                raise exit_codes.TrainingError(f"{event.trial}: {event.message}", event.code)
            if isinstance(event, Died) and event.final:
                raise exit_codes.TrainingError(f"{event.item}: {event.death}", event.death.kind.code)
            told.append((time.monotonic(), event))
    start_seconds = next(at for at, event in told if isinstance(event, Started)) - begin
    share = 1 - options.validation_percent / 100
    trained = int(DATASETS[dataset].train * share)
    rates = {spec.model: trained / statistics.median(_epoch_seconds(spec, told)) for spec in specs}
    of_trial = {
        model: trial.epochs * DATASETS[options.dataset].train * share / rates[model] for model, trial in models.items()
    }
    longest = max(sum(of_trial[trial.model] for trial in lane) for lane in deal(trials, plan.lanes))
    return Expected(seconds=start_seconds + longest, start_seconds=start_seconds, images_per_second=rates)


def _epoch_seconds(spec: TrialSpec, told: Sequence[tuple[float, Any]]) -> Iterator[float]:
    """Of all but the first, which may wait for the data."""
    ends = [at for at, event in told if isinstance(event, EpochDone) and event.trial == spec.id]
    return (later - earlier for earlier, later in itertools.pairwise(ends))
