"""Keras layers as a model, and the Keras models of the catalog."""

import contextlib
import functools
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import keras
import tensorflow as tf

from mnist_lib.errors import ModelError
from mnist_lib.models.augmentation import Augmentation, distorted, shifted, stroked
from mnist_lib.models.layers import AveragedOverAngles, FusedBatchNormalization, to_predict
from mnist_lib.models.model import ImageShape, Tensors, Weights, folded, read_files
from mnist_lib.objects.archives import keras_weights

KERAS_FILE = "model.keras"


def keras_dense(image_shape: ImageShape, num_classes: int, hidden_units: int) -> list[keras.Layer]:
    """Return the network of the notebook of "Deep Learning with Python": one hidden dense layer with relu."""
    return [
        keras.layers.Rescaling(1 / 255),
        keras.layers.Flatten(),
        keras.layers.Dense(hidden_units, activation="relu"),
        keras.layers.Dense(num_classes),
    ]


def keras_cnn(image_shape: ImageShape, num_classes: int, hidden_units: int) -> list[keras.Layer]:
    """Return a network of two convolutions, chosen for accuracy per second: see benchmarks/README.md."""
    padding = _padding(image_shape)
    return [
        keras.layers.Rescaling(1 / 255),
        keras.layers.Conv2D(24, 5, use_bias=False, padding=padding),
        keras.layers.MaxPooling2D(padding=padding),
        *_normalized_relu(),
        keras.layers.Conv2D(32, 3, use_bias=False, padding=padding),
        keras.layers.MaxPooling2D(padding=padding),
        *_normalized_relu(),
        keras.layers.Flatten(),
        keras.layers.Dropout(0.1),
        keras.layers.Dense(hidden_units, use_bias=False),
        *_normalized_relu(),
        keras.layers.Dropout(0.1),
        keras.layers.Dense(num_classes),
    ]


def keras_fast(image_shape: ImageShape, num_classes: int, hidden_units: int) -> list[keras.Layer]:
    """Return a network that is accurate after seconds of training: see benchmarks/README.md.

    Its first convolution takes large steps, so that the others have a quarter of the positions to compute.
    """
    padding = _padding(image_shape)
    return [
        keras.layers.Rescaling(1 / 255),
        keras.layers.Conv2D(32, 6, strides=2, use_bias=False, padding=padding),
        *_normalized_relu(),
        keras.layers.Conv2D(32, 3, use_bias=False, padding=padding),
        keras.layers.MaxPooling2D(padding=padding),
        *_normalized_relu(),
        keras.layers.Flatten(),
        keras.layers.Dense(hidden_units, use_bias=False),
        *_normalized_relu(),
        keras.layers.Dense(num_classes),
    ]


def keras_best(image_shape: ImageShape, num_classes: int, width: int) -> list[keras.Layer]:
    """Return a network of five convolutions, `width` channels at first.

    Its prediction is the average over the image as it is and turned by 7 degrees in each direction: see
    benchmarks/README.md.
    """
    layers = [keras.layers.Conv2D(width, 5, use_bias=False, padding=_padding(image_shape))]
    layers += [keras.layers.MaxPooling2D(padding="same"), *_normalized_relu()]
    for channels in (2 * width, 4 * width):
        for _ in range(2):
            layers += [keras.layers.Conv2D(channels, 3, use_bias=False, padding="same"), *_normalized_relu()]
        layers += [keras.layers.MaxPooling2D(padding="same")]
    layers += [keras.layers.Flatten(), keras.layers.Dropout(0.3), keras.layers.Dense(num_classes)]
    network = keras.Sequential([keras.Input(image_shape), *layers])
    angles = [math.radians(degrees) for degrees in (0, -7, 7)]
    return [keras.layers.Rescaling(1 / 255), AveragedOverAngles(network, angles)]


def keras_resnet(
    image_shape: ImageShape, num_classes: int, width: int, blocks: int, positions: int
) -> list[keras.Layer]:
    """Return a small residual network (He et al., 2016): three stages of `blocks` blocks, `width` channels at first.

    Args:
        positions: minimum number of positions of the first convolution along a side of a square image. It takes larger
            steps in larger images, so that the same network sees as much of an object: see `first_step`.
    """
    images = features = keras.Input(image_shape)
    step = first_step(image_shape, positions)
    kernel = 3 if step == 1 else 2 * step + 1
    features = keras.layers.Conv2D(width, kernel, strides=step, padding="same", use_bias=False)(features)
    for stage in range(3):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            features = _residual_block(features, width * 2**stage, stride)
    for layer in _normalized_relu():
        features = layer(features)
    features = keras.layers.GlobalAveragePooling2D()(features)
    logits = keras.layers.Dense(num_classes)(features)
    return [keras.layers.Rescaling(1 / 255), keras.Model(images, logits)]


