"""Pictures -> answers, batch by batch in their order: in this process, or on a cluster."""

import functools
import os
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from cluster.errors import VersionsError
from cluster.lanes.deadlines import Limits
from jobs.predict.answers import PictureResult, outcomes
from mnist_lib.environment import differing_versions, import_keras
from mnist_lib.errors import ImageError
from mnist_lib.pictures.reading import Layout, Picture, content_or_error, read_pictures
from mnist_lib.spec import Resources
from mnist_lib.store.contents import StoredModel

T = TypeVar("T")

BATCH = 1_000  # pictures, to which a model's evaluation pads
BATCH_SECONDS = 1.0  # to read one; then it is predicted as it is
BATCH_BYTES = 32_000_000  # of files that are sent at once

Predict = Callable[[NDArray[np.uint8]], NDArray[np.float32]]  # as in `loading`


def predict_here(
    paths: Sequence[Path], pictures: Iterable[Picture | ImageError], predict: Predict
) -> Iterator[list[PictureResult]]:
    """In the time in which it does, others may be reading the next pictures."""
    begin = 0
    for batch in _in_batches(pictures):
        names = map(str, paths[begin : begin + len(batch)])
        yield outcomes(names, batch, probabilities_of(batch, predict))
        begin += len(batch)


def predict_on_cluster(
    paths: Sequence[Path], stored: Any, as_is: bool, limits: Limits
) -> Iterator[list[PictureResult]]:
    """On the connected one, whose workers see neither the files nor the store.

    Args:
        stored: a reference to the `StoredModel`.
        as_is: as in `Layout.of`.

    Raises:
        ResourcesError, ClusterError: as in `results_in_order`.
    """
    from cluster.lanes.tasks import results_in_order
    from mnist_lib.environment import package_versions

    sent: deque[list[str]] = deque()

    def calls() -> Iterator[Sequence[Any]]:
        for batch in _batches_to_send(paths):
            sent.append([str(path) for path, _ in batch])
            yield [stored], as_is, package_versions(), [content for _, content in batch]

    for pictures, probabilities in results_in_order(predict_pictures, calls(), "a batch of pictures", limits):
        yield outcomes(sent.popleft(), pictures, probabilities)


def layout_of(stored: StoredModel, as_is: bool) -> Layout:
    """Of a model that was built: then what its manifest says of it has been checked."""
    height, width, _ = stored.manifest["dataset"]["image_shape"]
    return Layout.of(stored.manifest["spec"]["dataset"], (height, width), as_is=as_is)


def probabilities_of(found: Sequence[Picture | ImageError], predict: Predict) -> NDArray[np.float32]:
    """[n, classes], of the n that are pictures."""
    images = [picture.image for picture in found if isinstance(picture, Picture)]
    return predict(np.stack(images)) if images else np.empty((0, 0), np.float32)


def _in_batches(items: Iterable[T]) -> Iterator[list[T]]:
    batch, begin = list[T](), time.monotonic()
    for item in items:
        batch.append(item)
        if len(batch) == BATCH or time.monotonic() - begin > BATCH_SECONDS:
            yield batch
            batch, begin = [], time.monotonic()
    if batch:
        yield batch


def _batches_to_send(paths: Iterable[Path]) -> Iterator[list[tuple[Path, bytes | ImageError]]]:
    batch, size = list[tuple[Path, bytes | ImageError]](), 0
    for path in paths:
        content = content_or_error(path)
        batch.append((path, content))
        size += len(content) if isinstance(content, bytes) else 0
        if len(batch) == BATCH or size > BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def predict_pictures(
    stored: list[Any], as_is: bool, versions: Mapping[str, str], contents: Sequence[bytes | ImageError]
) -> tuple[list[Picture | ImageError], NDArray[np.float32]]:
    """
    Args:
        stored: a reference to a `StoredModel`, in a list: only the first task in a process fetches it.
        as_is: as in `Layout.of`.
        versions: of the driver's packages.
        contents: of files.

    Returns:
        Of each a picture, or what is wrong with it; [n, classes], the probabilities of the n that are pictures.

    Raises:
        IntegrityError: the files are not of that model.
        VersionsError: other packages are installed here.
    """
    differing = differing_versions(versions)
    if differing:
        raise VersionsError(
            f"the worker on {socket.gethostname()} and the driver differ: {differing}"
            "; install requirements/runtime.lock on every node"
        )
    predict, layout = _loaded(stored[0], as_is)
    found = read_pictures(contents, layout)
    return found, probabilities_of(found, predict)


@functools.lru_cache(maxsize=1)
def _loaded(stored: Any, as_is: bool) -> tuple[Predict, Layout]:
    """On the one CPU of a task, for all tasks that this process will be given."""
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # Ray shows every GPU of the node to a task that asked for none
    import_keras()
    import ray

    from mnist_lib.export.loading import build, predictor
    from mnist_lib.training.strategy import configure_process

    configure_process(Resources(cpus=1))
    model = ray.get(stored)
    return predictor(build(model)), layout_of(model, as_is)
