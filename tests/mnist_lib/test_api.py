"""The Python API: versions by name, stored models that predict, runs as records."""

import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from msgspec import structs
from PIL import Image

import mnist_lib
from jobs.predict.batches import predict_here
from mnist_lib.api import choose_version, find_version
from mnist_lib.data.dataset import Dataset
from mnist_lib.errors import ImageError, IntegrityError, SpecError
from mnist_lib.objects.local import LocalObjects
from mnist_lib.pictures.likeness import Answers
from mnist_lib.pictures.reading import read_file
from mnist_lib.results import Accuracy
from mnist_lib.spec import TrialSpec
from mnist_lib.store.champions.challenge import promote
from mnist_lib.store.champions.promotion import Rule
from mnist_lib.store.contents import StoredModel
from mnist_lib.store.opening import open_run
from mnist_lib.store.publishing import publish
from mnist_lib.store.runs import RunFolder
from tests.support.hostile_pictures import many_scans
from tests.support.job import ROOT
from tests.support.made_run import made_run
from tests.support.store.fake_versions import about, files
from tests.support.stored import publish_trained

LOADS_NOTHING_HEAVY = """
import sys, mnist_lib
assert not {"tensorflow", "keras", "ray", "numpy"} & set(sys.modules)
assert callable(mnist_lib.load) and callable(mnist_lib.runs) and {"load", "runs"} <= set(dir(mnist_lib))
assert not {"tensorflow", "keras", "ray"} & set(sys.modules)
"""


@pytest.fixture
def objects(tmp_path: Path) -> LocalObjects:
    (tmp_path / "results").mkdir()
    return LocalObjects(tmp_path / "results")


def store(objects: LocalObjects, model: str, right: int, *, champion: bool = True) -> None:
    version = publish(objects, model, f"run-{right}", files(right), about(right=right))
    if champion:
        promote(objects, version, Rule(promote="always"))


