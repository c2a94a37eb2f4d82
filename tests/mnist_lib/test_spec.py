from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnist_lib.catalog import MODELS, OPTIMIZERS, require_known
from mnist_lib.documents import builtins_of, decode, encode
from mnist_lib.errors import SpecError
from mnist_lib.settings import MAX_SEED
from mnist_lib.spec import TrialSpec, trial_grid
from mnist_lib.training.assignment import Resources


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("epochs", -1),
        ("epochs", 1.5),
        ("epochs", True),
        ("epochs", 10**9),
        ("learning_rate", 0.0),
        ("learning_rate", -0.1),
        ("learning_rate", float("nan")),
        ("learning_rate", float("inf")),
        ("global_batch_size", 0),
        ("seed", -1),
        ("seed", MAX_SEED + 1),
        ("hidden_units", 0),
        ("validation_percent", -1),
        ("validation_percent", 51),
        ("label_smoothing", -0.1),
        ("label_smoothing", 1.0),
    ],
)
def test_i2_the_error_names_the_field_its_range_and_the_invalid_value(field: str, value: Any) -> None:
    with pytest.raises(SpecError, match=rf"{field.removeprefix('global_')}: expected .*, got {value}"):
        TrialSpec.of("keras", **{field: value})


@pytest.mark.parametrize(
    ("field", "value", "similar"),
    [("model", "kera", "keras"), ("optimizer", "rmsprob", "rmsprop")],
)
def test_i1_the_error_for_an_unknown_name_suggests_a_similar_one(field: str, value: str, similar: str) -> None:
    fields: dict[str, Any] = {"model": "keras", **{field: value}}
    with pytest.raises(SpecError, match=f"{field}: '{value}' is not known; did you mean {similar}\\? known: "):
        TrialSpec.of(**fields)


def test_the_error_for_a_name_unlike_any_known_name_makes_no_suggestion() -> None:
    with pytest.raises(SpecError, match="'zzz' is not known; known: a, b"):
        require_known("field", "zzz", ["a", "b"])


@pytest.mark.parametrize("model", MODELS)
def test_the_defaults_of_a_spec_are_those_of_its_model(model: str) -> None:
    spec = TrialSpec.of(model)
    assert spec.optimizer == MODELS[model].optimizer
    assert spec.learning_rate == (MODELS[model].learning_rate or OPTIMIZERS[spec.optimizer])
    assert spec.schedule == MODELS[model].schedule
    assert spec.arguments == {name: size.default for name, size in MODELS[model].arguments.items()}


@pytest.mark.parametrize(("batch_size", "learning_rate"), [(8, 0.0025), (16, 0.005), (32, 0.01), (128, 0.01)])
def test_small_batches_of_keras_resnet_have_a_lower_learning_rate(batch_size: int, learning_rate: float) -> None:
    """With 0.01 and batches of 16, a seed may learn nothing."""
    assert TrialSpec.of("keras-resnet", global_batch_size=batch_size).learning_rate == learning_rate
    assert TrialSpec.of("keras-resnet", global_batch_size=batch_size, learning_rate=0.1).learning_rate == 0.1
    assert TrialSpec.of("keras-cnn", global_batch_size=batch_size).learning_rate == 0.01
    with pytest.raises(SpecError, match="batch_size: expected a whole number"):
        TrialSpec.of("keras-resnet", global_batch_size="a")


def test_a_file_of_weights_has_a_lower_default_rate_and_frozen_first_epochs() -> None:
    weights = {"backbone": "0" * 64}
    spec = TrialSpec.of("keras-mobilenet", weights=weights, epochs=80)
    assert spec.learning_rate == pytest.approx(0.0009)
    assert spec.freeze_epochs == 20
    sgd = TrialSpec.of("keras-mobilenet", weights=weights, optimizer="sgd", freeze_epochs=0, epochs=80)
    assert sgd.learning_rate == pytest.approx(0.003)
    assert sgd.freeze_epochs == 0
    given = TrialSpec.of("keras-mobilenet", weights=weights, learning_rate=0.01, freeze_epochs=3)
    assert (given.learning_rate, given.freeze_epochs) == (0.01, 3)
    assert TrialSpec.of("own", source_sha256="0" * 64, weights=weights).freeze_epochs is None


def test_another_optimizer_has_its_own_default_learning_rate() -> None:
    assert TrialSpec.of("keras", optimizer="sgd").learning_rate == OPTIMIZERS["sgd"]
    assert TrialSpec.of("keras-cnn", optimizer="sgd").learning_rate == OPTIMIZERS["sgd"]


@given(st.lists(st.integers(0, MAX_SEED), min_size=1, max_size=20, unique=True))
def test_a_grid_has_every_model_with_every_seed_and_distinct_ids(seeds: list[int]) -> None:
    trials = trial_grid(MODELS, seeds)
    assert [(trial.model, trial.seed) for trial in trials] == [(model, seed) for model in MODELS for seed in seeds]
    assert len({trial.id for trial in trials}) == len(trials)


@pytest.mark.parametrize(
    ("models", "seeds"), [(["keras", "keras"], [0]), (["keras"], [1, 1]), ([], [0]), (["keras"], [])]
)
def test_an_empty_grid_and_one_with_repetitions_are_refused(models: list[str], seeds: list[int]) -> None:
    with pytest.raises(SpecError, match="models and seeds: expected"):
        trial_grid(models, seeds)


def test_cpu_replicas_are_refused_with_gpus() -> None:
    with pytest.raises(SpecError, match="cpu_replicas: expected 1 on GPUs, got 2 with 1 GPU"):
        Resources(gpus=1, cpu_replicas=2)


@pytest.mark.parametrize(
    ("model", "batch_size", "microbatches"),
    [("keras-cnn", 128, 2), ("keras-cnn", 127, 1), ("keras", 128, 1), ("keras-resnet", 256, 1)],
)
def test_a_spec_of_a_version_without_microbatches_has_as_many_as_it_was_trained_with(
    model: str, batch_size: int, microbatches: int
) -> None:
    document = builtins_of(TrialSpec.of(model, global_batch_size=batch_size))
    assert document.pop("microbatches") == microbatches
    spec = decode(encode(document), TrialSpec, "a spec")
    assert spec == TrialSpec.of(model, global_batch_size=batch_size, microbatches=microbatches)
    one = replace(spec, microbatches=1)
    assert decode(encode(one), TrialSpec, "a spec") == one


def test_a_spec_with_an_impossible_number_of_microbatches_is_refused() -> None:
    with pytest.raises(SpecError, match="microbatches: expected a whole number"):
        TrialSpec.of("keras", microbatches=-1)
