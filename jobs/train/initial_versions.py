"""`--init-from`: the stored versions whose weights the trials of a run start from.

The names are resolved once, when a run begins, and recorded, since the champion may change until the run is resumed.
The terms of the run have the names as they were given.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

from jobs.train.options import CHAMPION, names_to_start_from
from jobs.train.plan import AnyPlan
from mnist_lib.api import find_version
from mnist_lib.objects.protocol import Objects
from mnist_lib.store.champions.appointment import champion
from mnist_lib.store.datasets import begun_with
from mnist_lib.store.runs import RunFolder
from mnist_lib.store.versions import LATEST, Version, find_all, require_version

log = logging.getLogger(__name__)


def with_versions(plan: AnyPlan, folder: RunFolder) -> AnyPlan:
    """Return the plan of a run whose trials start from the versions of --init-from.

    They are found when the run begins; an earlier driver of the run has recorded them.
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
    last, but `@champion` is none.

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
