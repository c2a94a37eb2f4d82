"""The files of a version: the model, its predictions, and the manifest, which says how it was made."""

import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnist_lib.data.dataset import Dataset
from mnist_lib.documents import (
    Count,
    Document,
    Name,
    builtins_of,
    decode_upgraded,
    encode,
    written,
)
from mnist_lib.errors import IntegrityError, SpecError
from mnist_lib.model_file import MAX_SOURCE_BYTES, SOURCE_FILE, Call, ModelFile, require_trusted
from mnist_lib.models.pretrained import EMPTIED, StoredWeights
from mnist_lib.objects.archives import npz
from mnist_lib.objects.protocol import MAX_EPOCHS_BYTES, Objects
from mnist_lib.pictures.likeness import LIKENESS, REJECT_SHARE, Likeness, min_held_out
from mnist_lib.results import Accuracy, EpochDone, TrialRecord, TrialResult
from mnist_lib.run_documents import spec_of_schema_1
from mnist_lib.spec import TrialSpec
from mnist_lib.store.margins import MARGINS, Margins
from mnist_lib.store.predictions import PREDICTIONS
from mnist_lib.store.versions import (
    About,
    DatasetFacts,
    Version,
    find_named,
    read_file,
    readable_versions,
)

if TYPE_CHECKING:
    from mnist_lib.pictures.reading import Layout

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
WEIGHTS_FILES = ("model.keras", "weights.npz")  # a version has one of them
MANIFEST_SCHEMA = 2


class Manifest(Document, frozen=True, kw_only=True):
    """`manifest.json`: how a version was made."""

    schema: Count = written(MANIFEST_SCHEMA)
    run: Name | None = None
    dataset: DatasetFacts
    code: dict[str, bool | str]
    record: TrialRecord
    history: tuple[EpochDone, ...]

    @property
    def spec(self) -> TrialSpec:
        """How the version was trained."""
        return self.record.spec


def with_record(about: Mapping[str, Any], manifest: dict[str, Any]) -> dict[str, Any]:
    """Return a manifest of schema 1, which has the fields of a record at its top level, converted to schema 2.

    Args:
        about: the field `about` of the version; it has some values that a manifest of schema 1 lacks.
    """
    history = manifest["history"]
    devices = manifest["devices"]
    images = [epoch["train"]["total"] for epoch in history]
    seconds = sum(epoch["seconds"] for epoch in history)
    counts = manifest.get("test") or {"correct": 0, "total": 0}
    test = Accuracy(counts["correct"], counts["total"])
    record = {
        "validation": None,
        "best_epoch": len(history),
        **manifest,
        "status": "ok",
        "id": manifest.get("trial") or history[-1]["trial"],
        "spec": spec_of_schema_1(manifest["spec"], devices),
        "test": counts,
        "test_accuracy": test.correct / max(1, test.total),
        "test_ci95": about.get("test_ci95") or test.interval(),
        "test_balanced_accuracy": about.get("test_balanced_accuracy"),
        "trained_epochs": len(history) - 1 + images[-1] / max(images),
        "train_seconds": seconds,
        "setup_seconds": 0.0,
        "images_per_second": sum(images) / max(seconds, 1e-9),
        "replicas": len(devices),
        "gpus": [],
        "node": "",
    }
    return {**manifest, "record": record}


@dataclass(frozen=True, kw_only=True)
class StoredModel:
    """The files of a version: all that a process without access to the storage needs to build the model.

    The code of a user's model is among them only if it may be run.
    """

    name: str
    files: Mapping[str, bytes]  # weights, likeness of pictures, and the emptied weights files of earlier releases
    manifest: Manifest
    source: ModelFile | None = None  # the file that defines the model, unless the model is in the catalog

    @classmethod
    def read(
        cls,
        objects: Objects,
        version: Version,
        model_file: Path | None = None,
        model_arg: Mapping[str, Any] | None = None,
    ) -> "StoredModel":
        """Return the files of a version.

        Args:
            model_file, model_arg: allow the version's code to be run if it is this file with these arguments.

        Raises:
            IntegrityError: a file is damaged.
            ModelError: the version contains code that is neither that of `model_file` nor trusted.
        """
        manifest = read_manifest(objects, version)
        names = [name for name in version.files if name in (*WEIGHTS_FILES, LIKENESS) or name.startswith(EMPTIED)]
        files = {name: read_file(objects, version, name) for name in names}
        source = source_of(objects, version, manifest, model_file, model_arg)
        return cls(name=version.name, files=files, manifest=manifest, source=source)

    def likeness(self) -> Likeness | None:
        """Return how pictures are judged; None for a model of digits, or a version that an earlier release stored.

        Raises IntegrityError if the file is damaged.
        """
        if LIKENESS not in self.files:
            return None
        return Likeness.read(self.files[LIKENESS], f"{self.name}: {LIKENESS}")

    def layout(self, *, as_is: bool = False, accept_all: bool = False) -> "Layout":
        """Return the layout of pictures that the model expects."""
        from mnist_lib.pictures.reading import Layout, Shape  # which imports Pillow

        shape = Shape(*self.manifest.dataset.image_shape)
        return Layout.of(self.manifest.spec.dataset, shape, as_is=as_is, accept_all=accept_all)

    def why_all_accepted(self, reject_share: float = REJECT_SHARE) -> str | None:
        """Return why the likeness to the classes rejects no picture; None if it may reject some, or is not in use.

        Raises IntegrityError if the file of the likeness is damaged.
        """
        from mnist_lib.pictures.rejecting import NONE_OF_THESE  # which imports Pillow

        if not reject_share or self.layout().judged:
            return None
        likeness = self.likeness()
        needed = min_held_out(reject_share)
        if likeness is not None and len(likeness.held_out) >= needed:
            return None
        why = f"{self.name} was stored without scores of held-out pictures; train it again"
        if likeness is not None:
            share = f"a reject share of {100 * reject_share:g}%"
            why = f"{share} needs at least {needed:,} test images, and {self.name} has {len(likeness.held_out):,}"
        return f'no picture is answered with "{NONE_OF_THESE}": {why}'


