"""Train a stored version again from its manifest and compare the weights."""

import functools
import itertools
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mnist_lib.data.dataset import Dataset
from mnist_lib.documents import Interval
from mnist_lib.errors import IntegrityError, MnistError, SpecError
from mnist_lib.models.pretrained import Pretrained, WeightsFile
from mnist_lib.objects.protocol import Objects
from mnist_lib.results import Accuracy, EpochDone, TrialFailure, TrialRecord, TrialResult
from mnist_lib.spec import TrialSpec, is_exact
from mnist_lib.store.contents import read_manifest, source_of, stored_weights
from mnist_lib.store.versions import Version, chain
from mnist_lib.training.assignment import Assignment, Resources
from mnist_lib.training.trial import WorkerPlace, run_trials
from mnist_lib.wording import counted

IDENTICAL = "identical"
WITHIN = "within the interval"
DIVERGED = "diverged"


@dataclass(frozen=True)
class Reproduction:
    verdict: str
    stored: Accuracy  # on the test split
    interval: Interval  # of `stored`
    again: Accuracy
    differing: Mapping[str, tuple[str, str]]  # differences in how the two were made: name -> (stored, here)
    seconds: float
    exact: bool = True  # whether the weights could be expected to be the same, see `is_exact`
    starts_from: tuple[str, ...] = ()  # the version whose weights it starts from, then the origin of that one, ...


@dataclass(frozen=True, kw_only=True)
class ReproductionInputs:
    """The inputs for training a version again that are not stored.

    Args:
        cpus: the number of CPUs, and so of threads; on some processors, it changes the last bits of the weights. None:
            as many as the version was trained on or, if its record has no number, as this machine has.
        model_file, model_arg: the file that defines the model, and the arguments of its function. Neither is needed for
            a model of the catalog, or if the stored code is trusted on this machine.
        weights: the files of weights from which the model was trained, by the argument of its function.
    """

    cpus: int | None = None
    model_file: Path | None = None
    model_arg: Mapping[str, Any] | None = None
    weights: Mapping[str, Path] = field(default_factory=dict)


def reproduce(
    objects: Objects,
    version: Version,
    load: Callable[[], Dataset],
    code: Mapping[str, Any],
    inputs: ReproductionInputs,
    progress: Callable[[str], object] = lambda text: None,
) -> Reproduction:
    """Train a version again in this process, on the same number of replicas.

    The verdict is `IDENTICAL` if training is exact and the weights have the same hash, otherwise `WITHIN` if the test
    accuracy lies in the 95% interval of the stored one, otherwise `DIVERGED`.

    Args:
        load: returns the dataset that the version was trained on; called after TensorFlow has been set up.
        code: this project's code, as in `environment.code_version`.
        progress: called with the number of epochs, as text, before the training.

    Raises:
        SpecError: the version was trained with weights files for other arguments than those given.
        IntegrityError: the manifest, or a version from which it starts, is missing or damaged.
        ModelError: the version's code may not be run.
        MnistError: the training failed.
    """
    manifest = read_manifest(objects, version)
    begin = time.monotonic()
    spec = manifest.spec
    record = manifest.record
    devices = record.devices
    cpus = inputs.cpus or record.cpus or os.cpu_count() or 1
    epochs = len(manifest.history)
    files = _weights_files(version, spec, inputs.weights)
    progress(counted(epochs, "epoch"))
    fingerprint = manifest.dataset.fingerprint
    before = _conditions(record, manifest.history, manifest.code, fingerprint, record.cpus or cpus)
    spec = replace(spec, weights={name: file.sha256 for name, file in files.items()})
    origins = _origins(objects, version, spec)
    started = {str(spec.init_sha256): stored_weights(objects, origin) for origin in origins[:1]}
    pretrained = Pretrained({file.sha256: file for file in files.values()}, started)
    gpus = sum("GPU" in device for device in devices)
    cpu_replicas = 1 if gpus else max(1, len(devices))
    resources = Resources(cpus=cpus, gpus=gpus, cpu_replicas=cpu_replicas, allow_cpu=True)
    source = source_of(objects, version, manifest, inputs.model_file, inputs.model_arg)
    images = manifest.history[-1].train.total
    assignment = Assignment(spec, source=source, until=epochs, images=images)
    load = functools.cache(load)  # the worker needs the dataset, and so does the comparison
    (*_, last) = run_trials(
        [assignment], load, resources, WorkerPlace(node="here"), math.inf, pretrained=lambda: pretrained
    )
    if isinstance(last, TrialFailure):
        failure = MnistError(f"{version.name}: the training failed: {last.message}")
        failure.code = last.code
        raise failure
    assert isinstance(last, TrialResult)
    again = last.record
    stored = version.facts.test
    low, high = version.facts.interval
    exact = is_exact((*devices, *again.devices), spec.deterministic)
    is_same = exact and again.weights_sha256 == record.weights_sha256
    verdict = IDENTICAL if is_same else WITHIN if low <= again.test_accuracy <= high else DIVERGED
    here = _conditions(again, last.history, code, load().fingerprint, cpus)
    names = [name for name in {**before, **here} if before.get(name) != here.get(name)]
    differing = {name: (before.get(name, "none"), here.get(name, "none")) for name in names}
    seconds = time.monotonic() - begin
    chained = tuple(origin.name for origin in origins)
    return Reproduction(verdict, stored, version.facts.interval, again.test, differing, seconds, exact, chained)


def _origins(objects: Objects, version: Version, spec: TrialSpec) -> list[Version]:
    """Return the version whose weights a version starts from, the origin of that one, and so on, until one is deleted.

    Raises IntegrityError if the first one is missing.
    """
    found = chain(objects, spec.init_from)
    origins = [*itertools.takewhile(lambda origin: not origin.deleted, found)]
    if spec.init_from is not None:
        expected = f"{version.name}: expected {spec.init_from}, from which it starts"
        if not origins:
            why = "gc has deleted it" if found else "there is none"
            raise IntegrityError(f"{expected}, in {objects.where('models')}, but {why}; restore it from a copy")
    return origins


def _conditions(
    record: TrialRecord, history: Sequence[EpochDone], code: Mapping[str, Any], fingerprint: str, cpus: int
) -> dict[str, str]:
    """Return everything that the weights depend on apart from the settings, by name."""
    return {
        "code": str(code.get("sha256")),
        "data": fingerprint,
        **record.versions,
        "devices": ", ".join(record.devices),
        "CPUs": str(cpus),
        "images of the last epoch": f"{history[-1].train.total:,}",  # fewer than others if a deadline ended it
        **{f"weights {name}": sha256 for name, sha256 in record.spec.weights.items()},
    }


def _weights_files(version: Version, spec: TrialSpec, given: Mapping[str, Path]) -> dict[str, WeightsFile]:
    """Return the given weights files, by argument. Their content may differ from that in training.

    Raises:
        SpecError: the version was trained with weights files for other arguments.
    """
    if spec.weights.keys() != given.keys():
        expected = " ".join(f"--weights {name}=FILE (sha256 {sha256})" for name, sha256 in spec.weights.items())
        got = ", ".join(given) or "none"
        raise SpecError(f"weights: expected {expected or 'none'}, from which {version.name} was trained, got {got}")
    return {name: WeightsFile.read(path) for name, path in given.items()}
