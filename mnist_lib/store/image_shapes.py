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


def with_known_shape(request: DataRequest, objects: Objects) -> DataRequest:
    """Return a request for images of the shape that the dataset has in this storage, unless it names another one.

    It is the shape of the newest champion or, without one, of the last run. Otherwise a new release or further pictures
    could change the shape, and new versions could not be compared with the champion.
    """
    is_shaped = request.image_size is not None and request.channels is not None
    if request.entry is not None or is_shaped or not has_run(objects, request.name):
        return request
    shapes: list[tuple[str, Sequence[int]]] = []
    for model in model_names(objects):
        with contextlib.suppress(IntegrityError, SpecError):  # the run reports a damaged record if it needs it
            if newest := champion(objects, model, request.name):
                shapes.append((newest.at, pinned_version(objects, newest).facts.dataset.image_shape))
    if not shapes and (last := last_run(objects, request.name)):
        shapes += [("", summary.dataset.image_shape) for summary in earlier_runs(objects, last.run, 1)]
    return request.shaped(max(shapes)[1] if shapes else None)
