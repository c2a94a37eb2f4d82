"""What a trained model answers for the test images, and for pictures that show none of the classes."""

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from mnist_lib.catalog import DATASETS
from mnist_lib.data.dataset import Dataset
from mnist_lib.data.made_up import COUNTER_EXAMPLES, made_up
from mnist_lib.data.table import TEST
from mnist_lib.models.model import Weights
from mnist_lib.pictures.likeness import LIKENESS, MAX_FITTED, REJECT_SHARE, Likeness, min_held_out
from mnist_lib.results import Accuracy, TrialEvent
from mnist_lib.spec import TrialSpec
from mnist_lib.training.epochs import Compiled

MAX_MADE_UP = 200  # made-up pictures of each kind


@dataclass(frozen=True)
class Tested:
    """The answers of a trained model."""

    probabilities: NDArray[np.float32]  # [test images, classes]
    files: Mapping[str, bytes] = field(default_factory=dict)  # that of the likeness, if pictures are judged by it
    rejected: dict[str, Accuracy] = field(default_factory=dict)  # as in `TrialRecord`


def num_evaluated(dataset: Dataset, spec: TrialSpec, num_train: int) -> int:
    """Return how many images `evaluate_on_test` evaluates, but for made-up ones. `num_train`: images to train on"""
    return len(dataset.test) + (0 if _shows_digits(spec) else min(num_train, MAX_FITTED))


def evaluate_on_test(
    compiled: Compiled, dataset: Dataset, spec: TrialSpec, weights: Weights, heartbeat: TrialEvent
) -> Generator[TrialEvent, None, Tested]:
    """Evaluate the weights, and yield `heartbeat` every few seconds until then."""
    evaluate = partial(compiled.trainer.predictor.evaluate, weights)
    images = dataset.test.images
    if _shows_digits(spec):  # pictures of digits are judged otherwise
        (probabilities,) = yield from evaluate(images, heartbeat)
        return Tested(probabilities)
    sample = compiled.train.take(slice(None, None, -(-len(compiled.train) // MAX_FITTED)))
    features, logits = yield from evaluate(sample.images, heartbeat, lambda outputs: outputs[1:])
    fitted = Likeness.fit(features, logits, sample.labels)
    probabilities, scores = yield from evaluate(
        images, heartbeat, lambda outputs: (outputs[0], fitted.scores(*outputs[1:]))
    )
    likeness = replace(fitted, held_out=np.sort(scores))
    rejected = {}
    if len(scores) >= min_held_out(REJECT_SHARE):
        originals = np.asarray(images[:: -(-len(images) // MAX_MADE_UP)])
        others = {kind: made_up(kind, originals, np.random.default_rng(0)) for kind in compiled.plan.made_up.kinds}
        counter_examples = dataset.counter_examples(TEST)
        others |= {COUNTER_EXAMPLES: np.asarray(counter_examples)} if len(counter_examples) else {}
        for kind, pictures in others.items():
            (ranks,) = yield from evaluate(pictures, heartbeat, lambda outputs: (likeness.likeness(*outputs[1:]),))
            rejected[kind] = Accuracy(int((ranks <= REJECT_SHARE).sum()), len(ranks))
    return Tested(probabilities, {LIKENESS: likeness.file()}, rejected)


def _shows_digits(spec: TrialSpec) -> bool:
    return spec.dataset in DATASETS and DATASETS[spec.dataset].shows_digits
