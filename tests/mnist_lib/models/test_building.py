"""A user's model is trained, resumed, mirrored and stored like one of the catalog; errors in it name its lines."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from mnist_lib.assignment import Assignment, Resources
from mnist_lib.data import batches
from mnist_lib.data.split import Dataset
from mnist_lib.errors import ModelError
from mnist_lib.model_file import SOURCE_FILE, ModelFile
from mnist_lib.models.building import build_model, check_model
from mnist_lib.models.keras_models import KerasModel
from mnist_lib.models.model import Weights
from mnist_lib.pretrained import NOTHING, Pretrained, WeightsFile
from mnist_lib.results import CheckpointTaken, Started, TrialEvent, TrialFailure, TrialResult
from mnist_lib.spec import TrialSpec
from mnist_lib.training import trial
from mnist_lib.training.loop import is_given
from mnist_lib.training.trial import WorkerPlace, run_trials
from tests.support.digits import few_digits
from tests.support.results import epochs_in

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("tensorflow")]

OWN = ModelFile.read(Path(__file__).parents[2] / "support/own_models.py")
FORMS = ["small_resnet", "sequential", "list_of_layers", "frozen", "Subclass", "not_for_xla", "SoftmaxRegression"]


def own(
    name: str, epochs: int = 2, batch_size: int = 50, freeze_epochs: int | None = None, **arguments: Any
) -> TrialSpec:
    spec = TrialSpec.of(
        name, source_sha256=OWN.sha256, epochs=epochs, global_batch_size=batch_size, arguments=arguments
    )
    return replace(spec, freeze_epochs=freeze_epochs)


Run = Callable[..., list[TrialEvent]]


@pytest.fixture
def run(digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr(trial, "configure_process", lambda resources: None)  # done by the fixture `tensorflow`
    few = few_digits(digits)

    def run(
        spec: TrialSpec,
        source: ModelFile = OWN,
        replicas: int = 1,
        checkpoint: bytes | None = None,
        before: Sequence[TrialEvent] = (),
        *,
        resumed: bool = False,
        pretrained: Pretrained = NOTHING,
        checkpoint_seconds: float = 0,
    ) -> list[TrialEvent]:
        """Train in a new lane. resumed: train again in that lane, from the checkpoint of the first epoch."""
        events: list[TrialEvent] = []

        def assignments() -> Iterator[Assignment]:
            yield Assignment(spec, checkpoint, source, epochs=epochs_in(before))
            if resumed:
                (taken,) = [event for event in events if isinstance(event, CheckpointTaken)]
                yield Assignment(spec, taken.content, source, epochs=epochs_in(events))

        resources = Resources(cpus=2, cpu_replicas=replicas)
        place, given = WorkerPlace(node="here"), (lambda: pretrained)
        for event in run_trials(assignments(), lambda: few, resources, place, checkpoint_seconds, pretrained=given):
            events.append(event)  # at once, since `assignments` reads them
        return events

    return run


def result_of(events: list[TrialEvent]) -> TrialResult:
    assert isinstance(events[-1], TrialResult), events[-1]
    return events[-1]


QUICK = ("sequential", "Subclass")  # the other forms are `long`
EACH_FORM = [name if name in QUICK else pytest.param(name, marks=pytest.mark.long) for name in FORMS]


@pytest.mark.parametrize("name", EACH_FORM)
def test_a_resumed_user_model_ends_with_the_same_weights(name: str, run: Run) -> None:
    replicas = 2 - FORMS.index(name) % 2  # one trains a whole chunk in XLA, unless XLA refuses; two train step by step
    if name in ("small_resnet", "Subclass"):  # in another lane
        events = run(own(name), replicas=replicas)
        (checkpoint,) = [event for event in events if isinstance(event, CheckpointTaken)]
        events += run(own(name), replicas=replicas, checkpoint=checkpoint.content, before=events)
    else:
        events = run(own(name), replicas=replicas, resumed=True)
    assert [event.resumed_after for event in events if isinstance(event, Started)] == [0, 1]
    whole, resumed = [event for event in events if isinstance(event, TrialResult)]
    assert resumed.weights_sha256 == whole.weights_sha256
    assert whole.files[SOURCE_FILE] == OWN.content


@pytest.mark.long
def test_two_replicas_of_a_residual_network_learn_what_one_learns(run: Run) -> None:
    spec = own("residual", epochs=3)  # 24 steps
    one, two = (result_of(run(spec, replicas=replicas)) for replicas in (1, 2))
    np.testing.assert_allclose(one.probabilities, two.probabilities, atol=1e-4)


@pytest.mark.parametrize("name", EACH_FORM)
def test_the_stored_files_of_a_user_model_contain_its_weights(name: str, digits: Dataset) -> None:
    model = build_model(own(name), digits.image_shape, 10, OWN)
    weights, images = model.initial_weights(3), tf.constant(digits.test.images[:20])
    read = model.read(model.files(weights))
    assert model.stored(read).sha256() == model.stored(weights).sha256()
    np.testing.assert_array_equal(model.logits(read, images), model.logits(weights, images))


@pytest.mark.parametrize("name", ["small_resnet", "residual", "sequential", "list_of_layers", "frozen", "Subclass"])
def test_the_features_of_a_model_are_what_its_last_layer_receives(name: str, digits: Dataset) -> None:
    model = build_model(own(name), digits.image_shape, 10, OWN)
    weights, images = model.initial_weights(3), tf.constant(digits.test.images[:20])
    kernel = next(
        value
        for value in reversed([*weights.trainable, *weights.state])
        if len(value.shape) == 2 and value.shape[1] == 10
    )
    features, logits = tf.function(model.features)(weights, images)
    np.testing.assert_allclose(logits, model.logits(weights, images), atol=1e-5)
    assert features.shape == (20, min(kernel.shape[0], 256))
    if kernel.shape[0] <= 256:  # the bias starts at 0
        np.testing.assert_allclose(features @ kernel, logits, atol=1e-4)


def test_augmentation_of_keras_acts_in_training_only(digits: Dataset) -> None:
    model = build_model(own("small_resnet", dropout=0.0), digits.image_shape, 10, OWN)
    weights, images = model.initial_weights(0), tf.constant(digits.test.images[:20])
    again = weights._replace(state=model.train_logits(weights, images, tf.constant(0))[1])
    one, other = (
        model.train_logits(weights, images, tf.constant(0))[0],
        model.train_logits(again, images, tf.constant(0))[0],
    )
    assert (one.numpy() != other.numpy()).any()
    np.testing.assert_array_equal(model.logits(weights, images), model.logits(weights, images))


def test_a_model_that_xla_cannot_compile_is_trained_without_xla_with_a_notice(run: Run) -> None:
    _, started, *others = run(own("not_for_xla"))
    assert isinstance(started, Started)
    expected = "not_for_xla is trained without XLA, which cannot compile ImageProjectiveTransformV3"
    assert started.notices == (expected,)
    assert len(result_of(others).history) == 2


def file_of(text: str) -> ModelFile:
    return ModelFile(name="mine.py", content=f"import keras\n{text}".encode())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def f(s, n):\n  return None", "mine.py, line 2: f: expected a keras.Model, a list .*, got NoneType"),
        ("def f(s, n):\n  x = 1\n  return y", "mine.py, line 4: NameError: name 'y' is not defined"),
        ("import not_installed\ndef f(s, n): ...", "mine.py, line 2: ModuleNotFoundError: No module named"),
        ("def f(s, n):\n  exit()", "mine.py, line 3: SystemExit"),
        ("def f(s): ...", r"mine.py, line 2: f: TypeError: f\(\) takes 1 positional argument but 2 were given"),
        (
            "def f(s, n):\n  return [keras.layers.Flatten(), keras.layers.Dense(n + 1)]",
            r"mine.py, line 2: f: expected logits of the shape \(batch, 10\) and the type float32, got \(2, 11\)",
        ),
        (
            "def f(s, n):\n  return [keras.layers.Flatten(), keras.layers.Dense(n, activation='softmax')]",
            "mine.py, line 2: f: expected logits of the 10 classes, got a softmax; leave it out",
        ),
        (
            "def f(s, n):\n  return [keras.layers.Dense(n)]",
            r"mine.py, line 2: f: expected logits of the shape \(batch, 10\) and the type float32, got \(2, 8, 8, 10\)",
        ),
        ("def f(s, n):\n  return [keras.layers.Conv2D(4, 99)]", "mine.py, line 2: f: ValueError: "),
        (
            "shared = keras.layers.Dense(10)\ndef f(s, n):\n  return [keras.layers.Flatten(), shared]",
            "expected new layers at each call of the function, got the same; create them inside it",
        ),
        (
            "class f(keras.Model):\n  def __init__(self, s, n):\n    super().__init__()\n"
            "    self.d = keras.layers.Dense(n)\n"
            "  def call(self, x):\n    return self.d(keras.ops.reshape(x, (-1, 64)))",
            "mine.py, line 2: f: NotImplementedError: .*get_config",
        ),
        (
            "def f(s, n):\n  return [keras.layers.Flatten(), keras.layers.Dense(n, dtype='bfloat16')]",
            "mine.py, line 2: f: expected logits of the shape .* and the type float32, got .*bfloat16",
        ),
        (
            "def f(s, n):\n  x = keras.Input(s)\n  y = keras.layers.Dense(n)(keras.layers.Flatten()(x))\n"
            "  return keras.Model(x, keras.ops.softmax(y))",
            "mine.py, line 2: f: expected logits of the 10 classes, got a softmax; leave it out",
        ),
        (
            "def f(s, n):\n  return keras.Sequential([keras.Input((5, 5, 1)), keras.layers.Flatten()])",
            "mine.py, line 2: f: ValueError: Input 0 .* is incompatible with the layer: expected shape=.* found",
        ),
        (
            "from mnist_lib.errors import IntegrityError\ndef f(s, n):\n  raise IntegrityError('damaged')",
            "mine.py, line 4: IntegrityError: damaged",
        ),
    ],
)
def test_m1_an_error_in_a_model_file_is_reported_with_its_line(text: str, message: str) -> None:
    source = file_of(text)
    with pytest.raises(ModelError, match=f"^{message}") as raised:
        check_model(TrialSpec.of("f", source_sha256=source.sha256), (8, 8, 1), 10, source)
    assert "\n" not in str(raised.value)


COMPILED = """import numpy as np

