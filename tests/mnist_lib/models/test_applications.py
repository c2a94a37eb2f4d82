"""Networks for photographs start from weights that Keras has saved, and take images of any size and colours."""

import re
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.src.legacy.saving import legacy_h5_format

from mnist_lib.catalog import MODELS
from mnist_lib.data import batches
from mnist_lib.errors import ModelError, SpecError
from mnist_lib.models.building import build_model
from mnist_lib.models.keras_models import KerasModel
from mnist_lib.models.model import ImageShape
from mnist_lib.models.pretrained import Pretrained, WeightsFile, files_by_model
from mnist_lib.results import CheckpointTaken
from mnist_lib.spec import TrialSpec
from tests.support.own_trials import Run, result_of
from tests.support.stored import LARGEST, small_spec

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("tensorflow")]

NETWORKS = {
    "keras-mobilenet": keras.applications.MobileNetV3Small,
    "keras-efficientnet": keras.applications.EfficientNetV2B0,
}
SHAPE = (40, 32, 3)


def starting_from(file: WeightsFile, model: str = "keras-mobilenet", shape: ImageShape = SHAPE) -> KerasModel:
    spec = small_spec(model, weights={"backbone": file.sha256}, augment="none")
    built = build_model(spec, shape, 3, None, Pretrained({file.sha256: file}))
    assert isinstance(built, KerasModel)
    return built


@pytest.fixture(scope="module")
def saved(tensorflow: None, tmp_path_factory: pytest.TempPathFactory) -> WeightsFile:
    """Weights of MobileNetV3Small, saved as the guide says."""
    return saved_by(NETWORKS["keras-mobilenet"](include_top=False, weights=None), tmp_path_factory.mktemp("saved"))


def saved_by(network: keras.Model, folder: Path) -> WeightsFile:
    network.save_weights(folder / "network.weights.h5")
    return WeightsFile.read(folder / "network.weights.h5")


@pytest.mark.parametrize(
    "model", [pytest.param(name, marks=pytest.mark.long if name == LARGEST else ()) for name in NETWORKS]
)
@pytest.mark.parametrize("with_top", [False, True])
def test_a_network_starts_from_the_weights_that_keras_has_saved_of_it(
    model: str, with_top: bool, tmp_path: Path
) -> None:
    keras.utils.set_random_seed(5)
    network = NETWORKS[model](include_top=with_top, weights=None)
    expected = {value.tobytes() for value in network.get_weights()}
    built = starting_from(saved_by(network, tmp_path), model)
    drawn, again = built.initial_weights(0), built.initial_weights(1)
    *body, kernel, bias = drawn.trainable
    assert all(np.asarray(value).tobytes() in expected for value in body)
    assert not np.array_equal(kernel, again.trainable[-2])
    assert kernel.shape == (body[-1].shape[-1], 3)
    assert bias.shape == (3,)


