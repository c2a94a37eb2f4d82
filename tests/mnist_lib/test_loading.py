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

import h5py
import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mnist_lib.api import load_stored
from mnist_lib.catalog import MODELS
from mnist_lib.data.split import Dataset
from mnist_lib.errors import IntegrityError, SpecError
from mnist_lib.loading import compare_with_stored, load_trusted
from mnist_lib.models.building import build_model
from mnist_lib.objects.local import LocalObjects
from mnist_lib.spec import TrialSpec
from mnist_lib.store.contents import StoredModel
from mnist_lib.store.predictions import Predictions
from tests.support.bounds import at_most_processor_seconds
from tests.support.shards import write_shards
from tests.support.store.fake_versions import DATASET, small_manifest
from tests.support.stored import publish_untrained, small_spec

pytestmark = [pytest.mark.usefixtures("tensorflow"), pytest.mark.slow]

Members = dict[str, bytes]


@pytest.fixture
def objects(tmp_path: Path) -> LocalObjects:
    return LocalObjects(tmp_path / "store")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.long if name == "keras-best" else ()) for name in MODELS]
)
def test_a_loaded_version_predicts_what_the_stored_file_does(
    name: str, objects: LocalObjects, digits: Dataset, tmp_path: Path
) -> None:
    version = publish_untrained(objects, name)
    images = digits.train.images[:3_003:3]  # 1,001, one more than a batch
    predict = load_stored(StoredModel.read(objects, version))
    predicted = predict(images)
    assert predicted.shape == (len(images), 10)
    assert np.array_equal(predict(write_shards(tmp_path / "shards", images, per_shard=500)), predicted)
    np.testing.assert_allclose(predicted, load_trusted(objects, version)(images), atol=1e-5)


IMAGES = np.random.default_rng(0).integers(0, 256, (3, 28, 28, 1), np.uint8)


@pytest.mark.parametrize(
    ("images", "got", "advice"),
    [
        (IMAGES / 255, "float64 [3, 28, 28, 1]", "multiply by 255 and convert: (images * 255).round().astype('uint8')"),
        ((IMAGES / 255).astype("float32"), "float32 [3, 28, 28, 1]", "multiply by 255 and convert: (images * 255)"),
        (IMAGES / 127.5 - 1, "float64 [3, 28, 28, 1]", "scale them to 0-255 and convert: images.astype('uint8')"),
        (IMAGES.astype(int), "int64 [3, 28, 28, 1]", "scale them to 0-255 and convert: images.astype('uint8')"),
        (IMAGES[0], "uint8 [28, 28, 1]", "reshape them: images.reshape(-1, 28, 28, 1)"),
        (IMAGES[..., 0], "uint8 [3, 28, 28]", "reshape them: images.reshape(-1, 28, 28, 1)"),
        (IMAGES[:, :8, :8], "uint8 [3, 8, 8, 1]", "resize them"),
        (IMAGES.tolist(), "list []", "convert them with numpy.asarray(images, dtype='uint8')"),
    ],
)
def test_images_of_another_type_or_shape_are_refused_with_advice(
    images: Any, got: str, advice: str, objects: LocalObjects
) -> None:
    message = f"expected images as uint8 [n, 28, 28, 1] pixels 0-255, got {got}; {advice}"
    predict = load_stored(StoredModel.read(objects, publish_untrained(objects, "keras")))
    with pytest.raises(SpecError, match=f"^{re.escape(message)}"):
        predict(images)


def test_weights_that_are_not_those_of_the_manifest_are_refused(objects: LocalObjects) -> None:
    def other_weights(files: Members) -> None:
        spec = TrialSpec.of("scratch", hidden_units=16)
        model = build_model(spec, (28, 28, 1), 10)
        files["weights.npz"] = model.files(model.initial_weights(2))["weights.npz"]

    version = publish_untrained(objects, "scratch", other_weights)
    with pytest.raises(IntegrityError, match=r"scratch@1: expected weights with sha256 \w{64}, got \w{64}"):
        load_stored(StoredModel.read(objects, version))


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


