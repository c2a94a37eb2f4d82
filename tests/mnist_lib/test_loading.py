"""A loaded model predicts the same as the trained one, and files that somebody else put into the store run no code."""

import io
import json
import re
import tracemalloc
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mnist_lib.api import load_stored
from mnist_lib.catalog import MODELS
from mnist_lib.data.dataset import Dataset
from mnist_lib.documents import reading
from mnist_lib.errors import IntegrityError, SpecError
from mnist_lib.loading import compare_with_stored
from mnist_lib.models.building import build_model
from mnist_lib.objects.local import LocalObjects
from mnist_lib.spec import TrialSpec
from mnist_lib.store.contents import StoredModel
from mnist_lib.store.predictions import Predictions
from mnist_lib.store.versions import version_folder
from tests.support.bounds import at_most_processor_seconds
from tests.support.pixel_files import write_pixels
from tests.support.store.fake_versions import DATASET, small_manifest
from tests.support.stored import LARGEST, publish_untrained, small_spec

pytestmark = [pytest.mark.usefixtures("tensorflow"), pytest.mark.slow]

Members = dict[str, bytes]


@pytest.fixture
def objects(tmp_path: Path) -> LocalObjects:
    return LocalObjects(tmp_path / "store")


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.long if name in ("keras-best", LARGEST) else ()) for name in MODELS],
)
def test_a_loaded_version_predicts_what_the_stored_file_does(
    name: str, objects: LocalObjects, digits: Dataset, tmp_path: Path
) -> None:
    version = publish_untrained(objects, name)
    images = digits.train.images[:3_003:3]  # 1,001, one more than a batch
    predict = load_stored(StoredModel.read(objects, version))
    predicted = predict(images)
    assert predicted.shape == (len(images), 10)
    assert np.array_equal(predict(write_pixels(tmp_path / "pixels", images)), predicted)
    folder = tmp_path / "store" / version_folder(name, 1)
    if "model.keras" in version.files:
        got = keras.saving.load_model(folder / "model.keras").predict_on_batch(images)
    else:
        served = tf.saved_model.load(str(folder / "saved_model"))
        got = served.serve(images)
    np.testing.assert_allclose(predicted, got, atol=1e-5)


IMAGES = np.random.default_rng(0).integers(0, 256, (3, 28, 28, 1), np.uint8)


@pytest.mark.parametrize(
    ("images", "got"),
    [
        ((IMAGES / 255).astype("float32"), "float32 [3, 28, 28, 1]"),
        (IMAGES.astype(int), "int64 [3, 28, 28, 1]"),
        (IMAGES[0], "uint8 [28, 28, 1]"),
        (IMAGES[..., 0], "uint8 [3, 28, 28]"),
        (IMAGES[:, :8, :8], "uint8 [3, 8, 8, 1]"),
        (IMAGES.tolist(), "list []"),
    ],
)
def test_images_of_another_type_or_shape_are_refused_with_advice(images: Any, got: str, objects: LocalObjects) -> None:
    message = f"expected images as uint8 [n, 28, 28, 1] pixels 0-255, got {got}; resize them, and convert"
    predict = load_stored(StoredModel.read(objects, publish_untrained(objects, "keras")))
    with pytest.raises(SpecError, match=f"^{re.escape(message)}"):
        predict(images)


def test_a_flipped_byte_is_found_before_anything_is_opened(objects: LocalObjects, tmp_path: Path) -> None:
    version = publish_untrained(objects, "keras")
    path = tmp_path / "store/models/keras/versions/1/model.keras"
    content = path.read_bytes()
    path.write_bytes(content[:1000] + bytes([content[1000] ^ 1]) + content[1001:])
    with pytest.raises(IntegrityError, match=r"keras@1: model.keras: expected sha256"):
        load_stored(StoredModel.read(objects, version))


def unzipped(content: bytes) -> Members:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(members: Members, compression: int = zipfile.ZIP_STORED) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", compression) as archive:
        for name, member in members.items():
            archive.writestr(name, member)
    return content.getvalue()


