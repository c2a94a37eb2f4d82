"""`jobs.train --plan`: what would run where, and why; the stored versions whose weights trials start from.

The names of versions are resolved once, when a run begins, and recorded, since the champion may change before the run
is resumed. The terms of the run have the names as they were given.
"""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from cluster.nodes import LanePlan, Node, live_nodes, plan_lanes, this_machine
from cluster.session import address_of, session
from jobs import SOURCE_FOLDERS
from jobs.console.terminal import step
from jobs.train.options import CHAMPION, TrainOptions, names_to_start_from
from jobs.train.plan import AnyPlan, Plan, resolve_defaults_by, weights_texts
from mnist_lib.api import find_version
from mnist_lib.catalog import PICTURE_MODEL
from mnist_lib.data.reading.folder import Volume, volume_of
from mnist_lib.data.request import DEFAULT_SIDE, DataRequest
from mnist_lib.model_file import ModelFile
from mnist_lib.objects.protocol import Objects
from mnist_lib.objects.storage import open_storage
from mnist_lib.spec import (
    BY_IMAGES_TEXT,
    INEXACT_TEXT,
    MIN_VALIDATION,
    VALIDATION_PERCENT,
    TrialSpec,
    by_cost,
    is_exact,
)
from mnist_lib.store.champions.appointment import champion
from mnist_lib.store.datasets import begun_with
from mnist_lib.store.reference import with_reference_shape
from mnist_lib.store.runs import RunFolder
from mnist_lib.store.versions import LATEST, Version, find_all, require_version
from mnist_lib.wording import counted

log = logging.getLogger(__name__)

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
class Forecast:
    """What would run where."""

    plan: Plan
    nodes: Sequence[Node]
    lanes: LanePlan
    volume: Volume | None
    by_images: str = ""  # the settings that follow from the number of training images
    init_from: Mapping[str, str] = field(default_factory=dict)  # as `names_to_start_from` returns it

    @property
    def order(self) -> list[str]:
        """The trials in the order in which they start; each free lane takes the next one."""
        return [trial.id for trial in by_cost(self.plan.trials)]

    @property
    def why(self) -> str:
        count = len(self.plan.trials)
        fitting = self.lanes.lanes
        if fitting < count:
            reason = "--max-concurrent" if fitting == self.plan.options.max_concurrent else "as many as fit"
            text = f"{fitting} at a time ({reason}), {self.lanes.lane_resources} each"
        else:
            text = f"all at the same time, {self.lanes.lane_resources} each" if count > 1 else self.lanes.lane_resources
        if self.lanes.gpus and self.plan.options.gpus_per_trial is None:
            text += "; 1 GPU per trial, because a small model gains little from a second GPU"
        return text

    @property
    def is_exact(self) -> bool:
        return is_exact(["GPU"] * self.lanes.gpus, self.plan.options.deterministic)

    def document(self) -> dict[str, Any]:
        files = self.plan.files
        return {
            "lanes": self.lanes.lanes,
            "order": self.order,
            "models": {model: {"file": file.name, "sha256": file.sha256} for model, file in files.items()},
            "cpus": self.lanes.cpus,
            "gpus": self.lanes.gpus,
            "why": self.why,
            "exact": self.is_exact,
            "nodes": [asdict(node) for node in self.nodes],
            "images": self.volume.document() if self.volume else None,
            "init_from": {model: version.name for model, version in self.plan.warm_starts.items()},
        }

    def lines(self) -> list[str]:
        """Return the plan as text."""
        files = self.plan.files
        resources = self.plan.options.resources(self.lanes.cpus, self.lanes.gpus)
        replicas = counted(resources.gpus or resources.cpu_replicas, "replica")
        has_own_pictures = self.plan.options.data().entry is None
        return [
            f"{counted(len(self.plan.trials), 'trial')} on {self.plan.options.dataset}: {self.why}",
            *([PICTURE_MODEL_TEXT] if has_own_pictures and self.plan.options.models == (PICTURE_MODEL,) else []),
            f"each trial: {replicas}, {counted(self.lanes.cpus, 'thread')}",
            f"weights: {'the same, bit for bit, if trained again' if self.is_exact else INEXACT_TEXT}",
            *(f"node {n.host}: {counted(n.cpus, 'CPU')}, {counted(n.gpus, 'GPU')}" for n in self.nodes),
            *([f"images: {self.volume}"] if self.volume else []),
            f"order: {', '.join(self.order)}",
            *([BY_IMAGES_TEXT] if self.plan.options.unresolved else []),
            *([self.by_images] if self.by_images else []),
            *([] if self.plan.options.percent_for_validation is not None else [f"validation: {VALIDATION_TEXT}"]),
            *(f"model {model}: code in {file.name}, sha256 {file.sha256}" for model, file in files.items()),
            *weights_texts(self.plan),
            *(
                start_text(model, name, self.plan.warm_starts.get(model), self.plan.options.data().name)
                for model, name in self.init_from.items()
            ),
        ]