def first_step(image_shape: ImageShape, positions: int) -> int:
    """Return the step in pixels of the first convolution of `keras_resnet`.

    It is the largest power of two that leaves at least `positions` positions along a side, that of a square of the same
    area. A position of the last stage sees 25 steps. With steps of one pixel, that is too little for the shape of an
    object in 64 x 64 pixels, but enough for its background: see benchmarks/tried.md.
    """
    side = math.sqrt(math.prod(image_shape[:2]))
    return 2 ** max(0, int(math.log2(side / positions)))


def _padding(image_shape: ImageShape) -> str:
    return "same" if min(image_shape[:2]) < 16 else "valid"  # 8x8 images would shrink to nothing


def _residual_block(inputs: keras.KerasTensor, channels: int, stride: int) -> keras.KerasTensor:
    """Normalise, activate and convolve twice, then add the inputs (He et al., 2016, "Identity Mappings")."""
    features = inputs
    for step in (stride, 1):
        for layer in _normalized_relu():
            features = layer(features)
        features = keras.layers.Conv2D(channels, 3, strides=step, padding="same", use_bias=False)(features)
    if inputs.shape[-1] != channels:
        inputs = keras.layers.Conv2D(channels, 1, strides=stride, use_bias=False)(inputs)
    return keras.layers.Add()([inputs, features])


def _normalized_relu() -> list[keras.Layer]:
    # A short memory for the moving averages, since an epoch has only a few hundred steps.
    return [FusedBatchNormalization(momentum=0.9), keras.layers.ReLU()]


def own_augmentations(model: str, image_shape: ImageShape, arguments: Mapping[str, int]) -> list[Augmentation]:
    """Return what changes the training images of a model of the catalog, if they are grey and no setting says so.

    Args:
        arguments: those that the model is built with.
    """
    if model == "keras-resnet":  # by up to one step: a fixed number of pixels would be a smaller shift in larger images
        return [functools.partial(shifted, pixels=first_step(image_shape, arguments["positions"]))]
    by_model: dict[str, list[Augmentation]] = {"keras-cnn": [shifted], "keras-best": [stroked, distorted]}
    return by_model.get(model, [])


