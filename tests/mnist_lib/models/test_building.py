"""A user's model is trained, resumed, mirrored and stored like one of the catalog; errors in it name its lines."""

import re
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from mnist_lib.data.dataset import Dataset
from mnist_lib.errors import ModelError
from mnist_lib.model_file import SOURCE_FILE, ModelFile
from mnist_lib.models.building import build_model, check_model
from mnist_lib.results import CheckpointTaken, TrialFailure, TrialResult, TrialStarted
from mnist_lib.spec import TrialSpec
from mnist_lib.training.assignment import Assignment, Resources
from mnist_lib.training.trial import WorkerPlace, run_trials
from tests.support.digits import few_digits
from tests.support.own_trials import OWN, Run, own, result_of

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("tensorflow")]

FORMS = ["small_resnet", "sequential", "list_of_layers", "frozen", "Subclass", "not_for_xla", "SoftmaxRegression"]
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
    assert [event.resumed_after for event in events if isinstance(event, TrialStarted)] == [0, 1]
    whole, resumed = [event for event in events if isinstance(event, TrialResult)]
    assert resumed.record.weights_sha256 == whole.record.weights_sha256
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
    assert isinstance(started, TrialStarted)
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
        (  # as weights="imagenet" does
            "def f(s, n):\n  keras.utils.get_file('mnist-jobs-no.h5', 'http://127.0.0.1:9/no.h5')",
            "mine.py, line 3: expected weights from a file, got weights that Keras downloads, .* add --weights: see",
        ),
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
    assert result.record.weights_sha256 != result_of(run(own("small_resnet"))).record.weights_sha256


@pytest.mark.long
def test_a_trial_of_a_user_model_does_not_depend_on_the_trials_before_it(digits: Dataset, run: Run) -> None:
    specs = [replace(own("small_resnet"), seed=seed) for seed in (0, 1)]
    few = few_digits(digits)
    assignments = [Assignment(spec, source=OWN) for spec in specs]
    events = [*run_trials(assignments, lambda: few, Resources(cpus=2), WorkerPlace(node="here"))]
    (after,) = [event for event in events if isinstance(event, TrialResult) and event.record.spec == specs[1]]
    assert after.record.weights_sha256 == result_of(run(specs[1])).record.weights_sha256


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
    (started,) = [event for event in events if isinstance(event, TrialStarted)]
    assert started.notices == ("f has nothing to train: none of its weights is trainable",)
    assert len(result_of(events).history) == 1
