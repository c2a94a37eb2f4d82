"""`--init-from`: the stored versions whose weights the trials of a run start from.

The names are resolved once, when a run begins, and recorded, since the champion may change until the run is resumed.
The terms of the run have the names as they were given.
"""

import logging
from collections.abc import Mapping, Sequence

from jobs.train.options import CHAMPION
from mnist_lib.api import find_version
from mnist_lib.objects.protocol import Objects
from mnist_lib.store.champions.appointment import champion
from mnist_lib.store.champions.log import pinned_version
from mnist_lib.store.versions import Version, find_all, hold

log = logging.getLogger(__name__)


def initial_versions(objects: Objects, names: Mapping[str, str], dataset: str) -> dict[str, Version]:
    """Return the version that each model starts from, and hold it for an hour.

    If a model has no champion for the dataset, `keras@champion` is its champion for the dataset that it was trained on
    last, but `@champion` is none.

    Args:
        names: as `TrainOptions.names_to_start_from` returns them.

    Raises:
        SpecError: there is no version of that name.
        ConflictError: `gc` is deleting it.
        IntegrityError: its record is damaged.
    """
    found: dict[str, Version] = {}
    for model, name in names.items():
        version, which = None, name.partition("@")[2] or CHAMPION
        if which == CHAMPION and (newest := champion(objects, model, dataset)):
            version = pinned_version(objects, newest)
        elif not name.startswith("@"):
            version = find_version(objects, model if which == CHAMPION else name)
        elif which != CHAMPION and any(find_all(objects, model)):
            version = find_version(objects, f"{model}{name}")
        if version is None:
            missing = f"champion for {dataset}" if which == CHAMPION else "version"
            log.info("%s starts from random weights, since it has no %s yet", model, missing)
        else:
            log.info("%s starts from the weights of %s, trained on %s", model, version.name, version.facts.dataset.name)
            found[model] = hold(objects, version)
    return found


def recorded_versions(objects: Objects, names: Sequence[str]) -> dict[str, Version]:
    """Return the versions of these names by model, and hold them again.

    Raises:
        ConflictError: `gc` is deleting one.
        SpecError: one was deleted, or its record is missing.
    """
    return {version.model: hold(objects, version) for version in (find_version(objects, name) for name in names)}