def forecast(plan: Plan) -> Forecast:
    """Return what would run where.

    Raises:
        ResourcesError: not even one trial fits on the nodes.
        DataError: a folder cannot be listed, or none of its pictures can be read.
    """
    plan, options = plan.resolve_defaults(), plan.options
    names = names_to_start_from(options)
    if names:
        versions = versions_to_start_from(open_storage(options.storage), names, options.data().name)
        plan = with_warm_starts(plan, versions)
    with step(f"looking at {options.dataset}", shown=not options.quiet):
        volume = volume_of(data_of_run(options))
    by_images = ""
    if volume:
        plan, by_images = resolve_defaults_by(plan, volume)
    if address_of(options.address) is None:
        nodes = [this_machine()]  # as Ray would describe it, without the seconds that Ray needs to start
        lanes = lanes_for(options, len(plan.trials), nodes)
    else:
        with cluster_session(options):
            nodes = live_nodes()
            lanes = lanes_for(options, len(plan.trials), nodes)
    return Forecast(plan=plan, nodes=nodes, lanes=lanes, volume=volume, by_images=by_images, init_from=names)


def data_of_run(options: TrainOptions) -> DataRequest:
    """Return the dataset that a run would prepare."""
    return with_reference_shape(options.data(), open_storage(options.storage))


def lanes_for(options: TrainOptions, trials: int, nodes: Sequence[Node]) -> LanePlan:
    return plan_lanes(
        trials,
        nodes,
        gpus_per_trial=options.gpus_per_trial,
        cpus_per_trial=options.cpus_per_trial,
        max_concurrent=options.max_concurrent,
    )


def models_to_check(plan: Plan) -> dict[TrialSpec, ModelFile | None]:
    """Return a trial of each model, with the file that defines it if it is the user's own."""
    one_of_each = {trial.model: trial for trial in plan.trials}
    return {trial: plan.files.get(model) for model, trial in one_of_each.items()}


@contextmanager
def cluster_session(options: TrainOptions) -> Iterator[float]:
    """Join the cluster of --address, or start one, and yield how many seconds that took."""
    begin = time.monotonic()
    with ExitStack() as stack:
        with step("joining the cluster" if address_of(options.address) else "starting Ray", shown=not options.quiet):
            stack.enter_context(session(options.address, SOURCE_FOLDERS))
        yield time.monotonic() - begin


def with_versions(plan: AnyPlan, folder: RunFolder) -> AnyPlan:
    """Return the plan of a run whose trials start from the versions of --init-from.

    The names are resolved when the run begins; a resumed run has the versions that an earlier driver recorded.
    """
    if not plan.options.init_from:
        return plan
    objects = folder.objects
    begun = begun_with(folder)
    if begun:
        return with_warm_starts(plan, recorded_versions(objects, begun.init_from))
    names = names_to_start_from(plan.options)
    dataset = plan.options.data().name
    versions = versions_to_start_from(objects, names, dataset)
    for model, name in names.items():
        log.info("%s", start_text(model, name, versions.get(model), dataset))
    return with_warm_starts(plan, versions)


def with_warm_starts(plan: AnyPlan, versions: Mapping[str, Version]) -> AnyPlan:
    """Return the plan whose trials start from the weights of these versions, by model."""
    names = tuple(version.name for version in versions.values()) or None
    return replace(plan.with_options(init_from=names), warm_starts=versions)


def start_text(model: str, name: str, version: Version | None, dataset: str) -> str:
    """Return what a model starts from, as text. Args: as `versions_to_start_from` takes and returns them."""
    if version is None:
        missing = "version" if name.endswith(f"@{LATEST}") else f"champion for {dataset}"
        return f"{model} starts from random weights, since it has no {missing} yet"
    return f"{model} starts from the weights of {version.name}, trained on {version.facts.dataset.name}"


def versions_to_start_from(objects: Objects, names: Mapping[str, str], dataset: str) -> dict[str, Version]:
    """Return the version that each model starts from.

    If a model has no champion for the dataset, `keras@champion` is its champion for the dataset that it was trained on
    last, but with `@champion`, the model starts from no version.

    Args:
        names: as `options.names_to_start_from` returns them.

    Raises:
        SpecError: there is no version of that name.
        IntegrityError: its record is damaged.
    """
    found: dict[str, Version] = {}
    for model, name in names.items():
        version = None
        which = name.partition("@")[2] or CHAMPION
        if which == CHAMPION and (newest := champion(objects, model, dataset)):
            version = require_version(objects, model, newest.version)
        elif not name.startswith("@"):
            version = find_version(objects, model if which == CHAMPION else name)
        elif which != CHAMPION and any(find_all(objects, model)):
            version = find_version(objects, f"{model}{name}")
        if version is not None:
            found[model] = version
    return found


def recorded_versions(objects: Objects, names: Sequence[str]) -> dict[str, Version]:
    """Return the versions of these names by model. Raises SpecError if one was deleted, or its record is missing."""
    return {version.model: version for version in (find_version(objects, name) for name in names)}
