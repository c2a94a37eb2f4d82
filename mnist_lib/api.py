"""The Python API: stored versions by name, as classifiers that predict, and the runs of a storage as records.

A model name without a version means its champion, here and in every command.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mnist_lib.catalog import require_known
from mnist_lib.environment import import_keras
from mnist_lib.errors import IntegrityError, SpecError
from mnist_lib.objects.protocol import Objects, concurrently
from mnist_lib.objects.storage import open_storage
from mnist_lib.results import Accuracy
from mnist_lib.store.champions import champion
from mnist_lib.store.contents import StoredModel
from mnist_lib.store.runs import RunFolder
from mnist_lib.store.versions import Version, find, find_all, model_names

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mnist_lib.export.loading import Predict

LATEST = "latest"
NUMBER = re.compile("[0-9]{1,8}", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Classifier:
    """A stored version, loaded to predict on the CPU."""

    name: str  # such as "keras@3"
    accuracy: Accuracy  # on the test split: correct, total, value, interval()
    classes: tuple[str, ...] = field(repr=False)  # the names of the columns of `predict`
    manifest: Mapping[str, Any] = field(repr=False)  # how it was made: spec, dataset, history, versions, ...
    _predict: "Predict" = field(repr=False)

    def predict(self, images: "NDArray[np.uint8]") -> "NDArray[np.float32]":
        """Return the probabilities of the classes, [n, classes].

        Args:
            images: [n, height, width, channels], 0-255. Another type or shape raises SpecError.
        """
        return self._predict(images)


@dataclass(frozen=True, kw_only=True)
class ModelOfRun:
    version: int
    accuracy: float  # of this version on the test split, 0 to 1
    champion: bool | None  # whether this version is the champion today; None if the log of champions is damaged


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    name: str
    status: Literal["complete", "some failed", "unfinished", "damaged"]
    dataset: str | None = None  # None for a damaged run
    ended: str | None = None  # UTC, ISO 8601; None for an unfinished run
    models: Mapping[str, ModelOfRun] = field(default_factory=dict)


def load(name: str | None = None, storage: str | Path = "results", model_file: str | Path | None = None) -> Classifier:
    """Return a stored version as a classifier. TensorFlow starts without GPUs, which stay free for training.

    Args:
        name: as in `find_version`; None for the most accurate champion.
        storage: a folder or a URL.
        model_file: the Python file of a user's model; its code is run only if the version was trained from that file.
            Not needed on the machine where the model was trained.

    Raises:
        SpecError: there is no such version or no champion.
        ModelError: the version contains code that may not be run.
        IntegrityError: what is stored is not what was committed.
        StoreError: the storage cannot be read.
    """
    objects = open_storage(str(storage))
    version = find_version(objects, name) if name else best_champion(objects)
    stored = StoredModel.read(objects, version, Path(model_file) if model_file else None)
    accuracy = version.facts.test
    import_keras(gpus=False)
    from mnist_lib.export.loading import build, predictor

    loaded = build(stored)
    return Classifier(
        name=version.name,
        accuracy=accuracy,
        classes=loaded.classes,
        manifest=stored.manifest,
        _predict=predictor(loaded),
    )


def runs(storage: str | Path = "results") -> list[RunRecord]:
    """Return every run of a storage (a folder or a URL): unfinished and damaged ones first, then newest first."""
    objects = open_storage(str(storage))
    champions = {model: _champion_number(objects, model) for model in model_names(objects)}
    names = {name.split("/")[1] for name in objects.names("runs")}
    found = concurrently(partial(_run_record, objects, champions), [*names])
    return sorted(found, key=lambda run: (run.ended is None, run.ended, run.name), reverse=True)


def find_version(objects: Objects, name: str | None) -> Version:
    """Return the version that a name stands for.

    Args:
        name: "keras" for the champion, "keras@latest" for the newest version, "keras@3" for version 3.

    Raises:
        SpecError: there is no such version or no champion.
        IntegrityError: the record of the version or of the champion is damaged.
    """
    if name is None:
        raise SpecError("expected a version, as in keras@3 or keras@latest; see: jobs.models list")
    model, at, which = name.partition("@")
    require_known("model", model, model_names(objects))
    if not at:
        found = _champion_version(objects, model)
        if found is None:
            where = f"{model} has no champion in {objects.where('models')}"
            raise SpecError(f"{where}; promote a version, or name one, as in {model}@{LATEST}")
        return found
    if which == LATEST:
        number = next((number for number, _ in find_all(objects, model, newest_first=True)), 0)
    elif NUMBER.fullmatch(which):
        number = int(which)
    else:
        raise SpecError(f"expected a number or {LATEST} after the @, as in keras@3, got {name!r}")
    version = find(objects, model, number)
    if version is None:
        raise SpecError(f"there is no {name} in {objects.where('models')}; see: jobs.models list")
    return version


def best_champion(objects: Objects) -> Version:
    """Return the champion with the highest test accuracy; if several are equal, the first in the catalog.

    Raises IntegrityError if the record of any champion is damaged: that champion might be the best.
    """
    champions = [found for model in model_names(objects) if (found := _champion_version(objects, model))]
    if not champions:
        where = f"there is no champion in {objects.where('models')}"
        raise SpecError(f"{where}; train one with jobs.train, or name a version, as in keras@{LATEST}")
    return max(champions, key=lambda version: version.facts.test.value)


def require_version(objects: Objects, model: str, number: int) -> Version:
    """Return the version with that number, or raise IntegrityError if it is damaged or does not exist."""
    version = find(objects, model, number)
    if version is None:
        raise IntegrityError(f"{model}@{number}: expected a commit record, got none; roll back to another version")
    return version


def _champion_version(objects: Objects, model: str) -> Version | None:
    current = champion(objects, model)
    return require_version(objects, model, current.version) if current else None


def _champion_number(objects: Objects, model: str) -> int | None:
    """Return the number of the champion, 0 if there is none, None if the record is damaged."""
    try:
        current = champion(objects, model)
    except IntegrityError:
        return None
    return current.version if current else 0


def _run_record(objects: Objects, champions: Mapping[str, int | None], name: str) -> RunRecord:
    folder = RunFolder(objects, name)
    try:
        summary = folder.summary()
        if summary is None:
            return RunRecord(name=name, status="unfinished", dataset=folder.dataset())
    except (IntegrityError, SpecError):  # SpecError: no run can have this name
        return RunRecord(name=name, status="damaged")
    models = {}
    for model, row in summary["models"].items():
        version, in_use = row["version"], champions.get(model, 0)
        is_champion = None if in_use is None else in_use == version
        models[model] = ModelOfRun(version=version, accuracy=row["best_trial_test_accuracy"], champion=is_champion)
    failed = any(trial["status"] == "failed" for trial in summary["trials"])
    status: Literal["complete", "some failed"] = "some failed" if failed else "complete"
    dataset, ended = summary["dataset"]["name"], summary.get("ended")
    return RunRecord(name=name, status=status, dataset=dataset, ended=ended, models=models)