class KerasModel:
    """Keras layers that end in logits; the stored model ends in their softmax.

    Args:
        layers: the layers of the model.
        new_layers: returns new layers at each call, since a seed determines the initial weights of new layers only.
        precision: the type in which the layers compute in training; the weights are always float32.
    """

    def __init__(
        self,
        layers: Sequence[keras.Layer],
        new_layers: Callable[[], Sequence[keras.Layer]],
        image_shape: ImageShape,
        precision: str,
    ) -> None:
        self._new_layers, self._image_shape = new_layers, image_shape
        self._network = self._in_training = self._network_of(layers)
        self.activation_bytes = 2 * 4 * max(map(_output_size, self._network._flatten_layers()))
        if precision == "bfloat16":
            with restored_settings():
                keras.config.set_dtype_policy("mixed_bfloat16")
                self._in_training = self.network()
        # On a CPU, XLA takes 20 times as long for convolutions, whose kernels have four axes, and 30 times as long for
        # random numbers.
        convolves = any(len(variable.shape) > 3 for variable in self._network.variables)
        paths = [variable.path for variable in self._network.non_trainable_variables]
        self._is_seed = [path.endswith("seed_generator_state") for path in paths]
        self.fast_in_xla_on_cpu = precision == "float32" and not convolves and not any(self._is_seed)

    def initial_weights(self, seed: int) -> Weights:
        keras.utils.set_random_seed(seed)  # layers without a seed of their own draw from the global one
        network = self.network()
        if {id(variable) for variable in self._network.variables} & {id(variable) for variable in network.variables}:
            raise ModelError("expected new layers at each call of the function, got the same; create them inside it")
        return self._values_of(network)

    def logits(self, weights: Weights, images: tf.Tensor) -> tf.Tensor:
        # Keras' own augmentation acts unless `training` is False; None is not enough.
        return self._network.stateless_call(weights.trainable, weights.state, images, training=False)[0]

    def features(self, weights: Weights, images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with _inputs_of(self._last_layer) as inputs:
            logits = self.logits(weights, images)
        return _features(inputs[0], logits) if inputs else logits, logits

    def train_logits(
        self, weights: Weights, images: tf.Tensor, replica: tf.Tensor
    ) -> tuple[tf.Tensor, Tensors, tf.Tensor]:
        own = self._shift_seeds(weights.state, replica)
        logits, state, losses = self._in_training.stateless_call(
            weights.trainable, own, images, training=True, return_losses=True
        )
        loss = tf.add_n([tf.cast(loss, tf.float32) for loss in losses]) if losses else tf.constant(0.0)
        return tf.cast(logits, tf.float32), self._shift_seeds(state, -replica), loss

    def without_dropout(self) -> None:
        """Train without dropout from now on, since XLA draws other random numbers than TensorFlow."""
        for layer in _leaves(self._in_training):
            if isinstance(layer, keras.layers.Dropout):
                layer.rate = 0.0

    def _shift_seeds(self, state: Tensors, by: tf.Tensor) -> Tensors:
        """Add a number to the first half of each seed; a step changes only the second half."""
        shift = tf.stack([by, 0])
        pairs = zip(self._is_seed, state, strict=True)
        return [value + tf.cast(shift, value.dtype) if is_seed else value for is_seed, value in pairs]

    def stored(self, weights: Weights) -> Weights:
        """Return the weights without seeds, which Keras does not store."""
        pairs = zip(self._is_seed, weights.state, strict=True)
        return weights._replace(state=[value for is_seed, value in pairs if not is_seed])

    def files(self, weights: Weights) -> dict[str, bytes]:
        variables = *self._to_store.trainable_variables, *self._to_store.non_trainable_variables
        for variable, value in zip(variables, (*weights.trainable, *weights.state), strict=True):
            variable.assign(value)
        with tempfile.TemporaryDirectory() as folder:
            self._to_store.save(Path(folder, KERAS_FILE))
            return read_files(Path(folder))

    def read(self, files: Mapping[str, bytes]) -> Weights:
        with tempfile.NamedTemporaryFile(suffix=".weights.h5") as file:
            file.write(keras_weights(files[KERAS_FILE]))
            file.flush()
            self._to_store.load_weights(file.name)
        return self._values_of(self._to_store)

    def network(self) -> keras.Sequential:
        """Return a new network that ends in logits."""
        return self._network_of(self._new_layers())

    @property
    def _last_layer(self) -> keras.Layer | None:
        """The last layer with weights of its own, which computes the logits in most models."""
        with_weights = [layer for layer in _leaves(self._network) if layer.weights]
        return with_weights[-1] if with_weights else None

    @functools.cached_property
    def _to_store(self) -> keras.Sequential:
        """The network as it is stored: not compiled, since an optimizer would double the size of the file."""
        layers = map(to_predict, self._network.layers)
        return self._network_of([*layers, keras.layers.Softmax(name="probabilities")], dtype="uint8")

    def _network_of(self, layers: Sequence[keras.Layer], dtype: str = "float32") -> keras.Sequential:
        return keras.Sequential([keras.Input(self._image_shape, dtype=dtype, name="pixels"), *layers])

    def _values_of(self, network: keras.Sequential) -> Weights:
        kinds = network.trainable_variables, network.non_trainable_variables
        return Weights(*([tf.constant(each.numpy()) for each in kind] for kind in kinds))


@contextlib.contextmanager
def restored_settings() -> Iterator[None]:
    """Restore Keras' global settings at the end, so that other models of the process are not affected."""
    before = keras.config.floatx(), keras.config.image_data_format(), keras.config.dtype_policy()
    try:
        yield
    finally:
        keras.config.set_floatx(before[0])
        keras.config.set_image_data_format(before[1])
        keras.config.set_dtype_policy(before[2])


def _leaves(layer: keras.Layer) -> Iterator[keras.Layer]:
    """Yield the layers that contain no others, in their order."""
    children = [*layer._flatten_layers(include_self=False, recursive=False)]
    for child in children:
        yield from _leaves(child)
    if not children:
        yield layer


@contextlib.contextmanager
def _inputs_of(layer: keras.Layer | None) -> Iterator[list[tf.Tensor]]:
    """Return a list that gets the first argument of each call of a layer within the block."""
    inputs: list[tf.Tensor] = []
    if layer is None:
        yield inputs
        return
    call = layer.call

    def recorded(*args: object, **kwargs: object) -> tf.Tensor:
        inputs.extend(args[:1])
        return call(*args, **kwargs)

    layer.call = recorded
    try:
        yield inputs
    finally:
        del layer.call


def _features(inputs: object, logits: tf.Tensor) -> tf.Tensor:
    """Return the inputs of a layer as features of each image, or the logits if they are something else."""
    shape: tuple[int | None, ...] = tuple(getattr(inputs, "shape", ()))
    # A layer may be called in a loop, whose tensors cannot be used outside, or with other batches than the images.
    is_usable = len(shape) > 1 and shape[0] == logits.shape[0] and None not in shape[1:]
    if not is_usable or getattr(inputs, "graph", None) is not getattr(logits, "graph", None):
        return logits
    return folded(tf.reshape(tf.cast(inputs, tf.float32), [-1, math.prod(size or 0 for size in shape[1:])]))


def _output_size(layer: keras.Layer) -> int:
    """Return how many numbers a layer returns for an image; 0 if Keras knows this only when the layer is called."""
    with contextlib.suppress(AttributeError, TypeError, ValueError):  # no output: the layer is in no graph
        return math.prod(layer.output.shape[1:])
    return 0
