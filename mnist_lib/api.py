"""The Python API: stored versions by name, as classifiers that predict, and the runs of a storage as records.

A model name without a version means its champion for the dataset that it was trained on last, here and in every
command; `dataset` names another one.
"""

import atexit
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from mnist_lib.catalog import require_known
from mnist_lib.data.request import DataRequest, stored_name
from mnist_lib.documents import builtins_of
from mnist_lib.environment import import_keras
from mnist_lib.errors import IntegrityError, SpecError
from mnist_lib.models.pretrained import WeightsFile
from mnist_lib.objects.archives import numbers_in
from mnist_lib.objects.protocol import Objects, concurrently
from mnist_lib.objects.storage import open_storage
from mnist_lib.results import Accuracy
from mnist_lib.store.champions.appointment import champions, trained_last
from mnist_lib.store.champions.log import Champion
from mnist_lib.store.contents import StoredModel
from mnist_lib.store.runs import RunFolder
from mnist_lib.store.versions import LATEST, NUMBER, Version, find, find_all, model_names, require_version

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mnist_lib.loading import StoredPredictor
    from mnist_lib.pictures.likeness import Answers
    from mnist_lib.pictures.sandbox import Sandbox
    from mnist_lib.report.another_test import AnotherTest

    Answerer = Callable[[NDArray[np.uint8]], Answers]  # [n, height, width, channels], 0-255


@dataclass(frozen=True, kw_only=True)
class Classifier:
    """A stored version, loaded to predict on the CPU."""

    name: str  # such as "keras@3"
    accuracy: Accuracy  # on the test split: correct, total, value, interval()
    image_shape: tuple[int, int, int]  # height, width and channels of the images that it takes
    classes: tuple[str, ...] = field(repr=False)  # the names of the columns of `predict`
    manifest: Mapping[str, Any] = field(repr=False)  # how it was made: record, history, dataset, code, ...
    _predict: "StoredPredictor" = field(repr=False)
    _stored: "tuple[Objects, Version] | None" = field(default=None, repr=False)  # where it is from

    def predict(self, images: "NDArray[np.uint8]") -> "NDArray[np.float32]":
        """Return the probabilities of the classes, [n, classes].

        Args:
            images: [n, *image_shape], 0-255. Another type or shape raises SpecError.
        """
        return self._predict(images)

    def likeness(self, images: "NDArray[np.uint8]") -> "NDArray[np.float64]":
        """Return how much images look like one of the classes, [n], above 0 and up to 1.

        At most a share s of real pictures has a likeness of s or less, so `jobs.predict` answers "none of these" up to
        0.02. It is 1 for each image if the version has no held-out pictures to compare with.

        Args:
            images: as for `predict`.
        """
        return self._predict.answers(images).likeness

    def evaluate(
        self, dataset: str | Path, data_dir: str | Path | None = None, group_by: str | None = None
    ) -> "AnotherTest":
        """Test the version on other labelled pictures, as `jobs.models evaluate --on` does.

        Args:
            dataset: a folder of class folders, or the name of a dataset, whose test split is used.
            data_dir: the folder of prepared datasets; by default that of TFDS.
            group_by: as `--group-by` of `jobs.train`.

        Raises:
            DataError: the dataset cannot be read, or has no class that the version knows.
        """
        from mnist_lib.report.another_test import another_test

        if self._stored is None:
            raise SpecError("evaluate: expected a classifier that `mnist_lib.load` has returned, got another")
        folder = None if data_dir is None else Path(data_dir)
        request = DataRequest(dataset=str(dataset), data_dir=folder, group_by=group_by)
        return another_test(*self._stored, self._predict, request)[0]


@dataclass(frozen=True, kw_only=True)
class ModelOfRun:
    version: int
    accuracy: float  # of this version on the test split, 0 to 1
    champion: bool | None  # whether it is the champion of a dataset today; None if a log of champions is damaged


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    name: str
    status: Literal["complete", "some failed", "unfinished", "damaged"]
    dataset: str | None = None  # None for a damaged run
    ended: str | None = None  # UTC, ISO 8601; None for an unfinished run
    models: Mapping[str, ModelOfRun] = field(default_factory=dict)


