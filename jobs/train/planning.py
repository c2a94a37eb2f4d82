"""`jobs.train --plan`: what would run where, and why; with --calibrate also the measured duration."""

import itertools
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from cluster.fan_out import FanOut, LostAttempt
from cluster.nodes import LanePlan, Node, live_nodes, makespan, plan_lanes, this_machine
from cluster.ray_lanes import RayLanes
from cluster.session import address_of, session
from cluster.tasks import driver_node, put, result_of, start_beside_driver
from jobs import SOURCE_FOLDERS
from jobs.console import exit_codes
from jobs.console.terminal import step
from jobs.train import worker
from jobs.train.initial_versions import start_text, versions_to_start_from
from jobs.train.options import TrainOptions
from mnist_lib.assignment import CHECKPOINT_SECONDS, Assignment
from mnist_lib.catalog import PICTURE_MODEL
from mnist_lib.data.request import DEFAULT_SIDE, DataRequest
from mnist_lib.data.split import Dataset
from mnist_lib.data.volume import Volume, volume_of
from mnist_lib.model_file import ModelFile
from mnist_lib.objects.storage import open_storage
from mnist_lib.report.summary import dataset_summary
from mnist_lib.results import EpochDone, Started, TrialFailure
from mnist_lib.spec import (
    BY_IMAGES_TEXT,
    INEXACT_TEXT,
    MIN_VALIDATION,
    VALIDATION_PERCENT,
    TrialSpec,
    by_cost,
    is_exact,
)
from mnist_lib.store.reference import with_reference_shape
from mnist_lib.wording import counted

CALIBRATION_EPOCHS = 6
VALIDATION_TEXT = (
    f"{VALIDATION_PERCENT}% of the training images; if that is fewer than {MIN_VALIDATION}, none are held out, and the"
    " last epoch is stored"
)
PICTURE_MODEL_TEXT = (
    f"model: {PICTURE_MODEL}, the default for your own pictures, since it recognises shapes anywhere in an image and"
    f" against any background; it is as accurate on images of {DEFAULT_SIDE} x {DEFAULT_SIDE}, the default for pictures"
    " of several sizes, as on larger ones; --models and --image-size choose others"
)


