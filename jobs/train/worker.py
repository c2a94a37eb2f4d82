"""The functions that Ray calls in workers. They import TensorFlow when they are called."""

import contextlib
import functools
import os
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import ray
from numpy.typing import NDArray

from cluster.tasks import call_on_node
from mnist_lib.api import load_stored
from mnist_lib.data.corrections import UsedLabels
from mnist_lib.data.dataset import Changes, Dataset
from mnist_lib.data.images import read_part
from mnist_lib.data.prepared.folder import ProgressFile, on_this_node
from mnist_lib.data.request import DataRequest
from mnist_lib.data.table import NO_RECORDS, ImageHashes
from mnist_lib.environment import import_keras, package_versions
from mnist_lib.errors import IntegrityError, ModelError
from mnist_lib.model_file import ModelFile
from mnist_lib.models.pretrained import NOTHING, Pretrained
from mnist_lib.results import LaneStarted, TrialEvent
from mnist_lib.spec import TrialSpec
from mnist_lib.store.contents import StoredModel
from mnist_lib.training.assignment import Assignment, Resources

if TYPE_CHECKING:
    from mnist_lib.data.changes import DatasetState


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """What a dataset is prepared from."""

    request: DataRequest
    labels: bytes = b""  # the corrections, as in `prepare`
    used: UsedLabels | None = None  # those with which the run began, as in `prepare`
    records: NDArray[np.void] = field(default_factory=lambda: NO_RECORDS)  # as in `prepare`
    before: NDArray[np.uint8] | None = None  # the content of the state of the last run; Ray sends arrays without a copy
    trained: Mapping[str, ImageHashes] = field(default_factory=dict)  # images not tested on, as in `without_trained`
    progress: ProgressFile | None = None  # where to write how much is read, and of the search for near-copies done


def prepare_dataset(
    preparation: Preparation,
    models: Mapping[TrialSpec, ModelFile | None] = MappingProxyType({}),
    pretrained: Pretrained = NOTHING,
) -> tuple[Dataset, Dataset, NDArray[np.uint8]]:
    """Return the dataset, what the driver needs to know about it, and the content of its state.

    Args:
        models: one trial of each model, with the file that defines it if it is the user's own. The dataset says why
            one of these cannot be built for its images.
        pretrained: the weights that these start from.

    Raises:
        ModelError: no model can be built for the images of the dataset.
    """
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # TensorFlow would reserve memory on the GPUs of the trials
    from mnist_lib.data.changes import DatasetState
    from mnist_lib.data.hold_out import without_trained
    from mnist_lib.data.prepare import prepare, with_near_copies

    request = preparation.request
    show = preparation.progress.write if preparation.progress else lambda text: None
    dataset = prepare(request, show, labels=preparation.labels, used=preparation.used, records=preparation.records)
    dataset = with_near_copies(without_trained(dataset, preparation.trained), request, show)
    dataset = dataset.reporting(refused=_refused_models(models, dataset, pretrained))
    state = DatasetState.of(dataset)
    info = dataset.without_images().reporting(changes=_changes_since(preparation.before, state))
    return dataset.reporting(new_records=None), info, np.frombuffer(state.content(), np.uint8)


def _refused_models(
    models: Mapping[TrialSpec, ModelFile | None], dataset: Dataset, pretrained: Pretrained
) -> dict[str, str]:
    """Return why models cannot be built for the images of a dataset. Raises ModelError if none can."""
    if not any(file or spec.init_from or spec.weights for spec, file in models.items()):
        return {}
    import_keras()
    from mnist_lib.models.building import build_model, check_model, warm_start

    refused: dict[str, str] = {}
    for spec, file in models.items():
        try:
            if file is not None:
                check_model(spec, dataset.image_shape, len(dataset.classes), file, pretrained)
            model = build_model(spec, dataset.image_shape, len(dataset.classes), file, pretrained)
            warm_start(model, spec, dataset.image_shape, dataset.classes, file, pretrained)
        except ModelError as error:
            refused[spec.model] = str(error)
            if len(refused) == len(models):
                raise
    return refused


def _changes_since(before: NDArray[np.uint8] | None, state: "DatasetState") -> Changes | None:
    """Return what has changed since the last run; None without one, or if it is not known, which the driver says."""
    from mnist_lib.data.changes import DatasetState, changes_between

    if before is not None:
        with contextlib.suppress(IntegrityError):
            return changes_between(DatasetState.read(before.tobytes(), "the state of the last run"), state)
    return None


def predict_images(stored: StoredModel, dataset: Dataset, positions: NDArray[np.intp]) -> NDArray[np.float32]:
    """Return the probabilities of a stored version for some test images of a dataset, [n, classes].

    Raises:
        IntegrityError, ModelError: the version is damaged, or its code fails.
        SpecError: it was trained on images of another shape.
    """
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # TensorFlow would reserve memory on the GPUs of the trials
    return load_stored(stored)(dataset.test.images[positions])


def run_lane(
    assignments: Iterable[Assignment], inputs: list[Any], resources: Resources, checkpoint_seconds: float
) -> Iterator[TrialEvent]:
    """Train the trials of a lane and yield their events.

    Args:
        inputs: Ray references to the dataset and to a `Pretrained`, in a list, so that Ray starts the task before the
            dataset is prepared; and the id of the node that prepares it.
    """
    yield LaneStarted(trial="", host=socket.gethostname(), versions=package_versions())
    import_began = time.monotonic()
    import_keras()
    from mnist_lib.training.trial import WorkerPlace, run_trials

    gpus = ray.get_runtime_context().get_accelerator_ids().get("GPU", [])
    name = f"{socket.gethostname()}/{ray.get_runtime_context().get_node_id()[:8]}"
    place = WorkerPlace(node=name, gpus=tuple(gpus), import_began=import_began)
    images, pretrained, node = inputs

    def load() -> Dataset:
        dataset: Dataset = ray.get(images)
        is_there = ray.get_runtime_context().get_node_id() == node
        read = None if is_there else functools.partial(call_on_node, node, read_part)
        return dataset.with_images(on_this_node(dataset.table.images, read))

    yield from run_trials(assignments, load, resources, place, checkpoint_seconds, lambda: ray.get(pretrained))
