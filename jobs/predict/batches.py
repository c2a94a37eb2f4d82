"""Predict pictures in batches, in their order, in this process or on a cluster."""

import functools
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cluster.deadlines import Limits
from jobs.predict.options import PredictOptions
from mnist_lib.api import load_answerer
from mnist_lib.environment import import_keras, package_versions, require_same_versions
from mnist_lib.errors import ImageError
from mnist_lib.pictures.reading import Layout, Picture, read_content, read_picture
from mnist_lib.pictures.sandbox import FILES_PER_CALL, Sandbox, in_batches
from mnist_lib.training.assignment import Resources

if TYPE_CHECKING:
    from mnist_lib.api import Answerer


class Prediction(NamedTuple):
    """What a model answers for a picture."""

    picture: Picture
    probabilities: NDArray[np.float32]  # [classes]
    likeness: float  # to the classes, above 0 and up to 1


def predict_here(pictures: Iterable[Picture | ImageError], predict: "Answerer") -> Iterator[Prediction | ImageError]:
    """Yield the prediction of each picture, or its error. Meanwhile, the iterator of pictures may read ahead."""
    for batch in in_batches(pictures):
        yield from _predictions(batch, predict)


def predict_on_cluster(
    paths: Sequence[Path], stored: Any, options: PredictOptions
) -> Iterator[Prediction | ImageError]:
    """Yield what `predict_here` does, from the connected cluster, whose workers see neither the files nor the storage.

    Args:
        stored: a Ray reference to the `StoredModel`.
        options: also limit the wait for a batch.

    Raises the errors of `results_in_order`.
    """
    from cluster.tasks import results_in_order

    def calls() -> Iterator[Sequence[Any]]:
        contents = (_content_or_error(path) for path in paths)
        for batch in in_batches(contents, lambda content: len(content) if isinstance(content, bytes) else 0):
            yield [stored], options.as_is, options.accept_all, package_versions(), batch

    limits = replace(Limits(), wait_seconds=options.wait_for_resources)
    for batch in results_in_order(predict_pictures, calls(), "a batch of pictures", limits):
        yield from batch


def _predictions(pictures: Sequence[Picture | ImageError], predict: "Answerer") -> list[Prediction | ImageError]:
    """Return the prediction of each picture that could be read, and the errors of the others in their places."""
    images = [picture.image for picture in pictures if isinstance(picture, Picture)]
    answers = zip(*predict(np.stack(images)), strict=True) if images else iter(())
    return [Prediction(each, *next(answers)) if isinstance(each, Picture) else each for each in pictures]


def predict_pictures(
    stored: list[Any],
    as_is: bool,
    accept_all: bool,
    driver_versions: Mapping[str, str],
    contents: Sequence[bytes | ImageError],
) -> list[Prediction | ImageError]:
    """Read and predict one batch: the task that Ray runs in a worker.

    Args:
        stored: a reference to a `StoredModel`, in a list so that only the first task of a process fetches it.
        contents: the bytes of each picture file, or the error of reading it, which is passed on.

    Returns:
        The prediction or the error of each file.

    Raises:
        IntegrityError: the stored files are damaged, or belong to another model.
        VersionsError: the worker has other package versions than the driver.
    """
    require_same_versions(socket.gethostname(), package_versions(), driver_versions)
    predict, layout, sandbox = _loaded(stored[0], as_is, accept_all)
    read = functools.partial(_read, layout=layout)
    pictures: list[Picture | ImageError] = []
    for begin in range(0, len(contents), FILES_PER_CALL):
        pictures += sandbox.map(read, contents[begin : begin + FILES_PER_CALL])
    return _predictions(pictures, predict)


def _content_or_error(path: Path) -> bytes | ImageError:
    try:
        return read_content(path)
    except ImageError as error:
        return error


def _read(content: bytes | ImageError, layout: Layout) -> Picture:
    if isinstance(content, ImageError):
        raise content
    return read_picture(content, layout)


@functools.lru_cache(maxsize=1)
def _loaded(stored: Any, as_is: bool, accept_all: bool) -> tuple["Answerer", Layout, Sandbox]:
    """Load the model, for one CPU, once for all tasks of this process, and start a sandbox for the pictures."""
    sandbox = Sandbox()
    import_keras(gpus=False)  # Ray shows every GPU of the node to a task that asked for none
    import ray

    from mnist_lib.training.strategy import configure_process

    configure_process(Resources(cpus=1))
    model = ray.get(stored)
    return load_answerer(model), model.layout(as_is=as_is, accept_all=accept_all), sandbox