def load(
    name: str | None = None,
    storage: str | Path = "results",
    model_file: str | Path | None = None,
    dataset: str | None = None,
    model_arg: Mapping[str, Any] | None = None,
) -> Classifier:
    """Return a stored version as a classifier. TensorFlow starts without GPUs, which stay free for training.

    Args:
        name: as in `find_version`; None for the most accurate champion of one dataset.
        storage: a folder or a URL.
        model_file: the Python file of a user's model; its code is run only if the version was trained from that file
            with `model_arg`. Not needed on the machine where the model was trained.
        dataset: the dataset of the champion, if that is not the one trained last.
        model_arg: the arguments of the function in `model_file`.

    Raises:
        SpecError: there is no such version or no champion.
        ModelError: the version contains code that may not be run.
        IntegrityError: what is stored is not what was committed.
        StoreError: the storage cannot be read.
    """
    objects = open_storage(str(storage))
    version = choose_version(objects, name, dataset).version
    stored = StoredModel.read(objects, version, Path(model_file) if model_file else None, model_arg)
    return Classifier(
        name=version.name,
        accuracy=version.facts.test,
        image_shape=version.facts.dataset.image_shape,
        classes=stored.manifest.dataset.classes,
        manifest=builtins_of(stored.manifest),
        _predict=load_stored(stored),
        _stored=(objects, version),
    )


def load_stored(stored: StoredModel) -> "StoredPredictor":
    """Return a function that predicts with a stored version. TensorFlow starts without GPUs.

    Raises IntegrityError or ModelError as `mnist_lib.loading.build`.
    """
    import_keras(gpus=False)
    from mnist_lib.loading import StoredPredictor, build

    return StoredPredictor(build(stored))


def load_answerer(stored: StoredModel) -> "Answerer":
    """Return a function that answers images with a stored version, compiled. Raises the errors of `load_stored`."""
    import numpy as np

    predict = load_stored(stored).answers
    predict(np.zeros((1, *stored.manifest.dataset.image_shape), np.uint8))
    return predict


def read_picture(path: str | Path, model: Classifier) -> "NDArray[np.uint8]":
    """Return a picture file as `jobs.predict` gives it to the model: [height, width, channels], 0-255.

    For a catalog's digits it is cropped to its ink, light on dark and centred; for others it is resized. A process with
    limits of time and memory decodes it, which ends with this one.

    Raises:
        ImageError: the file is missing, damaged, too large, blank or not a picture.
    """
    from mnist_lib.pictures.reading import Layout, Shape, read_file  # which import Pillow

    layout = Layout.of(model.manifest["record"]["spec"]["dataset"], Shape(*model.image_shape))
    return _sandbox().call(partial(read_file, layout=layout), Path(path)).image


@cache
def _sandbox() -> "Sandbox":
    from mnist_lib.pictures.sandbox import Sandbox

    sandbox = Sandbox()
    atexit.register(sandbox.close)
    return sandbox


def read_weights(path: str | Path) -> "dict[str, NDArray[Any]]":
    """Return the arrays of a file of weights by name, read as numbers: HDF5, `.keras`, `.npz` or safetensors.

    In the files of Keras, the names are paths such as `/layers/dense/vars/0`.

    Raises:
        ModelError: it is not a file with numbers.
    """
    file = WeightsFile.read(Path(path))
    return dict(numbers_in(file.content, file.suffix, str(path)))


def _load_pyfunc(path: str) -> Classifier:
    """Load the only version of a storage. MLflow calls this for a model that `jobs.track` copied."""
    objects = open_storage(path)
    names = [f"{model}@{number}" for model in model_names(objects) for number, _ in find_all(objects, model)]
    if len(names) != 1:
        raise SpecError(f"{path}: expected one version, got {len(names)}")
    return load(names[0], path)