def with_layer(layer: dict[str, Any]) -> Callable[[Members], None]:
    """Add a layer to the configuration."""

    def change(files: Members) -> None:
        members = unzipped(files["model.keras"])
        config = json.loads(members["config.json"])
        config["config"]["layers"].append(layer)
        files["model.keras"] = zipped({**members, "config.json": json.dumps(config).encode()})

    return change


def of_another_kind(files: Members) -> None:
    """Leave only the file of a model from scratch, since a version without any cannot be published."""
    files["weights.npz"] = files.pop("model.keras")


def with_member(name: str, content: bytes) -> Callable[[Members], None]:
    def change(files: Members) -> None:
        members = {**unzipped(files["model.keras"]), name: content}
        files["model.keras"] = zipped(members, zipfile.ZIP_DEFLATED)

    return change


def without_weights(files: Members) -> None:
    members = unzipped(files["model.keras"])
    del members["model.weights.h5"]
    files["model.keras"] = zipped(members)


CODE: dict[str, Any] = keras.saving.serialize_keras_object(keras.layers.Lambda(lambda x: open("canary", "w") and x))  # noqa: SIM115, PTH123
LAMBDA: dict[str, Any] = {**CODE, "build_config": {"input_shape": [None, 10]}}
TFSM: dict[str, Any] = {
    "module": "keras.layers",
    "class_name": "TFSMLayer",
    "config": {"name": "served", "filepath": "/tmp/saved_model", "call_endpoint": "serve"},
    "registered_name": None,
}


def manifest_of(image_shape: Sequence[object] = (28, 28, 1), classes: int = 10, **changes: Any) -> bytes:
    dataset = {**DATASET, "image_shape": image_shape, "classes": [*map(str, range(classes))]}
    return json.dumps(small_manifest(spec={**asdict(TrialSpec.of("keras")), **changes}, dataset=dataset)).encode()


