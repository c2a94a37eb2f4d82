"""What Ray calls in a worker to predict. Imports TensorFlow only when called."""

import functools
import os
import socket
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray

from cluster.errors import VersionsError
from jobs.predict_work import Predict, layout_of, probabilities_of
from mnist_lib.environment import differing_versions, import_keras
from mnist_lib.errors import ImageError
from mnist_lib.pictures import Layout, Picture, read_pictures
from mnist_lib.spec import Resources


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
    from mnist_lib.loading import build, predictor
    from mnist_lib.strategy import configure_process

    configure_process(Resources(cpus=1))
    model = ray.get(stored)
    return predictor(build(model)), layout_of(model, as_is)
