"""Models as a user would write them, which the tests name as `own_models.py:FUNCTION`."""

from pathlib import Path

import keras
import tensorflow as tf
from keras import layers

from mnist_lib import read_weights

ImageShape = tuple[int, int, int]


def small_resnet(image_shape: ImageShape, num_classes: int, width: int = 8, dropout: float = 0.1) -> keras.Model:
    """A functional model with augmentation, batch normalisation, dropout and a regulariser."""
    inputs = keras.Input(image_shape)
    features = layers.RandomTranslation(0.05, 0.05)(layers.Rescaling(1 / 255)(inputs))
    features = layers.Conv2D(width, 3, strides=2, padding="same")(features)
    for _ in range(2):
        own = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(features))
        own = layers.Conv2D(width, 3, padding="same", kernel_regularizer=keras.regularizers.L2(1e-4))(own)
        features = layers.Add()([features, own])
    features = layers.Dropout(dropout)(layers.GlobalAveragePooling2D()(features))
    return keras.Model(inputs, layers.Dense(num_classes)(features))


def residual(image_shape: ImageShape, num_classes: int) -> keras.Model:
    """Has no batch normalisation and no random numbers, so that two replicas learn what one learns."""
    inputs = keras.Input(image_shape)
    features = layers.Conv2D(4, 3, strides=2)(layers.Rescaling(1 / 255)(inputs))
    features = layers.Add()([features, layers.Conv2D(4, 3, padding="same", activation="relu")(features)])
    return keras.Model(inputs, layers.Dense(num_classes)(layers.Flatten()(features)))


def sequential(image_shape: ImageShape, num_classes: int, units: int = 16) -> keras.Model:
    hidden = layers.Dense(units, activation="relu")
    return keras.Sequential([layers.Rescaling(1 / 255), layers.Flatten(), hidden, layers.Dense(num_classes)])


def list_of_layers(image_shape: ImageShape, num_classes: int) -> list[keras.Layer]:
    return [layers.Rescaling(1 / 255), layers.Flatten(), layers.Dropout(0.2), layers.Dense(num_classes)]


class Penalty(layers.Layer):
    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        self.add_loss(0.01 * tf.reduce_mean(tf.square(inputs)))
        return inputs


def frozen(image_shape: ImageShape, num_classes: int) -> keras.Model:
    """Has a shared layer that is not trained, and a loss of its own."""
    pixels, shared = keras.Input(image_shape), layers.Dense(16, activation="relu", trainable=False)
    features = layers.Dense(16)(layers.Flatten()(layers.Rescaling(1 / 255)(pixels)))
    return keras.Model(pixels, layers.Dense(num_classes)(shared(Penalty()(shared(features)))))


def fine_tuned(
    image_shape: ImageShape, num_classes: int, body: str | None = None, units: int = 16, frozen: bool = False
) -> keras.Model:
    """Has layers whose weights may come from a file."""
    layers_of_body = [layers.Rescaling(1 / 255), layers.Flatten(), layers.Dense(units, activation="relu")]
    network = keras.Sequential([keras.Input(image_shape), *layers_of_body], name="body")
    if body is not None and body.endswith(".npz"):
        network.set_weights([*read_weights(body).values()])
    elif body is not None:
        network.load_weights(body)
    network.trainable = not frozen
    return keras.Sequential([keras.Input(image_shape), network, layers.Dense(num_classes)])


def scaled_by_file(image_shape: ImageShape, num_classes: int, shift: str) -> list[keras.Layer]:
    """Cannot be built without a file."""
    return shifted_by_file(image_shape, num_classes, str(Path(shift)))


def shifted_by_file(image_shape: ImageShape, num_classes: int, shift: str | None) -> list[keras.Layer]:
    """Takes a number from a file that is in none of its variables."""
    offset = 0.0 if shift is None else float(read_weights(shift)["offset"])
    return [layers.Rescaling(1 / 255, offset), layers.Flatten(), layers.Dense(num_classes)]


@keras.saving.register_keras_serializable("own_models")
class Subclass(keras.Model):
    def __init__(self, image_shape: ImageShape, num_classes: int, units: int = 16, **others: object) -> None:
        super().__init__(**others)
        self.given = {"image_shape": image_shape, "num_classes": num_classes, "units": units}
        self.scale, self.flatten = layers.Rescaling(1 / 255), layers.Flatten()
        self.gate, self.hidden = layers.Dense(units, activation="softmax"), layers.Dense(units, activation="relu")
        self.logits = layers.Dense(num_classes)

    def call(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        pixels = self.flatten(self.scale(images))
        return self.logits(self.gate(pixels) * self.hidden(pixels))

    def get_config(self) -> dict[str, object]:
        return {**super().get_config(), **self.given}


def large(image_shape: ImageShape, num_classes: int, units: int = 4_900) -> list[keras.Layer]:
    """Has 25 million weights."""
    hidden = [layers.Dense(units, activation="relu"), layers.Dense(units, activation="relu")]
    return [layers.Rescaling(1 / 255), layers.Flatten(), *hidden, layers.Dense(num_classes)]


class Unrotated(layers.Layer):
    """Returns its inputs, by way of an operation that XLA cannot compile."""

    def call(self, images: tf.Tensor) -> tf.Tensor:
        size = tf.shape(images)[1:3]
        identity = tf.constant([[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0]])
        same = tf.raw_ops.ImageProjectiveTransformV3(
            images=images, transforms=identity, output_shape=size, fill_value=0.0, interpolation="NEAREST"
        )
        return tf.ensure_shape(same, images.shape)


def not_for_xla(image_shape: ImageShape, num_classes: int) -> keras.Model:
    inputs = keras.Input(image_shape)
    features = layers.Flatten()(Unrotated()(layers.Rescaling(1 / 255)(inputs)))
    return keras.Model(inputs, layers.Dense(num_classes)(features))


class SoftmaxRegression:
    """A model from scratch."""

    def __init__(self, image_shape: ImageShape, num_classes: int, scale: float = 0.01) -> None:
        self.pixels, self.classes, self.scale = image_shape[0] * image_shape[1] * image_shape[2], num_classes, scale

    def initial_weights(self, seed: int) -> dict[str, tf.Tensor]:
        kernel = self.scale * tf.random.stateless_normal([self.pixels, self.classes], [seed, 0])
        return {"kernel": kernel, "bias": tf.zeros([self.classes])}

    def __call__(self, weights: dict[str, tf.Tensor], images: tf.Tensor, product: tf.DType) -> tf.Tensor:
        pixels = tf.cast(tf.reshape(images, [-1, self.pixels]), tf.float32) / 255.0
        return pixels @ weights["kernel"] + weights["bias"]