def with_weights(change_file: Callable[[h5py.File], None]) -> Callable[[Members], None]:
    def change(files: Members) -> None:
        members = unzipped(files["model.keras"])
        content = io.BytesIO(members["model.weights.h5"])
        with h5py.File(content, "r+") as file:
            change_file(file)
        files["model.keras"] = zipped({**members, "model.weights.h5": content.getvalue()})

    return change


def external_storage(file: h5py.File) -> None:
    """Store the values of a layer in another file."""
    del file["layers/dense/vars/1"]
    file["layers/dense/vars"].create_dataset("1", (16,), "float32", external=[("/etc/passwd", 0, 64)])


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((16,), "float32")
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", (16,))
    del file["layers/dense/vars/1"]
    file["layers/dense/vars"].create_virtual_dataset("1", layout)


def external_link(file: h5py.File) -> None:
    del file["layers/dense/vars/1"]
    file["layers/dense/vars/1"] = h5py.ExternalLink("/etc/passwd", "x")


def soft_link(file: h5py.File) -> None:
    file["layers/more"] = h5py.SoftLink("/layers")


def loop(file: h5py.File) -> None:
    file["layers/again"] = file["layers"]


def compressed_bomb(file: h5py.File) -> None:
    del file["layers/dense/vars/1"]
    file["layers/dense/vars"].create_dataset("1", (1 << 31,), "uint8", compression="gzip", chunks=(1 << 20,))


def never_written(file: h5py.File) -> None:
    """Reading gives four gigabytes, although the file holds none."""
    del file["layers/dense/vars/1"]
    file["layers/dense/vars"].create_dataset("1", (1 << 30,), "float32")


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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_layer(LAMBDA), "expected the layers .*, got .*Lambda"),
        (with_layer(TFSM), "expected the layers .*, got .*TFSMLayer"),
        (
            with_member("../../canary", b"slip"),
            "expected config.json, metadata.json, model.weights.h5, got ../../canary",
        ),
        (with_member("/tmp/canary", b"slip"), "expected config.json, metadata.json, model.weights.h5, got /tmp/canary"),
        (with_member("model.weights.h5", bytes(1 << 28)), "expected at most .* bytes, got 268,435,456"),
        (with_member("config.json", b"[" * (1 << 21)), "config.json: expected at most 1,048,576 bytes, got 2,097,152"),
        (with_member("config.json", b"[" * (1 << 19)), "config.json: expected the configuration of a Sequential model"),
        (with_weights(external_storage), "expected .* bytes of numbers, .*got /layers/dense/vars/1"),
        (with_weights(virtual), "expected .* bytes of numbers, .*got /layers/dense/vars/1"),
        (with_weights(external_link), "no links, got /layers/dense/vars/1"),
        (with_weights(soft_link), "no links, got /layers/more"),
        (with_weights(loop), "expected .* bytes of numbers, .*got /layers/again|expected at most .* objects"),
        (with_weights(compressed_bomb), "expected .* bytes of numbers, .*got .* uint8"),
        (with_weights(never_written), "expected .* bytes of numbers, .*got .* float32"),
        (with_member("model.weights.h5", b"\x89HDF\r\n\x1a\n" + bytes(1000)), "expected an HDF5 file"),
        (lambda files: files.update({"model.keras": b"PK\3\4"}), "expected a zip archive"),
        (of_another_kind, "expected a file model.keras"),
        (
            lambda files: files.update({"manifest.json": manifest_of(model="os:system")}),
            "model: 'os:system' is not known",
        ),
        (
            lambda files: files.update({"manifest.json": manifest_of(arguments={"hidden_units": 65_536})}),
            "as large as its largest layer",
        ),
        (
            lambda files: files.update({"manifest.json": manifest_of((-28, 28, 1))}),
            r">= 1 at `\$.dataset.image_shape\[0\]`",
        ),
        (
            lambda files: files.update({"manifest.json": manifest_of(classes=1_001)}),
            r"length <= 1000 at `\$.dataset.classes`",
        ),
        (
            lambda files: files.update({"manifest.json": manifest_of((225, 1, 1))}),
            r"<= 224 at `\$.dataset.image_shape\[0\]`",
        ),
        (
            lambda files: files.update({"manifest.json": manifest_of(("28", "28", "1"))}),
            r"Expected `int`, got `str` at `\$.dataset.image_shape\[0\]`",
        ),
        (
            lambda files: files.update({"manifest.json": manifest_of(arguments=[["hidden_units", 512]])}),
            r"Expected `object`, got `array` at `\$.spec.arguments`",
        ),
        (
            lambda files: files.update({"manifest.json": b"[]"}),
            "manifest.json: expected JSON, got other content: Expected `object`, got `array`",
        ),
        (lambda files: files.update({"manifest.json": b"["}), "manifest.json: expected JSON"),
        (lambda files: files.update({"manifest.json": b"{}"}), "missing required field `spec`"),
    ],
)
def test_files_that_do_not_fit_the_model_are_refused_and_neither_run_nor_unpacked(
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
        (
            npz(**{**GOOD, "bias_1": np.array([print], object)}),
            r"bias_1: expected a NumPy header of numbers, got b.*'descr': '[|]O'",
        ),
        (npz(**{**GOOD, "bias_1": np.zeros(11, np.float32)}), r"expected float32 \(10,\), got float32 \(11,\)"),
        (npz(**{**GOOD, "bias_1": np.zeros(1 << 20, np.float32)}), r"expected at most .* bytes, got 4,194,432"),
        (npz(**{**GOOD, "more": np.zeros(1)}), r"got .*more.npy"),
        (zipped({**unzipped(npz(**GOOD)), "bias_1.npy": b"not numpy"}), r"bias_1: "),
    ],
)
def test_arrays_that_do_not_fit_the_model_are_refused(content: bytes, message: str, objects: LocalObjects) -> None:
    version = publish_untrained(objects, "scratch", lambda files: files.update({"weights.npz": content}))
    with pytest.raises(IntegrityError, match=rf"^scratch@1: weights.npz: .*{message}"):
        load_stored(StoredModel.read(objects, version))