def margins_of(objects: Objects, version: Version) -> Margins | None:
    """Return the margins of the images that a version was trained on, if it has them.

    Raises IntegrityError if the file is damaged.
    """
    if MARGINS not in version.files:
        return None
    return Margins.read(read_file(objects, version, MARGINS), f"{version.name}: {MARGINS}")


def stored_weights(objects: Objects, version: Version) -> StoredWeights:
    """Return the weights of a version, without reading or running its code.

    Raises IntegrityError if a file is missing or damaged.
    """
    dataset = version.facts.dataset
    files = {name: read_file(objects, version, name) for name in WEIGHTS_FILES if name in version.files}
    return StoredWeights(version.name, files, dataset.image_shape, dataset.classes)


def origins(objects: Objects, names: Iterable[str], weights: Collection[str]) -> list[Version]:
    """Return all versions that trials start from, directly or through other versions, each once.

    Args:
        names: the versions from which the trials start.
        weights: the sha256 of the weights files from which the trials start; such a file may belong to a version.

    A damaged version is skipped with a warning: it is needed only to know which test images to leave out.
    """
    by_file = cache(partial(_names_by_file, objects))
    found: dict[str, Version] = {}
    waiting = [*names, *(name for sha256 in weights for name in by_file().get(sha256, ()))]
    while waiting:
        name = waiting.pop(0)
        try:
            version = None if name in found else find_named(objects, name)
            if version is None:
                continue
            waiting += [version.facts.init_from] if version.facts.init_from else []
            found[name] = version
            if not version.deleted:
                files = read_manifest(objects, version).spec.weights.values()
                waiting += [each for sha256 in files for each in by_file().get(sha256, ())]
        except IntegrityError as error:
            log.warning("it is not known what else %s starts from: %s", name, error)
    return [*found.values()]


def _names_by_file(objects: Objects) -> dict[str, list[str]]:
    """Return the names of the versions that contain a file, by the sha256 of the file."""
    found = dict[str, list[str]]()
    for version in readable_versions(objects):
        for file in version.files.values():
            found.setdefault(file.sha256, []).append(version.name)
    return found


def source_of(
    objects: Objects,
    version: Version,
    manifest: Manifest,
    model_file: Path | None,
    model_arg: Mapping[str, Any] | None = None,
) -> ModelFile | None:
    """Return the file that defines the model of a version, or None for a model of the catalog.

    Raises:
        IntegrityError: the file is damaged or missing.
        ModelError: the call that builds the model is neither trusted nor a call of the given file.
        SpecError: a file is given for a model of the catalog.
    """
    spec = manifest.spec
    if spec.source_sha256 is None:
        if model_file is not None:
            raise SpecError(f"model_file: {version.name} is of a catalog model, which needs no file; omit the file")
        return None
    source = ModelFile(name=SOURCE_FILE, content=read_file(objects, version, SOURCE_FILE, limit=MAX_SOURCE_BYTES))
    call = Call(source, spec.model, spec.arguments, spec.weights)
    require_trusted(call, version.name, ModelFile.read(model_file) if model_file is not None else None, model_arg)
    return source


def contents_of(
    result: TrialResult, dataset: Dataset, run: str, code: Mapping[str, Any]
) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Return the files of the version to publish for a trial, and the field `about` of its commit record.

    Args:
        code: as returned by `environment.code_version`.
    """
    facts = DatasetFacts(
        name=dataset.name,
        version=dataset.version,
        fingerprint=dataset.fingerprint,
        test=len(dataset.test),
        image_shape=dataset.image_shape,  # type: ignore[arg-type]  # it has 1, 3 or 4 channels
        classes=dataset.classes,
        group_by=dataset.group_by,
        none=dataset.none,
        made_up=dataset.made_up,
    )
    record = result.record
    about = About(
        trial=record.id,
        dataset=facts,
        test=record.test,
        weights_sha256=record.weights_sha256,
        validation=record.validation,
        test_ci95=record.test_ci95,
        test_balanced_accuracy=None if record.spec.score == "accuracy" else record.test_balanced_accuracy,
        init_from=record.spec.init_from,
    )
    manifest = Manifest(run=run, dataset=facts, code=dict(code), record=record, history=result.history)
    predictions = {
        "probabilities": result.probabilities,  # [test images, classes] float32
        "predictions": result.probabilities.argmax(axis=1).astype(dataset.test.labels.dtype),
        "labels": dataset.test.labels,
        "hashes": dataset.test.hashes,  # [test images, 2] uint64
    }
    if dataset.test_groups is not None:
        predictions["groups"] = dataset.test_groups
    made = {PREDICTIONS: npz(predictions, compressed=True), MANIFEST: encode(manifest, indent=2)}
    return {**result.files, **made}, builtins_of(about)


def read_manifest(objects: Objects, version: Version) -> Manifest:
    """Return the manifest of a version. Raises IntegrityError or SchemaError if it cannot be read."""
    content = read_file(objects, version, MANIFEST, limit=MAX_EPOCHS_BYTES)
    name = f"{version.name}: {MANIFEST}"
    return decode_upgraded(content, Manifest, MANIFEST_SCHEMA, name, partial(with_record, version.about))