def in_process(code: str, folder: Path) -> str:
    """Run code in a folder outside the project; return what it prints."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_loads_no_tensorflow_ray_or_numpy(tmp_path: Path) -> None:
    in_process(LOADS_NOTHING_HEAVY, tmp_path)


def test_a_name_that_the_package_lacks_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'mnist_lib' has no attribute 'lod'"):
        _ = mnist_lib.lod


def test_a_bare_name_is_the_champion_and_latest_the_newest_version(
    objects: LocalObjects,
) -> None:
    store(objects, "keras", 150)
    store(objects, "keras", 160)
    store(objects, "keras", 170, champion=False)
    names = {name: find_version(objects, name).name for name in ("keras", "keras@latest", "keras@1")}
    assert names == {"keras": "keras@2", "keras@latest": "keras@3", "keras@1": "keras@1"}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("kears", "model: 'kears' is not known; did you mean keras?"),
        ("kears@latest", "model: 'kears' is not known; did you mean keras?"),
        ("keras@x", "expected a number or latest after the @, as in keras@3, got 'keras@x'"),
        ("keras@", "expected a number or latest after the @"),
        ("keras@\u0663", "expected a number or latest after the @"),
        ("keras@9", "there is no keras@9 in .*/models; see: jobs.models list"),
        ("scratch@latest", "there is no scratch@latest in "),
        ("keras", "keras has no champion in .*/models; promote a version, or name one, as in keras@latest"),
    ],
)
def test_a_name_that_stands_for_no_version_is_refused_with_the_reason(
    name: str, message: str, objects: LocalObjects
) -> None:
    store(objects, "keras", 150, champion=False)
    with pytest.raises(SpecError, match=f"^{message}"):
        find_version(objects, name)


def test_without_a_name_the_most_accurate_champion_is_loaded(objects: LocalObjects) -> None:
    with pytest.raises(SpecError, match="there is no champion in "):
        choose_version(objects)
    store(objects, "keras", 150)
    store(objects, "scratch", 160)
    store(objects, "keras", 190, champion=False)
    assert choose_version(objects).version.name == "scratch@1"
    store(objects, "keras", 160)
    assert choose_version(objects).version.name == "keras@3"  # of equals, the first of the catalog


def test_a_champion_that_cannot_be_read_is_not_replaced_by_another(objects: LocalObjects, tmp_path: Path) -> None:
    store(objects, "keras", 150)
    store(objects, "scratch", 160)
    record = tmp_path / "results/models/keras/champions/mnist/00000001.json"
    record.write_bytes(record.read_bytes().replace(b'"version": 1', b'"version": 2'))
    with pytest.raises(IntegrityError):
        choose_version(objects)
    assert find_version(objects, "scratch").name == "scratch@1"


def test_a_champion_whose_version_is_gone_is_an_integrity_error(objects: LocalObjects, tmp_path: Path) -> None:
    store(objects, "keras", 150)
    (tmp_path / "results/models/keras/commits/00000001.json").unlink()
    with pytest.raises(IntegrityError, match="keras@1: expected a commit record, got none; roll back to another"):
        find_version(objects, "keras")


def test_runs_are_records_with_the_newest_first(objects: LocalObjects, tmp_path: Path, digits: Dataset) -> None:
    store(objects, "keras", 150)  # keras@1, the champion
    summary = made_run(digits, seeds=2).summary
    partial = made_run(digits, seeds=2, failed=1).summary
    for name, document, ended in (("a", summary, "2026-11-01T03:00:00Z"), ("b", partial, "2026-11-02T03:00:00Z")):
        RunFolder(objects, name).complete(structs.replace(document, run=name, ended=ended))
    terms = {"trials": {"keras-s0": {"dataset": "mnist"}}}
    with open_run(objects, "c", dataset="mnist", terms=terms, command="jobs.train", configuration=""):
        pass
    (tmp_path / "results/runs/d").mkdir()
    (tmp_path / "results/runs/d/summary.json").write_text("{}")
    found = mnist_lib.runs(tmp_path / "results")
    assert [(run.name, run.status, run.dataset, run.ended) for run in found] == [
        ("d", "damaged", None, None),
        ("c", "unfinished", "mnist", None),
        ("b", "some failed", "mnist-mini", "2026-11-02T03:00:00Z"),
        ("a", "complete", "mnist-mini", "2026-11-01T03:00:00Z"),
    ]
    models = found[-1].models
    assert {name: model.accuracy for name, model in models.items()} == {
        name: model.best_trial_test_accuracy for name, model in summary.models.items()
    }
    assert [(name, model.version, model.champion) for name, model in models.items()] == [
        ("keras", 1, True),
        ("scratch", 2, False),
    ]
    assert found == mnist_lib.runs(f"file://{tmp_path}/results")


def test_with_a_damaged_champion_log_runs_are_listed_and_the_champion_is_unknown(
    objects: LocalObjects, tmp_path: Path, digits: Dataset
) -> None:
    store(objects, "keras", 150)
    (tmp_path / "results/models/keras/champions/mnist/00000001.json").write_text("{}")
    RunFolder(objects, "a").complete(made_run(digits, seeds=1).summary)
    (run,) = mnist_lib.runs(tmp_path / "results")
    assert [model.champion for model in run.models.values()] == [None, False]


@pytest.fixture(scope="module")
def champion(tensorflow: None, digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose `results` hold a trained champion of keras and a newer version that is not the champion."""
    folder = tmp_path_factory.mktemp("api")
    objects = LocalObjects(folder / "results")
    for run, epochs in (("a", 3), ("b", 1)):
        version = publish_trained(objects, digits, run, TrialSpec.of("keras", hidden_units=32, epochs=epochs))
        promote(objects, version, Rule(promote="if-better"))
    return folder


