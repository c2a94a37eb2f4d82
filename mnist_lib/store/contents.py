"""What a version contains besides the model: its predictions on the test split and its manifest, which says how it was
made. Both serve to compare versions.

Anybody may have written these files, so the sha256 and the format of each are checked when it is read.
"""

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TypedDict

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from mnist_lib.archives import read_npz
from mnist_lib.catalog import DIGITS, MAX_PROBABILITIES
from mnist_lib.data.hashes import ImageHashes
from mnist_lib.data.request import ImageShape
from mnist_lib.data.split import DatasetInfo, Labels
from mnist_lib.documents import Json, Name, Number, Sha256, Text, Texts, decode, encode, require_schema
from mnist_lib.errors import IntegrityError, SpecError
from mnist_lib.model_file import MAX_SOURCE_BYTES, SOURCE_FILE, ModelFile, require_trusted
from mnist_lib.objects.protocol import MAX_DOCUMENT_BYTES, Objects
from mnist_lib.results import Counts, EpochRow, TrialResult
from mnist_lib.spec import MAX_EPOCHS, OPTIONAL_FIELDS
from mnist_lib.store.versions import DatasetFacts, Version, read_file

PREDICTIONS, MANIFEST = "predictions.npz", "manifest.json"
TEST_IMAGES = "test_images.npz"  # the hash of each image that was predicted
WEIGHTS_FILES = ("model.keras", "weights.npz")  # a version has one of them
MANIFEST_SCHEMA = 1
MAX_DEVICES = 256 * 64  # 64 GPUs on each of 256 nodes
MAX_ARRAY_BYTES = MAX_PROBABILITIES  # for each array in `predictions.npz`
COMPARED_PARTS: tuple[Literal["spec", "dataset", "code", "versions"], ...] = ("spec", "dataset", "code", "versions")