@pytest.mark.parametrize("layer", [LAMBDA, TFSM], ids=["Lambda", "TFSMLayer"])
def test_p11_a_layer_that_would_run_code_is_not_read(
    layer: dict[str, Any], objects: LocalObjects, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = LocalObjects(tmp_path / "other")
    changed = publish_untrained(objects, "keras", with_layer(layer))
    versions = ((objects, changed), (other, publish_untrained(other, "keras")))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    predicted, expected = (load_stored(StoredModel.read(storage, version))(IMAGES) for storage, version in versions)
    assert np.array_equal(predicted, expected)
    assert not list(Path.cwd().iterdir())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_member("bomb", bytes(1 << 30)), "expected at most 1,000,000,000 unpacked bytes, got "),
        (with_member("model.weights.h5", b"\x89HDF\r\n\x1a\n" + bytes(1000)), "Unable to synchronously open file"),
        (without_weights, "no item named 'model.weights.h5'"),
        (lambda files: files.update({"model.keras": b"PK\3\4"}), "File is not a zip file"),
        (of_another_kind, "KeyError: 'model.keras'"),
        (
            lambda files: files.update({"manifest.json": manifest_of(model="os:system")}),
            "model: 'os:system' is not known",
        ),
        (
            lambda files: files.update({"manifest.json": manifest_of(arguments={"hidden_units": 8})}),
            "expected the files of its model, got other content: .*",
        ),
        (
            lambda files: files.update({"manifest.json": manifest_of((-28, 28, 1))}),
            r">= 1 at `\$.dataset.image_shape\[0\]`",
        ),
        (
            lambda files: files.update({"manifest.json": manifest_of(("28", "28", "1"))}),
            r"Expected `int`, got `str` at `\$.dataset.image_shape\[0\]`",
        ),
        (
            lambda files: files.update({"manifest.json": manifest_of(arguments=[["hidden_units", 512]])}),
            r"Expected `object`, got `array` at `\$.record.spec.arguments`",
        ),
        (
            lambda files: files.update({"manifest.json": b"[]"}),
            "manifest.json: expected JSON, got other content: Expected `object`, got `array`",
        ),
        (lambda files: files.update({"manifest.json": b"["}), "manifest.json: expected JSON"),
        (
            lambda files: files.update({"manifest.json": b"{}"}),
            "got other content: KeyError: 'history'",
        ),
    ],
)
def test_s11_files_that_do_not_fit_the_model_are_refused_and_neither_run_nor_unpacked(
    change: Callable[[Members], object],
    message: str,
    objects: LocalObjects,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    version = publish_untrained(objects, "keras", change)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with at_most_processor_seconds(5):
        tracemalloc.start()
        try:
            with pytest.raises(IntegrityError, match=rf"^keras@1: .*{message}"):
                load_stored(StoredModel.read(objects, version))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < 100 << 20
    assert not list(Path.cwd().iterdir())
    assert {path.name for path in tmp_path.iterdir()} == {"store", "elsewhere"}
    assert not Path("/tmp/canary").exists()


def npz(**arrays: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)  # type: ignore[arg-type]
    return content.getvalue()


GOOD: dict[str, Any] = {
    "kernel_0": np.zeros((784, 16), np.float32),
    "bias_0": np.zeros(16, np.float32),
    "kernel_1": np.zeros((16, 10), np.float32),
    "bias_1": np.zeros(10, np.float32),
}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (npz(**{**GOOD, "bias_1": np.array([print], object)}), "Object arrays cannot be loaded"),
        (npz(**{**GOOD, "bias_1": np.zeros(11, np.float32)}), r"cannot reshape array of size 11 into shape \(10,\)"),
        (npz(**{name: array for name, array in GOOD.items() if name != "bias_1"}), "bias_1"),
        (zipped({**unzipped(npz(**GOOD)), "bias_1.npy": b"not numpy"}), "the magic string is not correct"),
        (b"PK", "File is not a zip file"),
    ],
)
def test_arrays_that_do_not_fit_the_model_are_refused(content: bytes, message: str, objects: LocalObjects) -> None:
    version = publish_untrained(objects, "scratch", lambda files: files.update({"weights.npz": content}))
    with pytest.raises(IntegrityError, match=rf"^scratch@1: expected the files of its model, got .*{message}"):
        load_stored(StoredModel.read(objects, version))


@pytest.mark.parametrize("got", [np.zeros((3, 4), np.float32), np.zeros(7), np.full((3, 10), "a")])
def test_a_trusted_model_with_other_outputs_is_reported_as_damaged(
    got: Any, objects: LocalObjects, digits: Dataset
) -> None:
    test, probabilities = digits.test, np.zeros((3, 10), np.float32)
    stored = Predictions("keras@1", 3, probabilities, test.labels[:3], digits.classes, test.hashes[:3])
    with pytest.raises(IntegrityError, match=r"keras@1: expected a model with predictions as they are stored, got "):
        compare_with_stored(stored, lambda images: got, digits.test.take(np.arange(3)))


def reached(content: bytes) -> object:
    """Return the weights in a file of Keras, or the text of our own error; any other exception is a failure."""
    model = build_model(small_spec("keras"), (28, 28, 1), 10)
    try:
        with reading("keras@1"):
            return model.read({"model.keras": content})
    except IntegrityError as error:
        return str(error)


@pytest.fixture(scope="module")
def keras_members(tensorflow: None) -> Members:
    model = build_model(small_spec("keras"), (28, 28, 1), 10)
    return unzipped(model.files(model.initial_weights(1))["model.keras"])


@pytest.mark.fuzz
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 40_000), change=st.integers(1, 255))
@example(place=6_081, change=255)  # the type of an object's header: h5py raises a RuntimeError
@pytest.mark.long
def test_s11_a_single_changed_byte_of_the_weights_is_our_error_or_changes_numbers(
    place: int, change: int, keras_members: Members
) -> None:
    content = bytearray(keras_members["model.weights.h5"])
    content[place % len(content)] ^= change
    found = reached(zipped({**keras_members, "model.weights.h5": bytes(content)}))
    assert not isinstance(found, str) or re.match(r"keras@1: [^\n]*$", found)