@pytest.mark.slow
def test_a_loaded_model_predicts_as_it_did_in_its_run(champion: Path, digits: Dataset) -> None:
    environment = dict(os.environ)
    model = mnist_lib.load("keras", storage=champion / "results")
    assert dict(os.environ) == environment  # so that processes that this one starts see the GPUs
    assert model.name == "keras@1"
    images = np.asarray(digits.test.images)
    probabilities = model.predict(images)
    assert (probabilities.shape, probabilities.dtype) == ((1_000, 10), np.dtype("float32"))
    assert int((probabilities.argmax(axis=1) == digits.test.labels).sum()) == model.accuracy.correct
    assert model.accuracy.total == 1_000
    assert model.manifest["record"]["spec"]["epochs"] == 3
    assert model.predict(images[:0]).shape == (0, 10)
    assert "manifest" not in repr(model)
    with pytest.raises(SpecError, match="expected images as uint8"):
        model.predict(images / 255)  # type: ignore[arg-type]
    assert mnist_lib.load("keras@latest", storage=str(champion / "results")).name == "keras@2"
    assert mnist_lib.load(storage=str(champion / "results")).name == "keras@1"


@pytest.mark.long
@pytest.mark.slow
def test_the_example_of_the_package_runs_in_another_folder(champion: Path, digits: Dataset) -> None:
    assert mnist_lib.__doc__ is not None
    example = textwrap.dedent(re.findall(r"(?:^    .*\n|^\n(?=    ))+", mnist_lib.__doc__, re.MULTILINE)[-1])
    assert "mnist_lib.load(" in example
    assert "mnist_lib.runs(" in example
    RunFolder(LocalObjects(champion / "results"), "a").complete(made_run(digits, seeds=1).summary)
    np.save(champion / "images.npy", digits.test.images[:20])
    before, after = (
        "import numpy; images = numpy.load('images.npy')",
        "import json; print(json.dumps(probabilities.tolist()))",
    )
    first, second, last = in_process("\n".join([before, example, after]), champion).splitlines()
    assert re.fullmatch(r"keras@1 \d+ of 1000 test images", first)
    assert second.startswith("a mnist-mini 2026-11-25T03:00:31Z complete ")
    assert np.asarray(json.loads(last)).shape == (20, 10)


@pytest.mark.parametrize(
    ("dataset", "shape"),
    [("mnist-mini", (28, 28, 1)), pytest.param("letters", (20, 32, 3), marks=pytest.mark.long)],
)
def test_a_picture_is_read_as_the_array_that_jobs_predict_gives_the_model(
    dataset: str, shape: tuple[int, int, int], tmp_path: Path
) -> None:
    paper = np.full((60, 90, 3), (250, 240, 230), np.uint8)
    paper[10:40, 30:36] = (20, 30, 40)
    Image.fromarray(paper).save(tmp_path / "one.png")
    manifest = {"record": {"spec": {"dataset": dataset}}, "dataset": {"image_shape": [*shape]}}
    model = mnist_lib.Classifier(
        name="keras@1",
        accuracy=Accuracy(1, 1),
        image_shape=shape,
        classes=("0", "1"),
        manifest=manifest,
        _predict=len,  # type: ignore[arg-type]
    )
    stored: Any = SimpleNamespace(
        manifest=SimpleNamespace(spec=SimpleNamespace(dataset=dataset), dataset=SimpleNamespace(image_shape=shape))
    )
    given: list[np.ndarray] = []

    def predict(images: np.ndarray) -> Answers:
        given.append(images)
        return Answers(np.full((len(images), 2), 0.5, np.float32), np.ones(len(images)))

    assert [*predict_here([read_file(tmp_path / "one.png", StoredModel.layout(stored))], predict)]
    read = mnist_lib.read_picture(str(tmp_path / "one.png"), model)
    assert read.shape == shape
    assert np.array_equal(read, given[0][0])
    (tmp_path / "hostile.jpg").write_bytes(many_scans())
    with pytest.raises(ImageError, match=r"expected a picture that is read within 6 s of processor time"):
        mnist_lib.read_picture(tmp_path / "hostile.jpg", model)