@dataclass(frozen=True)
class Predictions:
    """What a version predicted on the test split."""

    name: str
    fingerprint: str  # of the dataset
    test_images: int  # in the dataset
    probabilities: NDArray[np.float32]  # [images, classes]
    labels: Labels  # [images]
    classes: tuple[str, ...] = DIGITS  # their names
    hashes: ImageHashes | None = None  # [images, 2]; None in older versions

    @classmethod
    def read(cls, objects: Objects, version: Version) -> "Predictions":
        """Return the predictions of a version. Raises IntegrityError if they are damaged or malformed."""
        content = read_file(objects, version, PREDICTIONS, limit=3 * MAX_ARRAY_BYTES)
        name = f"{version.name}: {PREDICTIONS}"
        arrays = read_npz(content, name, dict.fromkeys(("probabilities", "predictions", "labels"), MAX_ARRAY_BYTES))
        probabilities, labels = arrays["probabilities"], arrays["labels"]
        classes = probabilities.shape[1] if probabilities.ndim == 2 else 0
        form = (probabilities.dtype.name, probabilities.shape, labels.dtype.name, labels.shape)
        if (
            form[:2] != ("float32", (labels.size, classes))
            or form[2] not in ("uint8", "uint16")
            or labels.ndim != 1
            or classes < 2
        ):
            raise IntegrityError(f"{name}: expected float32 [n, classes] and uint8 or uint16 [n], got {form}")
        if labels.size and labels.max() >= classes:
            raise IntegrityError(f"{name}: expected labels below {classes}, got {labels.max()}")
        dataset = version.facts.dataset
        names = dataset.get("classes", tuple(map(str, range(classes))))
        if len(names) != classes:
            raise IntegrityError(f"{name}: expected probabilities of {len(names):,} classes, got {classes:,}")
        hashes = _test_hashes(objects, version, len(labels)) if TEST_IMAGES in version.files else None
        return cls(version.name, dataset["fingerprint"], dataset["test"], probabilities, labels, names, hashes)

    @property
    def answers(self) -> NDArray[np.integer[Any]]:
        """The most probable class of each image: [images]."""
        return np.asarray(self.probabilities.argmax(axis=1))

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Whether each answer is right: [images]."""
        return np.asarray(self.answers == self.labels)

    @property
    def accuracy(self) -> float:
        return float(self.correct.mean()) if len(self.labels) else 0.0

    @property
    def disqualification(self) -> str | None:
        """Why the version can never be a champion, as a phrase to put after its name, or None if it can."""
        if len(self.labels) != self.test_images or not len(self.labels):
            return f"was tested on {len(self.labels):,} of {self.test_images:,} images"
        if not np.isfinite(self.probabilities).all():
            return "has probabilities that are not finite numbers"
        return None

    @property
    def most_frequent_share(self) -> float:
        """The share of the most frequent class: the accuracy of always answering it."""
        return float(np.bincount(self.labels).max() / len(self.labels))

    @property
    def images(self) -> list[bytes]:
        """What identifies each image, 16 bytes: its hash or, in older versions, its position in the dataset."""
        if self.hashes is not None:
            return [row.tobytes() for row in np.ascontiguousarray(self.hashes)]
        positions = (f"{self.fingerprint}:{position}" for position in range(len(self.labels)))
        return [hashlib.sha256(position.encode()).digest()[:16] for position in positions]

    @property
    def hold_out(self) -> str:
        """The sha256 of the images and their labels, whatever their order."""
        rows = sorted(
            b"%b%b\n" % (image, self.classes[label].encode(errors="replace"))
            for image, label in zip(self.images, self.labels, strict=True)
        )
        return hashlib.sha256(b"".join(rows)).hexdigest()

    def rows_for(self, other: "Predictions") -> NDArray[np.intp]:
        """Return, for each test image of another version, its row here, or -1 if this version was not tested on it."""
        count = len(other.labels)
        if self.hashes is None or other.hashes is None:  # aligned by position if the dataset is the same
            same = self.fingerprint == other.fingerprint and np.array_equal(self.labels, other.labels)
            return np.arange(count) if same else np.full(count, -1)
        rows = {image: row for row, image in enumerate(self.images)}
        return np.array([rows.get(image, -1) for image in other.images], np.intp)

    def right_for(self, other: "Predictions", predicted: NDArray[np.float32] | None = None) -> NDArray[np.bool_]:
        """Return whether this version is right about each test image of another version, by the labels there.

        Classes are compared by name, since a class may have been added or removed.

        Args:
            predicted: probabilities for the images on which this version was not tested, [m, classes], in order.
        """
        rows = self.rows_for(other)
        answers = np.full(len(rows), -1)
        answers[rows >= 0] = self.answers[rows[rows >= 0]]
        if predicted is not None:
            answers[rows < 0] = predicted.argmax(axis=1)
        index = {name: label for label, name in enumerate(other.classes)}
        labels = np.array([*(index.get(name, -1) for name in self.classes), -1])  # the last: no answer
        return np.asarray(labels[answers] == other.labels)


def _test_hashes(objects: Objects, version: Version, images: int) -> ImageHashes:
    content, name = read_file(objects, version, TEST_IMAGES, limit=MAX_ARRAY_BYTES), f"{version.name}: {TEST_IMAGES}"
    hashes = read_npz(content, name, {"hashes": MAX_ARRAY_BYTES})["hashes"]
    if (hashes.dtype.name, hashes.shape) != ("uint64", (images, 2)):
        raise IntegrityError(f"{name}: expected uint64 ({images}, 2), got {hashes.dtype.name} {hashes.shape}")
    return hashes


class Manifest(TypedDict):
    """`manifest.json`: how a version was made."""

    spec: Annotated[dict[str, Json], Meta(max_length=100)]  # see `TrialSpec.of_record`
    dataset: DatasetFacts
    weights_sha256: Sha256
    history: Annotated[list[EpochRow], Meta(max_length=MAX_EPOCHS)]
    code: Annotated[dict[str, bool | Text], Meta(max_length=100)]
    devices: Annotated[list[Text], Meta(max_length=MAX_DEVICES)]
    versions: Texts
    model: NotRequired[Name]
    run: NotRequired[Name]
    trial: NotRequired[Name]
    test: NotRequired[Counts]
    validation: NotRequired[Counts | None]
    best_epoch: NotRequired[Number]


@dataclass(frozen=True, kw_only=True)
class StoredModel:
    """The files of a version: all that a process without access to the storage needs to build the model.

    The code of a user's model is among them only if it may be run.
    """

    name: str
    files: Mapping[str, bytes]  # those with weights
    manifest: Manifest
    source: ModelFile | None = None  # the file that defines the model, unless the model is in the catalog

    @classmethod
    def read(cls, objects: Objects, version: Version, model_file: Path | None = None) -> "StoredModel":
        """Return the files of a version.

        Args:
            model_file: the file whose code may be run, if it is that of the version.

        Raises:
            IntegrityError: a file is damaged.
            ModelError: the version contains code that is neither in `model_file` nor trusted.
        """
        manifest = read_manifest(objects, version)
        files = {name: read_file(objects, version, name) for name in WEIGHTS_FILES if name in version.files}
        source = source_of(objects, version, manifest, model_file)
        return cls(name=version.name, files=files, manifest=manifest, source=source)


def source_of(objects: Objects, version: Version, manifest: Manifest, model_file: Path | None) -> ModelFile | None:
    """Return the file that defines the model of a version, or None for a model of the catalog.

    Raises:
        IntegrityError: the file is damaged, or missing.
        ModelError: it is neither the given file nor a trusted one.
        SpecError: a file is given for a model of the catalog.
    """
    expected = manifest["spec"].get("source_sha256")
    if expected is None:
        if model_file is not None:
            raise SpecError(f"model_file: {version.name} is of a model in the catalog, which needs no file; omit it")
        return None
    if SOURCE_FILE not in version.files:
        raise IntegrityError(f"{version.name}: expected a file {SOURCE_FILE}, got none")
    source = ModelFile(name=SOURCE_FILE, content=read_file(objects, version, SOURCE_FILE, limit=MAX_SOURCE_BYTES))
    if source.sha256 != expected:
        raise IntegrityError(f"{version.name}: {SOURCE_FILE}: expected sha256 {expected}, got {source.sha256}")
    require_trusted(source, version.name, ModelFile.read(model_file) if model_file is not None else None)
    return source


def contents_of(
    result: TrialResult, dataset: DatasetInfo, run: str, code: Mapping[str, Any]
) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Return the files of the version to publish for a trial, and the field `about` of its commit record.

    Args:
        code: as returned by `environment.code_version`.
    """
    about: dict[str, Any] = {
        "trial": result.trial,
        "dataset": {
            "name": dataset.name,
            "version": dataset.version,
            "fingerprint": dataset.fingerprint,
            "test": len(dataset.test_labels),
            "image_shape": dataset.image_shape,
            "classes": list(dataset.classes),
        },
        "test": asdict(result.test),
        "validation": asdict(result.validation) if result.validation else None,
        "weights_sha256": result.weights_sha256,
    }
    manifest = {
        "schema": MANIFEST_SCHEMA,
        "model": result.spec.model,
        "run": run,
        **about,
        "spec": asdict(result.spec),
        "best_epoch": result.best_epoch,
        "history": [asdict(epoch) for epoch in result.history],
        "code": code,
        "devices": list(result.devices),
        "versions": dict(result.versions),
    }
    predictions = io.BytesIO()
    np.savez_compressed(
        predictions,
        probabilities=result.probabilities,  # [test images, classes] float32
        predictions=result.probabilities.argmax(axis=1).astype(dataset.test_labels.dtype),
        labels=dataset.test_labels,
    )
    images = io.BytesIO()
    np.savez(images, hashes=dataset.test_hashes)  # [test images, 2] uint64
    made = {
        PREDICTIONS: predictions.getvalue(),
        TEST_IMAGES: images.getvalue(),
        MANIFEST: encode(manifest, indent=2),
    }
    return {**result.files, **made}, about


