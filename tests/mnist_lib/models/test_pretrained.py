"""A user's model starts from the weights in a file, is stored without it, and can be frozen at first."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mnist_lib.data import batches
from mnist_lib.data.dataset import Dataset
from mnist_lib.errors import ModelError
from mnist_lib.models.building import build_model, check_model
from mnist_lib.models.keras_models import KerasModel
from mnist_lib.models.model import Weights
from mnist_lib.models.pretrained import Pretrained, WeightsFile
from mnist_lib.results import CheckpointTaken, TrialResult, TrialStarted
from mnist_lib.spec import TrialSpec
from mnist_lib.training.trainer import is_given
from tests.support.own_trials import OWN, Run, own, result_of

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("tensorflow")]


def fine_tuned(files: Mapping[str, WeightsFile], name: str = "fine_tuned", **settings: Any) -> TrialSpec:
    weights = {argument: file.sha256 for argument, file in files.items()}
    spec = TrialSpec.of(name, source_sha256=OWN.sha256, epochs=3, global_batch_size=50, weights=weights)
    return replace(spec, **settings)


@pytest.fixture
def body(digits: Dataset, tmp_path: Path) -> WeightsFile:
    """The weights of another network than any seed draws."""
    model = build_model(own("fine_tuned"), digits.image_shape, 10, OWN)
    assert isinstance(model, KerasModel)
    network = model.network().layers[1].get_layer("body")
    network.set_weights([np.linspace(-0.05, 0.05, w.size).reshape(w.shape) for w in network.get_weights()])
    network.save_weights(tmp_path / "body.weights.h5")
    return WeightsFile.read(tmp_path / "body.weights.h5")


def test_a_model_starts_from_the_weights_of_a_file_and_is_stored_without_it(digits: Dataset, body: WeightsFile) -> None:
    files = {"body": body}
    spec, pretrained = fine_tuned(files), Pretrained({body.sha256: body})
    check_model(spec, digits.image_shape, 10, OWN, pretrained)
    model = build_model(spec, digits.image_shape, 10, OWN, pretrained)
    one, other = model.initial_weights(1), model.initial_weights(2)
    assert is_given(model.initial_weights) == [True, True, False, False]
    assert is_given(lambda seed: Weights(model.initial_weights(seed).trainable[:2], [])) == [False, False]
    assert not np.array_equal(one.trainable[2], other.trainable[2])
    stored = build_model(spec, digits.image_shape, 10, OWN, Pretrained.of_version(spec.weights))
    assert stored.read(model.files(one)).sha256() == one.sha256()


@pytest.mark.parametrize(
    ("name", "arrays", "expected"),
    [
        ("shifted_by_file", {"offset": 0.5}, "expected a network that copies all numbers .* got other"),
        (
            "scaled_by_file",
            {"offset": 0.5},
            r"own_models.py, line \d+: .*; expected a function that also builds the network with None for shift",
        ),
        ("fine_tuned", {"kernel": np.ones((3, 3))}, r"own_models.py, line \d+: ValueError: .*"),
    ],
)
def test_weights_of_another_network_and_numbers_outside_variables_are_refused(
    name: str, arrays: dict[str, Any], expected: str, digits: Dataset, tmp_path: Path
) -> None:
    path = tmp_path / "file.npz"
    np.savez(path, **arrays)
    file = WeightsFile.read(path)
    spec = fine_tuned({"body" if name == "fine_tuned" else "shift": file}, name)
    with pytest.raises(ModelError, match=expected) as refused:
        check_model(spec, digits.image_shape, 10, OWN, Pretrained({file.sha256: file}))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("replicas", [pytest.param(1, marks=pytest.mark.long), 2])
def test_frozen_epochs_leave_given_weights_as_they_are_and_a_resumed_trial_ends_with_the_same_weights(
    replicas: int, run: Run, body: WeightsFile, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "STEPS_PER_CHUNK", 2)
    pretrained = Pretrained({body.sha256: body})
    spec = fine_tuned({"body": body}, freeze_epochs=2, weight_decay=0.1, validation_percent=0)
    model = build_model(spec, digits.image_shape, 10, OWN, pretrained)
    given = [np.asarray(weight) for weight in model.initial_weights(0).trainable[:2]]

    def weights_after(result: TrialResult) -> list[NDArray[np.float32]]:
        return [np.asarray(weight) for weight in model.read(result.files).trainable]

    head = result_of(run(replace(spec, epochs=2), replicas=replicas, pretrained=pretrained))
    assert all(map(np.array_equal, weights_after(head), given))
    assert not np.array_equal(weights_after(head)[2], model.initial_weights(0).trainable[2])
    events = run(spec, replicas=replicas, pretrained=pretrained, checkpoint_seconds=1e-9)
    whole = result_of(events)
    assert not any(map(np.array_equal, weights_after(whole), given))
    taken = {event.epoch: event.content for event in events if isinstance(event, CheckpointTaken)}
    for epoch in (2, 2.5):  # as weights are unfrozen, and after it
        resumed = run(spec, replicas=replicas, checkpoint=taken[epoch], before=events, pretrained=pretrained)
        assert result_of(resumed).record.weights_sha256 == whole.record.weights_sha256, epoch


def test_a_trial_says_that_nothing_is_frozen_if_no_weight_is_given(run: Run) -> None:
    (started,) = [event for event in run(own("sequential", freeze_epochs=1)) if isinstance(event, TrialStarted)]
    assert "--freeze-epochs freezes nothing" in started.notices[0]