def broken(files: Members) -> None:
    files["model.keras"] = b"PK\3\4"


def without_layers(files: Members) -> None:
    members = unzipped(files["model.keras"])
    files["model.keras"] = zipped({**members, "config.json": b"null"})


@pytest.mark.parametrize("change", [broken, without_layers, of_another_kind])
def test_a_broken_model_that_is_trusted_is_reported_as_damaged(
    change: Callable[[Members], object], objects: LocalObjects
) -> None:
    version = publish_untrained(objects, "keras", change)
    with pytest.raises(IntegrityError, match=r"^keras@1: expected a model that predicts, got an error: .*$"):
        load_trusted(objects, version)


@pytest.mark.parametrize("got", [np.zeros((3, 4), np.float32), np.full((3, 10), np.nan), np.full((3, 10), "a")])
def test_a_trusted_model_with_other_outputs_is_reported_as_damaged(
    got: Any, objects: LocalObjects, digits: Dataset
) -> None:
    test, probabilities = digits.test, np.zeros((3, 10), np.float32)
    stored = Predictions("keras@1", 3, probabilities, test.labels[:3], digits.classes, test.hashes[:3])
    with pytest.raises(IntegrityError, match=r"keras@1: expected finite float32 \(3, 10\), got "):
        compare_with_stored(stored, lambda images: got, digits.test.take(np.arange(3)))


def reached(content: bytes) -> object:
    """Return the weights in a file of Keras, or the text of our own error; any other exception is a failure."""
    model = build_model(small_spec("keras"), (28, 28, 1), 10)
    try:
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
def test_s11_a_single_changed_byte_of_the_weights_is_our_error_or_changes_numbers(
    place: int, change: int, keras_members: Members
) -> None:
    content = bytearray(keras_members["model.weights.h5"])
    content[place % len(content)] ^= change
    found = reached(zipped({**keras_members, "model.weights.h5": bytes(content)}))
    assert not isinstance(found, str) or re.match(r"model.keras: [^\n]*$", found)