@dataclass(frozen=True, kw_only=True)
class Expected:
    """The expected duration of a run."""

    seconds: float
    start_seconds: float  # before the first trial trains
    images_per_second: dict[str, float]  # by model; validation counts as training time


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What would run where, and the expected duration if it was measured."""

    options: TrainOptions
    trials: Sequence[TrialSpec]
    nodes: Sequence[Node]
    plan: LanePlan
    expected: Expected | None
    volume: Volume | None
    by_images: str = ""  # the settings that follow from the number of training images
    init_from: Mapping[str, str] = field(default_factory=dict)  # as `names_to_start_from` returns it

    @property
    def order(self) -> list[str]:
        """The trials in the order in which they start; each free lane takes the next one."""
        return [trial.id for trial in by_cost(self.trials)]

    @property
    def why(self) -> str:
        count, fitting = len(self.trials), self.plan.lanes
        if fitting < count:
            reason = "--max-concurrent" if fitting == self.options.max_concurrent else "as many as fit"
            text = f"{fitting} at a time ({reason}), {self.plan.lane_resources} each"
        else:
            text = f"all at the same time, {self.plan.lane_resources} each" if count > 1 else self.plan.lane_resources
        if self.plan.gpus and self.options.gpus_per_trial is None:
            text += "; 1 GPU per trial, because a small model gains little from a second GPU"
        return text

    @property
    def is_exact(self) -> bool:
        return is_exact(["GPU"] * self.plan.gpus, self.options.deterministic)

    def document(self) -> dict[str, Any]:
        files = self.options.model_files
        return {
            "lanes": self.plan.lanes,
            "order": self.order,
            "models": {model: {"file": file.name, "sha256": file.sha256} for model, file in files.items()},
            "cpus": self.plan.cpus,
            "gpus": self.plan.gpus,
            "why": self.why,
            "exact": self.is_exact,
            "nodes": [asdict(node) for node in self.nodes],
            "expected": asdict(self.expected) if self.expected else None,
            "images": self.volume.document() if self.volume else None,
            "init_from": {model: version.name for model, version in self.options.starts.items()},
        }

    def lines(self) -> list[str]:
        """Return the plan as text."""
        files, resources = self.options.model_files, self.options.resources(self.plan.cpus, self.plan.gpus)
        replicas = counted(resources.gpus or resources.cpu_replicas, "replica")
        has_own_pictures = self.options.data().entry is None
        lines = [
            f"{counted(len(self.trials), 'trial')} on {self.options.dataset}: {self.why}",
            *([PICTURE_MODEL_TEXT] if has_own_pictures and self.options.models == (PICTURE_MODEL,) else []),
            f"each trial: {replicas}, {counted(self.plan.cpus, 'thread')}",
            f"weights: {'the same, bit for bit, if trained again' if self.is_exact else INEXACT_TEXT}",
            *(f"node {n.host}: {counted(n.cpus, 'CPU')}, {counted(n.gpus, 'GPU')}" for n in self.nodes),
            *([f"images: {self.volume}"] if self.volume else []),
            f"order: {', '.join(self.order)}",
            *([BY_IMAGES_TEXT] if self.options.unresolved else []),
            *([self.by_images] if self.by_images else []),
            *([] if self.options.percent_for_validation is not None else [f"validation: {VALIDATION_TEXT}"]),
            *(f"model {model}: code in {file.name}, sha256 {file.sha256}" for model, file in files.items()),
            *self.options.weights_texts(),
            *(
                start_text(model, name, self.options.starts.get(model), self.options.data().name)
                for model, name in self.init_from.items()
            ),
        ]
        if self.expected:
            rates = ", ".join(f"{model} {rate:,.0f}" for model, rate in self.expected.images_per_second.items())
            lines.append(
                f"expected duration: {self.expected.seconds:.0f} s, including {self.expected.start_seconds:.0f} s until"
                f" the first trial trains (measured images/s: {rates})"
            )
        return lines


def forecast(options: TrainOptions) -> Forecast:
    """Return what would run where.

    Raises:
        ResourcesError: not even one trial fits on the nodes.
        TrainingError: a model failed while it was measured.
        DataError: a folder cannot be listed, or none of its pictures can be read.
    """
    begin, expected, options = time.monotonic(), None, options.resolve_defaults()
    names = options.names_to_start_from()
    if names:
        options = options.starting_from(
            versions_to_start_from(open_storage(options.storage), names, options.data().name)
        )
    options.grid()
    with step(f"looking at {options.dataset}", shown=not options.quiet):
        volume = volume_of(data_of_run(options))
    by_images = ""
    if volume:
        options, by_images = options.resolve_defaults_by(volume)
    trials = options.grid()
    if address_of(options.address) is None and not options.calibrate:
        nodes = [this_machine()]  # as Ray would describe it, without the seconds that Ray needs to start
        plan = plan_of(options, len(trials), nodes)
    else:
        with connected(options):
            nodes = live_nodes()
            plan = plan_of(options, len(trials), nodes)
            expected = _measure(options, plan, begin) if options.calibrate else None
    return Forecast(
        options=options,
        trials=trials,
        nodes=nodes,
        plan=plan,
        expected=expected,
        volume=volume,
        by_images=by_images,
        init_from=names,
    )


def data_of_run(options: TrainOptions) -> DataRequest:
    """Return the dataset that a run would prepare."""
    return with_reference_shape(options.data(), open_storage(options.storage))


def plan_of(options: TrainOptions, trials: int, nodes: Sequence[Node]) -> LanePlan:
    return plan_lanes(
        trials,
        nodes,
        gpus_per_trial=options.gpus_per_trial,
        cpus_per_trial=options.cpus_per_trial,
        max_concurrent=options.max_concurrent,
    )


def models_to_check(options: TrainOptions, trials: Sequence[TrialSpec]) -> dict[TrialSpec, ModelFile | None]:
    """Return a trial of each model, with the file that defines it if it is the user's own."""
    one_of_each = {trial.model: trial for trial in trials}
    return {trial: options.model_files.get(model) for model, trial in one_of_each.items()}