def network(s, n):
  x = keras.Input(s)
  y = keras.layers.Dense(n)(keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(x)))
  model = keras.Model(x, y)
  model.compile('adam', loss='mse', metrics=['mae'])
  return model

def fitted(s, n):
  model = network(s, n)
  model.fit(np.zeros((4, *s)), np.zeros((4, n)), verbose=0)
  return model

def nested(s, n):
  return [keras.layers.Dropout(0.1), network(s, n)]

def plain(s, n):
  return [keras.layers.Rescaling(1 / 255), keras.layers.Flatten(), keras.layers.Dense(n)]
"""


@pytest.mark.parametrize("name", ["network", "fitted", "nested"])
def test_w13_a_compiled_model_is_stored_without_its_optimizer(name: str, digits: Dataset) -> None:
    source = file_of(COMPILED)
    specs = [TrialSpec.of(name, source_sha256=source.sha256) for name in (name, "plain")]
    check_model(specs[0], digits.image_shape, 10, source)
    files = []
    for spec in specs:
        model = build_model(spec, digits.image_shape, 10, source)
        files.append(model.files(model.initial_weights(0))["model.keras"])
    assert len(files[0]) < 1.5 * len(files[1])


@pytest.mark.long  # tests of the commands check two other forms
@pytest.mark.parametrize("name", ["list_of_layers", "frozen", "Subclass", "SoftmaxRegression"])
def test_a_user_model_passes_the_check_before_training(name: str) -> None:
    check_model(own(name), (28, 28, 1), 10, OWN)


@pytest.mark.long
def test_a_user_model_trains_in_bfloat16_and_keeps_float32_weights(run: Run) -> None:
    result = result_of(run(replace(own("small_resnet"), precision="bfloat16")))
    assert result.weights_sha256 != result_of(run(own("small_resnet"))).weights_sha256


def test_a_trial_of_a_user_model_does_not_depend_on_the_trials_before_it(digits: Dataset, run: Run) -> None:
    specs = [replace(own("small_resnet"), seed=seed) for seed in (0, 1)]
    few = few_digits(digits)
    assignments = [Assignment(spec, source=OWN) for spec in specs]
    events = [*run_trials(assignments, lambda: few, Resources(cpus=2), WorkerPlace(node="here"))]
    (after,) = [event for event in events if isinstance(event, TrialResult) and event.spec == specs[1]]
    assert after.weights_sha256 == result_of(run(specs[1])).weights_sha256


@pytest.fixture
def raising() -> ModelFile:
    return file_of(
        "class Bad(keras.layers.Layer):\n"
        "  def call(self, x, training=False):\n"
        "    if training:\n"
        "      raise KeyError('no such key')\n"
        "    return x\n"
        "def f(s, n):\n"
        "  return [Bad(), keras.layers.Flatten(), keras.layers.Dense(n)]\n"
    )


def test_m1_an_error_in_training_fails_only_the_trial_and_names_its_line(raising: ModelFile, run: Run) -> None:
    _, failure = run(TrialSpec.of("f", source_sha256=raising.sha256, epochs=1), raising)
    assert isinstance(failure, TrialFailure)
    assert (failure.code, failure.trial) == ("E-MODEL", "f-s0")
    assert failure.message.startswith("mine.py, line 5: KeyError: ")


def test_m1_an_error_of_keras_in_training_is_an_error_of_the_model(run: Run) -> None:
    text = "def f(s, n):\n  x = keras.Input(s)\n  y = keras.ops.reshape(x, (2, s[0] * s[1] * s[2]))\n"
    source = file_of(text + "  return keras.Model(x, keras.layers.Dense(n)(y))")
    spec = TrialSpec.of("f", source_sha256=source.sha256, epochs=1)
    check_model(spec, (28, 28, 1), 10, source)  # with two images
    *_, failure = run(spec, source)
    assert isinstance(failure, TrialFailure)
    assert failure.code == "E-MODEL"
    assert re.match(r"mine.py, line 2: f: \w+Error: .*reshape", failure.message)
    assert "Traceback" in failure.details


@pytest.mark.long
@pytest.mark.parametrize("replicas", [1, 2])
def test_w13_a_model_with_nothing_to_train_is_measured_with_a_notice(replicas: int, run: Run) -> None:
    layers = "keras.layers.Rescaling(1 / 255), keras.layers.Flatten(), keras.layers.Dense(n)"
    source = file_of(f"def f(s, n):\n  model = keras.Sequential([{layers}])\n  model.trainable = False\n  return model")
    events = run(
        TrialSpec.of("f", source_sha256=source.sha256, epochs=1, global_batch_size=50), source, replicas=replicas
    )
    (started,) = [event for event in events if isinstance(event, Started)]
    assert started.notices == ("f has nothing to train: none of its weights is trainable",)
    assert len(result_of(events).history) == 1


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
    content, blanks = model.files(one), pretrained.blanks(spec.weights)
    assert sum(map(len, blanks.values())) < len(body.content) / 10
    stored = build_model(spec, digits.image_shape, 10, OWN, Pretrained.read_blanks(spec.weights, blanks, "version"))
    assert stored.read(content).sha256() == one.sha256()


@pytest.mark.parametrize(
    ("name", "arrays", "expected"),
    [
        ("shifted_by_file", {"offset": 0.5}, "expected a network whose variables have all numbers .* got other"),
        ("fine_tuned", {"kernel": np.ones((3, 3))}, r"own_models.py, line \d+: ValueError: .*"),
    ],
)
def test_weights_of_another_network_and_numbers_outside_variables_are_refused(
    name: str, arrays: dict[str, Any], expected: str, digits: Dataset, tmp_path: Path
) -> None:
    path = tmp_path / "file.npz"
    np.savez(path, **arrays)
    file = WeightsFile.read(path)
    spec = fine_tuned({"shift" if name == "shifted_by_file" else "body": file}, name)
    with pytest.raises(ModelError, match=expected) as refused:
        check_model(spec, digits.image_shape, 10, OWN, Pretrained({file.sha256: file}))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("replicas", [1, 2])
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
        assert result_of(resumed).weights_sha256 == whole.weights_sha256, epoch


def test_a_trial_says_that_nothing_is_frozen_if_no_weight_is_given(run: Run) -> None:
    (started,) = [event for event in run(own("sequential", freeze_epochs=1)) if isinstance(event, Started)]
    assert "--freeze-epochs freezes nothing" in started.notices[0]
