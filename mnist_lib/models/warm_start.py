"""Weights that trials start from, taken from a stored version. Only numbers are read: none of its code is run."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from mnist_lib.documents import reading
from mnist_lib.errors import IntegrityError, ModelError
from mnist_lib.model_file import ModelFile
from mnist_lib.models.building import build_model
from mnist_lib.models.model import ImageShape, Model, Tensors, Weights
from mnist_lib.models.pretrained import NOTHING, Pretrained
from mnist_lib.spec import TrialSpec


class WarmStart(NamedTuple):
    initial_weights: Callable[[int], Weights]  # takes a seed
    notice: str  # what is not taken from the version; "" if everything is


def warm_start(
    model: Model,
    spec: TrialSpec,
    image_shape: ImageShape,
    classes: tuple[str, ...],
    source: ModelFile | None = None,
    pretrained: Pretrained = NOTHING,
) -> WarmStart:
    """Return how a trial starts: from the weights of a stored version of its model, or from those of the model.

    With other classes, the weights whose shapes depend on the number of classes are drawn: those of the last layer. So
    is what is not a floating-point number, such as the state of a random generator.

    Args:
        model: the model of the trial, with the code of today.
        image_shape, classes, source, pretrained: those that it was built with.

    Raises:
        ModelError: a weight of the version does not fit into the model.
    """
    if spec.init_sha256 is None:
        return WarmStart(model.initial_weights, "")
    stored = pretrained.versions[spec.init_sha256]
    try:
        with reading(stored.name, "the files of its model"):
            weights = build_model(spec, stored.image_shape, len(stored.classes), source, pretrained).read(stored.files)
    except IntegrityError as error:
        raise ModelError(
            f"{spec.model}: expected a model with the weights of {stored.name}, from which it starts, got another:"
            f" {error}; use the same code and arguments, or leave out --init-from"
        ) from error
    drawn = model.initial_weights(spec.seed)
    kinds = (drawn.trainable, weights.trainable), (drawn.state, weights.state)
    taken = [[value.dtype.is_floating for value in ours] for ours, _ in kinds]
    notice = ""
    if stored.classes != classes:
        wider = build_model(spec, image_shape, len(classes) + 1, source, pretrained).initial_weights(spec.seed)
        for take, ours, others in zip(taken, drawn, wider, strict=True):
            take[:] = [each and one.shape == other.shape for each, one, other in zip(take, ours, others, strict=True)]
        notice = (
            f"all weights of {spec.model} but those of the last layer are from {stored.name}, since the classes differ"
        )
    for take, (ours, theirs) in zip(taken, kinds, strict=True):
        _require_fit(f"{spec.model}: {stored.name}", take, ours, theirs)

    def initial_weights(seed: int) -> Weights:
        rows = zip(taken, model.initial_weights(seed), weights, strict=True)
        return Weights(*([b if take else a for take, a, b in zip(*row, strict=True)] for row in rows))

    return WarmStart(initial_weights, notice)


def _require_fit(where: str, taken: list[bool], ours: Tensors, theirs: Tensors) -> None:
    """Raise ModelError for the first of the weights that are taken whose shape or type differs."""
    if len(ours) != len(theirs):
        raise ModelError(f"{where}: expected {len(ours)} weights, got {len(theirs)}; leave out --init-from")
    for number, (take, one, other) in enumerate(zip(taken, ours, theirs, strict=True), start=1):
        if take and (one.shape, one.dtype) != (other.shape, other.dtype):
            expected, got = (f"{each.dtype.name} {np.shape(each)}" for each in (one, other))
            raise ModelError(
                f"{where}: weight {number}: expected {expected}, got {got}; use images of the same shape, or leave out"
                " --init-from"
            )
