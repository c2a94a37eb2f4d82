"""The shape that the images of a dataset have had in a storage, so that further runs stay comparable."""

import contextlib
from collections.abc import Sequence

from mnist_lib.data.request import DataRequest
from mnist_lib.errors import IntegrityError, SpecError
from mnist_lib.objects.protocol import Objects
from mnist_lib.store.champions.appointment import champion
from mnist_lib.store.champions.log import pinned_version
from mnist_lib.store.datasets import earlier_runs, has_run, last_run
from mnist_lib.store.versions import model_names


def as_before(request: DataRequest, objects: Objects) -> DataRequest:
    """Return a request for images of the shape that the dataset has in this storage, unless it names another one.

    That is the shape of the images of its newest champion or, if no model has one, of its last run: if a later release
    or further pictures would lead to another shape, no model could be compared with the champion.
    """
    if request.entry is not None or not has_run(objects, request.name):
        return request
    shapes: list[tuple[str, Sequence[int]]] = []
    with contextlib.suppress(IntegrityError, SpecError):  # a damaged record; the run says so if it needs it
        for model in model_names(objects):
            if newest := champion(objects, model, request.name):
                shapes.append((newest.at, pinned_version(objects, newest).facts.dataset.image_shape))
        if not shapes and (last := last_run(objects, request.name)):
            shapes += [("", summary.dataset.image_shape) for summary in earlier_runs(objects, last.run, 1)]
    return request.shaped(max(shapes)[1] if shapes else None)
