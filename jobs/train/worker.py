"""What Ray calls in a worker: the places where the cluster meets the trials. Imports TensorFlow only when called."""

import os
import signal
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray

from cluster.lanes.lane import Others, free_address
from mnist_lib.data.split import DatasetInfo
from mnist_lib.environment import import_keras, package_versions
from mnist_lib.errors import DivergedError, GroupError
from mnist_lib.results import LaneStarted, TrialEvent, TrialFailure
from mnist_lib.spec import Group, Pace, Resources, TrialSpec


def prepare_dataset(name: str, data_dir: Path | None, source: Path | None) -> tuple[Any, DatasetInfo]:
    """The dataset, and what the driver needs to know of it."""
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # or TensorFlow would take the memory of GPUs that are the lanes'
    from mnist_lib.data.prepare import prepare

    dataset = prepare(name, data_dir, source)
    return dataset, dataset.info


def run_lane(
    dataset: list[Any], resources: Resources, pace: Pace, specs: Sequence[TrialSpec], checkpoints: Mapping[str, bytes]
) -> Iterator[TrialEvent]:
    """`dataset` is a reference in a list, so that Ray starts the task, and TensorFlow loads, before the data come."""
    yield LaneStarted(trial=specs[0].id, **_of_this_process())
    if resources.nodes == 1:
        yield from _run(dataset, resources, pace, specs, checkpoints, None)
        return
    others, addresses = Others(), [free_address()]
    try:
        for told in others.ask(_address_and_process):
            yield LaneStarted(trial=specs[0].id, **told["process"])
            addresses.append(told["address"])
        together = Group(addresses=tuple(addresses), rank=0)
        others.start(
            _run_beside, lambda rank: (dataset, resources, pace, specs, checkpoints, replace(together, rank=rank))
        )
        yield from _run(dataset, resources, pace, specs, checkpoints, together)
    except (GroupError, ray.exceptions.RayError):
        os.kill(os.getpid(), signal.SIGKILL)  # as when the other's end is noticed first: there will be another attempt


def _run_beside(*arguments: Any) -> None:
    """The same as the lane, on another node of its group. What it tells is told there, too."""
    for event in _run(*arguments):
        if isinstance(event, TrialFailure) and event.code != DivergedError.code:
            raise GroupError(f"{event.code} {event.message}")  # the others may not have come to this


def _run(
    dataset: list[Any],
    resources: Resources,
    pace: Pace,
    specs: Sequence[TrialSpec],
    checkpoints: Mapping[str, bytes],
    together: Group | None,
) -> Iterator[TrialEvent]:
    import_keras()
    from mnist_lib.training.trial import WorkerPlace, run_trials

    gpus = ray.get_runtime_context().get_accelerator_ids().get("GPU", [])
    place = WorkerPlace(node=f"{socket.gethostname()}/{ray.get_runtime_context().get_node_id()[:8]}", gpus=tuple(gpus))
    yield from run_trials(specs, lambda: ray.get(dataset[0]), resources, place, pace, checkpoints, together)


def _address_and_process() -> dict[str, Any]:
    return {"address": free_address(), "process": _of_this_process()}


def _of_this_process() -> dict[str, Any]:
    return {"host": socket.gethostname(), "versions": package_versions()}
