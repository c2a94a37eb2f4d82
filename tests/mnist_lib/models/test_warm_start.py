"""A trial that starts from a stored version has its weights, and otherwise what its own seed says."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mnist_lib.errors import ModelError
from mnist_lib.model_file import ModelFile
from mnist_lib.models.building import WarmStart, build_model, warm_start
from mnist_lib.models.model import ImageShape, Weights
from mnist_lib.models.pretrained import Pretrained, StoredWeights
from mnist_lib.spec import TrialSpec

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("tensorflow")]

OWN = ModelFile.read(Path(__file__).parents[2] / "support/own_models.py")
DIGITS, LETTERS, USAGE_TAIL = (tuple(classes) for classes in ("0123456789", "ABCDEFGHIJ", "0123456789ABC"))
SHAPE = (16, 16, 1)


def stored(spec: TrialSpec, image_shape: ImageShape = SHAPE) -> tuple[StoredWeights, Weights]:
    """Return a stored version of digits, and its weights."""
    model = build_model(spec, image_shape, len(DIGITS), OWN if spec.source_sha256 else None)
    trained = ([v + 0.25 if v.dtype.is_floating else v for v in kind] for kind in model.initial_weights(99))
    weights = Weights(*trained)
    return StoredWeights(f"{spec.model}@3", model.files(weights), image_shape, DIGITS), weights


def started(
    version: StoredWeights, spec: TrialSpec, classes: tuple[str, ...] = DIGITS, image_shape: ImageShape = SHAPE
) -> tuple[WarmStart, Any]:
    spec, source = replace(spec, init_from=version.name, init_sha256="a" * 64), OWN if spec.source_sha256 else None
    model, pretrained = build_model(spec, image_shape, len(classes), source), Pretrained(versions={"a" * 64: version})
    return warm_start(model, spec, image_shape, classes, source, pretrained), model


def of_catalog(model: str, **arguments: int) -> TrialSpec:
    return TrialSpec.of(model, arguments=arguments)


def own(model: str) -> TrialSpec:
    return TrialSpec.of(model, source_sha256=OWN.sha256)


@pytest.mark.parametrize("spec", [of_catalog("scratch", hidden_units=8), of_catalog("keras-cnn"), own("small_resnet")])
def test_every_seed_starts_from_the_same_weights_with_random_states_of_its_own(spec: TrialSpec) -> None:
    version, weights = stored(spec)
    start, model = started(version, spec)
    assert start.notice == ""
    for seed in (4, 5):
        initial, drawn = start.initial_weights(seed), model.initial_weights(seed)
        assert model.stored(initial).sha256() == model.stored(weights).sha256()
        integers = [number for number, value in enumerate(drawn.state) if not value.dtype.is_floating]
        assert all(np.array_equal(initial.state[n], drawn.state[n]) for n in integers)
        assert bool(integers) == (spec.model != "scratch")


@pytest.mark.parametrize("classes", [LETTERS, USAGE_TAIL])
@pytest.mark.parametrize(
    ("spec", "drawn_weights"),
    [
        (of_catalog("scratch", hidden_units=8), [2, 3]),
        (of_catalog("keras-cnn"), [9, 10]),
        (own("frozen"), [2, 3]),
        (own("SoftmaxRegression"), [0, 1]),
    ],
)
def test_with_other_classes_all_weights_but_those_of_the_last_layer_are_taken(
    spec: TrialSpec, drawn_weights: list[int], classes: tuple[str, ...]
) -> None:
    version, weights = stored(spec)
    start, model = started(version, spec, classes)
    initial, drawn = start.initial_weights(5), model.initial_weights(5)
    assert start.notice == (
        f"all weights of {spec.model} but those of the last layer are from {spec.model}@3, since the classes differ"
    )
    for number, value in enumerate(initial.trainable):
        expected = drawn if number in drawn_weights else weights
        assert np.array_equal(value, expected.trainable[number]), number
    for value, one, other in zip(initial.state, weights.state, drawn.state, strict=True):
        assert np.array_equal(value, one if value.dtype.is_floating else other)


def test_images_of_another_size_are_refused_only_if_a_weight_does_not_fit() -> None:
    spec = of_catalog("keras-resnet", width=4, blocks=1)
    version, weights = stored(spec, (20, 24, 1))
    start, _ = started(version, spec)
    assert all(map(np.array_equal, start.initial_weights(0).trainable, weights.trainable))
    spec = of_catalog("keras", hidden_units=8)
    version, _ = stored(spec, (20, 24, 1))
    with pytest.raises(ModelError) as error:
        started(version, spec)
    assert str(error.value) == (
        "keras: keras@3: weight 1: expected float32 (256, 8), got float32 (480, 8); use images of the same shape, or"
        " leave out --init-from"
    )


@pytest.mark.parametrize("model", ["keras", "scratch"])
def test_a_version_of_another_architecture_is_refused_in_one_line(model: str) -> None:
    version, _ = stored(of_catalog(model, hidden_units=8))
    with pytest.raises(ModelError, match=rf"{model}: expected a model with the weights of {model}@3, .* got another: "):
        started(version, of_catalog(model, hidden_units=9))


def test_a_manifest_that_claims_huge_images_takes_no_memory() -> None:
    spec = of_catalog("keras")
    version, _ = stored(spec)
    with pytest.raises(ModelError, match="expected weights of up to 1,000,000,000 bytes, got 137,438,953,472"):
        started(replace(version, image_shape=(4_096, 4_096, 4)), spec)