def test_a_file_in_the_older_format_of_keras_is_read(saved: WeightsFile, tmp_path: Path) -> None:
    """It is the format of the files that Keras downloads."""
    network = NETWORKS["keras-mobilenet"](include_top=False, weights=None)
    (tmp_path / "saved.weights.h5").write_bytes(saved.content)
    network.load_weights(tmp_path / "saved.weights.h5")
    with h5py.File(tmp_path / "older_no_top.h5", "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, network)
    older = starting_from(WeightsFile.read(tmp_path / "older_no_top.h5"))
    assert older.initial_weights(0).sha256() == starting_from(saved).initial_weights(0).sha256()


def test_a_stored_version_is_built_without_the_file(saved: WeightsFile) -> None:
    built = starting_from(saved)
    weights = built.initial_weights(0)
    spec = small_spec("keras-mobilenet", weights={"backbone": saved.sha256})
    stored = build_model(spec, SHAPE, 3, None, Pretrained.of_version(spec.weights))
    assert stored.stored(stored.read(built.files(weights))).sha256() == built.stored(weights).sha256()


def test_weights_of_another_network_are_refused_in_one_line(saved: WeightsFile, tmp_path: Path) -> None:
    other = keras.applications.MobileNetV2(include_top=False, weights=None, alpha=0.35)
    for model, file in (("keras-mobilenet", saved_by(other, tmp_path)), ("keras-efficientnet", saved)):
        name = NETWORKS[model].__name__
        with pytest.raises(ModelError, match=rf"^backbone: expected weights that Keras has saved of {name}") as refused:
            starting_from(file, model)
        assert len(str(refused.value)) < 400
        assert "\n" not in str(refused.value)


def test_files_are_for_the_models_that_take_them(saved: WeightsFile, tmp_path: Path) -> None:
    path = tmp_path / "saved.weights.h5"
    path.write_bytes(saved.content)
    files = files_by_model(["keras-resnet", "keras-mobilenet"], {}, {"backbone": path})
    assert files == {"keras-resnet": {}, "keras-mobilenet": {"backbone": saved}}
    with pytest.raises(SpecError, match="expected an argument of keras-resnet that takes a file, got backbone; arg"):
        files_by_model(["keras-resnet"], {}, {"backbone": path})
    for model, name in (("keras-resnet", "backbone"), ("keras-mobilenet", "min_side"), ("keras-mobilenet", "body")):
        with pytest.raises(SpecError, match=f"^weights: expected arguments of {model} that take a file"):
            TrialSpec.of(model, weights={name: saved.sha256})


def test_grey_and_transparent_images_look_to_a_network_as_they_do_to_people(saved: WeightsFile) -> None:
    """A grey image is one of three equal colours, and transparent areas are white."""
    random = np.random.default_rng(0)
    grey = random.integers(0, 256, (2, 40, 32, 1), np.uint8)
    colours = random.integers(0, 256, (2, 40, 32, 3), np.uint8)
    opacity = random.choice(np.array([0, 255], np.uint8), (2, 40, 32, 1))
    logits = []
    for images in (
        grey,
        grey.repeat(3, axis=3),
        np.concatenate([colours, opacity], axis=3),
        np.where(opacity == 255, colours, 255).astype(np.uint8),
    ):
        built = starting_from(saved, shape=images.shape[1:])
        found = built.logits(built.initial_weights(0), tf.constant(images)).numpy()
        logits.append(found / found.std())  # random weights make them as small as 1e-11
    np.testing.assert_allclose(logits[0], logits[1], atol=0.01)
    np.testing.assert_allclose(logits[2], logits[3], atol=0.01)
    assert not np.allclose(logits[0], logits[2], atol=0.01)


@pytest.mark.parametrize(("shape", "min_side", "expected"), [((40, 32, 3), 96, (120, 96)), ((40, 32, 3), 32, (40, 32))])
def test_small_images_are_enlarged(shape: ImageShape, min_side: int, expected: tuple[int, int]) -> None:
    spec = TrialSpec.of("keras-mobilenet", arguments={"min_side": min_side}, augment="none")
    built = build_model(spec, shape, 3)
    assert isinstance(built, KerasModel)
    (body,) = [layer for layer in built.network().layers[-1].layers if isinstance(layer, keras.Model)]
    assert body.input_shape[1:3] == expected


def test_averages_of_batch_normalisation_forget_what_they_began_with(saved: WeightsFile) -> None:
    built = starting_from(saved)
    layers = [layer for layer in built.network()._flatten_layers() if hasattr(layer, "moving_mean")]
    assert len(layers) == 34
    assert {(layer.momentum, layer.epsilon) for layer in layers} == {(0.9, 0.001)}


@pytest.mark.long
@pytest.mark.parametrize(("replicas", "model"), [(2, "keras-mobilenet"), (1, "keras-efficientnet")])
def test_a_trial_killed_within_an_epoch_ends_with_the_same_weights_in_another_lane(
    replicas: int, model: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "STEPS_PER_CHUNK", 1)
    spec = small_spec(model, epochs=2, global_batch_size=50, augment="photos,flip=horizontal", validation_percent=0)
    events = run(spec, replicas=replicas, checkpoint_seconds=1e-9)
    whole = result_of(events).record.weights_sha256
    taken = {event.epoch: event.content for event in events if isinstance(event, CheckpointTaken)}
    (within,) = [epoch for epoch in taken if 1 < epoch < 1.5]
    resumed = run(spec, replicas=replicas, checkpoint=taken[within], before=events)
    assert result_of(resumed).record.weights_sha256 == whole


@pytest.mark.parametrize("name", MODELS)
def test_a_model_takes_a_file_if_its_name_is_one_of_these(name: str) -> None:
    assert MODELS[name].weights == (("backbone",) if name in NETWORKS else ())


def test_messages_name_the_models_that_take_a_file() -> None:
    with pytest.raises(SpecError, match=re.escape(f"models that take one: {', '.join(NETWORKS)}, and a function")):
        files_by_model(["keras"], {}, {"backbone": Path("none.weights.h5")})