@contextmanager
def connected(options: TrainOptions) -> Iterator[float]:
    """Join the cluster of --address, or start one, and yield how many seconds that took."""
    begin = time.monotonic()
    with ExitStack() as stack:
        with step("joining the cluster" if address_of(options.address) else "starting Ray", shown=not options.quiet):
            stack.enter_context(session(options.address, SOURCE_FOLDERS))
        yield time.monotonic() - begin


def _measure(options: TrainOptions, plan: LanePlan, begin: float) -> Expected:
    """Train each model for a few epochs, one after the other in one lane."""
    data = data_of_run(options)
    if data.entry is not None and not data.entry.embedded:
        data = DataRequest(dataset="mnist-mini", data_dir=options.data_dir)  # its images have the same shape
    checked = models_to_check(options, options.grid())
    pretrained = put(options.pretrained)
    images, info, _ = start_beside_driver(worker.prepare_dataset, data, checked, pretrained, num_returns=3)
    options = options.resolve_defaults(lambda: len(result_of(info, "the preparation of the dataset").train))
    trials = options.grid()
    models = {trial.model: trial for trial in trials}
    specs = [replace(trial, dataset=data.name, epochs=CALIBRATION_EPOCHS) for trial in models.values()]
    limits, one_lane = options.limits(), replace(plan, lanes=1)
    resources = options.resources(plan.cpus, plan.gpus)
    lanes = RayLanes(
        worker.run_lane, one_lane, limits, [images, pretrained, driver_node()], resources, CHECKPOINT_SECONDS
    )

    def assignment(spec: TrialSpec, deadline: float) -> Assignment:
        return Assignment(spec, source=options.model_files.get(spec.model))

    fan_out = FanOut(lanes, limits, one_lane, assignment, max_lanes=1)

    events: list[tuple[float, Any]] = []  # each with its time of arrival
    measuring = step("training each model for a few epochs", shown=not options.quiet)
    with measuring, fan_out:
        fan_out.submit(specs)
        facts: Dataset = result_of(info, "the preparation of the dataset")
        for event in fan_out.events():
            if isinstance(event, TrialFailure):
                raise exit_codes.TrainingError(f"{event.trial}: {event.message}", event.code)
            if isinstance(event, LostAttempt) and event.final:
                raise exit_codes.TrainingError(f"{event.trial}: {event.death}", event.death.cause.code)
            events.append((time.monotonic(), event))
    start_seconds = next(at for at, event in events if isinstance(event, Started)) - begin
    measured = dataset_summary(facts, options.percent_for_validation).train
    epoch_images = images_per_epoch(options, measured)
    rates = {}
    for spec in specs:  # without the first epoch, which may include a wait for the dataset
        ends = [at for at, event in events if isinstance(event, EpochDone) and event.trial == spec.id]
        rates[spec.model] = measured / statistics.median(later - end for end, later in itertools.pairwise(ends))
    seconds = {model: trial.epochs * epoch_images / rates[model] for model, trial in models.items()}
    longest = makespan([seconds[trial.model] for trial in by_cost(trials)], plan.lanes)
    return Expected(seconds=start_seconds + longest, start_seconds=start_seconds, images_per_second=rates)


def images_per_epoch(options: TrainOptions, measured: int) -> int:
    """Return the number of images in an epoch of the run. `measured`: the number when the models were measured."""
    entry = options.data().entry
    if entry is None or entry.embedded:
        return measured
    percent = VALIDATION_PERCENT if options.percent_for_validation is None else options.percent_for_validation
    return int(entry.train * (1 - percent / 100))  # measured with another dataset
