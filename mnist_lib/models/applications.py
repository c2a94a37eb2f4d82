"""Networks of Keras Applications, for photographs. A file may give the weights of all layers but the last."""

import math
import warnings
from collections.abc import Callable

import keras

from mnist_lib.errors import ModelError
from mnist_lib.models.layers import with_fused_normalization
from mnist_lib.models.model import ImageShape
from mnist_lib.wording import one_line

MOMENTUM = 0.9  # with 0.999, as in MobileNetV3, a third of the averages is what they began with after 1,000 steps
DROPOUT = 0.2  # as in Keras' networks with a top


def keras_mobilenet(
    image_shape: ImageShape, num_classes: int, min_side: int, backbone: str | None = None
) -> list[keras.Layer]:
    """Return MobileNetV3Small (Howard et al., 2019). See `_with_backbone`."""
    return _with_backbone(keras.applications.MobileNetV3Small, image_shape, num_classes, min_side, backbone)


def keras_efficientnet(
    image_shape: ImageShape, num_classes: int, min_side: int, backbone: str | None = None
) -> list[keras.Layer]:
    """Return EfficientNetV2B0 (Tan and Le, 2021). See `_with_backbone`."""
    return _with_backbone(keras.applications.EfficientNetV2B0, image_shape, num_classes, min_side, backbone)


def _with_backbone(
    network: Callable[..., keras.Model], image_shape: ImageShape, num_classes: int, min_side: int, path: str | None
) -> list[keras.Layer]:
    """Return a network of Keras Applications with a new last layer.

    Args:
        min_side: images whose shorter side has fewer pixels are enlarged, since these networks take 32 steps.
        path: the file with the weights of the network without its top; None for random ones.

    Raises:
        ModelError: the file has the weights of another network.
    """
    height, width, channels = image_shape
    pixels = features = keras.Input(image_shape)
    if channels == 1:
        features = keras.layers.Concatenate()([features] * 3)
    elif channels == 4:  # transparent areas become white
        opacity = features[..., 3:] / 255
        features = opacity * features[..., :3] + (1 - opacity) * 255
    factor = max(1, math.ceil(min_side / min(height, width)))
    if factor > 1:
        features = keras.layers.UpSampling2D(factor, interpolation="bilinear")(features)
    body = network(include_top=False, weights=None, input_shape=features.shape[1:])
    if path is not None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of each layer; Keras raises an error if one has no weights
                body.load_weights(path)
        except Exception as error:
            reason, *_ = one_line(error).split(". ")  # without a list of all layers, or numbers
            raise ModelError(
                f"backbone: expected weights that Keras has saved of {network.__name__}, got others ({reason}); see"
                " docs/photographs.md"
            ) from error
    features = with_fused_normalization(body, MOMENTUM)(features)
    features = keras.layers.GlobalAveragePooling2D()(features)
    features = keras.layers.Dropout(DROPOUT)(features)
    return [keras.layers.Rescaling(1.0), keras.Model(pixels, keras.layers.Dense(num_classes)(features))]