def classes_of(manifest: Manifest) -> tuple[str, ...]:
    """Return the names of the classes of a version; digits, if it was stored before they had names."""
    return manifest["dataset"].get("classes", DIGITS)


def image_shape_of(dataset: DatasetFacts, version: str) -> ImageShape:
    """Return the image shape of a version. Raises IntegrityError if it is not known."""
    if "image_shape" not in dataset:
        raise IntegrityError(f"{version}: expected $.dataset.image_shape, got none")
    return dataset["image_shape"]


def read_manifest(objects: Objects, version: Version) -> Manifest:
    """Return the manifest of a version. Raises IntegrityError or SchemaError if it cannot be read."""
    content, name = read_file(objects, version, MANIFEST, limit=MAX_DOCUMENT_BYTES), f"{version.name}: {MANIFEST}"
    require_schema(content, MANIFEST_SCHEMA, name)
    return decode(content, Manifest, name)


@dataclass(frozen=True)
class DifferingAnswer:
    """A test image that two versions answer differently."""

    image: int  # index in the test split of `one`
    label: int
    one: int
    other: int


@dataclass(frozen=True)
class Comparison:
    one: str
    other: str
    accuracies: tuple[float, float]  # on the test split
    classes: tuple[str, ...]  # their names
    made: Mapping[str, tuple[Any, Any]]  # values that differ in their manifests, by names such as "spec.seed"
    test_images: int | None  # on which both were tested; None if there is none
    differing: Sequence[DifferingAnswer]


def compare(objects: Objects, one: Version, other: Version) -> Comparison:
    """Compare two versions. Raises IntegrityError if a file is damaged."""
    predictions, others = Predictions.read(objects, one), Predictions.read(objects, other)
    made, made_other = _compared_values(objects, one), _compared_values(objects, other)
    pairs = {name: (made.get(name), made_other.get(name)) for name in {*made, *made_other}}
    found = others.rows_for(predictions) if predictions.classes == others.classes else np.full(1, -1)
    common = np.flatnonzero(found >= 0)
    rows = zip(
        common.tolist(),
        predictions.labels[common].tolist(),
        predictions.answers[common].tolist(),
        others.answers[found[common]].tolist(),
        strict=True,
    )
    return Comparison(
        one=one.name,
        other=other.name,
        accuracies=(predictions.accuracy, others.accuracy),
        classes=predictions.classes,
        made={name: pair for name, pair in sorted(pairs.items()) if pair[0] != pair[1]},
        test_images=len(common) or None,
        differing=[DifferingAnswer(*row) for row in rows if row[2] != row[3]],
    )


def _compared_values(objects: Objects, version: Version) -> dict[str, Any]:
    manifest = read_manifest(objects, version)
    parts: dict[str, dict[str, Any]] = {part: {**manifest[part]} for part in COMPARED_PARTS}
    # Older versions do not name the classes, and have one argument and fewer settings.
    parts["dataset"].pop("classes", None)
    spec, units = parts["spec"], parts["spec"].pop("hidden_units", None)
    arguments = spec.pop("arguments", {} if units is None else {"hidden_units": units})
    if isinstance(arguments, Mapping):
        spec |= {f"arguments.{name}": value for name, value in arguments.items()}
    return {
        f"{part}.{name}": value
        for part, values in parts.items()
        for name, value in values.items()
        if value or name not in OPTIONAL_FIELDS
    }
