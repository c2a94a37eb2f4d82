"""Versions of models by the names that people give them."""

import re
from collections.abc import Iterable

from mnist_lib.catalog import MODELS, require_known
from mnist_lib.errors import IntegrityError, SpecError
from mnist_lib.store.champions import champion
from mnist_lib.store.contents import accuracy_of_version
from mnist_lib.store.objects import Objects
from mnist_lib.store.versions import Version, find, find_all

NUMBER = re.compile("[0-9]{1,8}", re.ASCII)


def find_version(objects: Objects, name: str | None, models: Iterable[str]) -> Version:
    """`name`: as in "keras@3", or "keras" for its newest. Raises SpecError if there is none."""
    if name is None:
        raise SpecError("version: expected one, as in keras@3; see: jobs.models list")
    model, at, digits = name.partition("@")
    require_known("version", model, models)
    if at and not NUMBER.fullmatch(digits):
        raise SpecError(f"version: expected a model and a number, as in keras@3, got {name!r}")
    newest = 0 if at else next((number for number, _ in find_all(objects, model, newest_first=True)), 0)
    version = find(objects, model, int(digits) if at else newest)
    if version is None:
        raise SpecError(f"version: there is no {name} in {objects.where('models')}; see: jobs.models list")
    return version


def version_to_ask(objects: Objects, name: str | None) -> Version:
    """`name`: a version, as in "keras@3", or a model, for its champion; None for the best of all champions.

    Raises:
        SpecError: there is none.
        IntegrityError: which version is a champion cannot be read; none is taken in its place.
    """
    if name is not None and "@" in name:
        return find_version(objects, name, MODELS)
    if name is not None:
        require_known("model", name, MODELS)
    champions = [found for model in MODELS if name in (None, model) and (found := _champion(objects, model))]
    if not champions:
        whose = "there is no champion" if name is None else f"{name} has no champion"
        raise SpecError(
            f"model: {whose} in {objects.where('models')}; train one with jobs.train, or name a version"
            f", as in --model {name or 'keras'}@1"
        )
    return max(champions, key=lambda version: accuracy_of_version(version).value)


def _champion(objects: Objects, model: str) -> Version | None:
    current = champion(objects, model)
    if current is None:
        return None
    version = find(objects, model, current.version)
    if version is None:
        raise IntegrityError(f"{model}@{current.version}: expected a commit record, got none; roll back to another")
    return version