def runs(storage: str | Path = "results") -> list[RunRecord]:
    """Return every run of a storage (a folder or a URL): unfinished and damaged ones first, then newest first."""
    objects = open_storage(str(storage))
    in_use = {model: [*champions(objects, model).values()] for model in model_names(objects)}
    names = {name.split("/")[1] for name in objects.names("runs")}
    found = concurrently(objects, partial(_run_record, objects, in_use), [*names])
    return sorted(found, key=lambda run: (run.ended is None, run.ended, run.name), reverse=True)


class Choice(NamedTuple):
    """The version that a name stands for."""

    version: Version
    why: str  # a phrase to put after its name


def choose_version(objects: Objects, name: str | None = None, dataset: str | None = None) -> Choice:
    """Return the version to predict with, and why it is this one.

    Args:
        name: "keras" for the champion, "keras@latest" for the newest version, "keras@3" for version 3; None for the
            most accurate champion of the dataset.
        dataset: the dataset of the champion: its name or where it is; None for the one trained last.

    Raises:
        SpecError: there is no such version or no champion.
        IntegrityError: the record of the version, or of any champion that might be the one, is damaged.
    """
    if name is not None and "@" in name:
        if dataset is not None:
            raise SpecError(f"dataset: expected the name of a model, whose champion it chooses, got {name}; omit it")
        return Choice(_numbered_version(objects, name), "as requested")
    models = model_names(objects)
    if name is not None:
        require_known("model", name, models)
        models = [name]
    chosen = stored_name(dataset) if dataset is not None else None
    why = "as requested"
    if chosen is None:
        last = [found for model in models if (found := trained_last(objects, model))]
        if not last:
            raise SpecError(_no_champion(objects, name))
        chosen, why = max(last)[1], "the dataset trained last"
    of_models = [champions(objects, model) for model in models]
    records = [of_model[chosen] for of_model in of_models if chosen in of_model]
    known = sorted({other for of_model in of_models for other in of_model})
    if not records:
        others = f"there are champions of {', '.join(known)}" if known else "there is no champion"
        raise SpecError(f"dataset: expected one with a champion of {name or 'any model'}, got {chosen}; {others}")
    version = max((_in_use(objects, record) for record in records), key=lambda version: version.facts.test.value)
    others = ", ".join(other for other in known if other != chosen)
    more = f"; there are also champions of {others} (--dataset chooses)" if others else ""
    return Choice(version, f"the champion of {chosen}, {why}{more}")


def find_version(objects: Objects, name: str, dataset: str | None = None) -> Version:
    """Return the version that a name stands for, as `choose_version` does."""
    return choose_version(objects, name, dataset).version


def _numbered_version(objects: Objects, name: str) -> Version:
    model, _, which = name.partition("@")
    require_known("model", model, model_names(objects))
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


def _no_champion(objects: Objects, model: str | None) -> str:
    where = objects.where("models")
    if model is None:
        return f"there is no champion in {where}; train one with jobs.train, or name a version, as in keras@{LATEST}"
    return f"{model} has no champion in {where}; promote a version, or name one, as in {model}@{LATEST}"


def _in_use(objects: Objects, record: Champion | IntegrityError) -> Version:
    if isinstance(record, IntegrityError):
        raise record
    return require_version(objects, record.model, record.version)


def _run_record(objects: Objects, in_use: Mapping[str, Sequence[Champion | IntegrityError]], name: str) -> RunRecord:
    """Return the record of a run. `in_use`: the champions of each model."""
    folder = RunFolder(objects, name)
    try:
        summary = folder.summary()
        if summary is None:
            return RunRecord(name=name, status="unfinished", dataset=folder.dataset())
    except (IntegrityError, SpecError):  # SpecError: no run can have this name
        return RunRecord(name=name, status="damaged")
    models = {}
    for model, row in summary.models.items():
        records, version = in_use.get(model, ()), row.version
        numbers = [record.version for record in records if isinstance(record, Champion)]
        is_champion = version in numbers or (False if len(numbers) == len(records) else None)
        models[model] = ModelOfRun(version=version, accuracy=row.best_trial_test_accuracy, champion=is_champion)
    status: Literal["complete", "some failed"] = "some failed" if summary.failed else "complete"
    return RunRecord(name=name, status=status, dataset=summary.dataset.name, ended=summary.ended, models=models)
