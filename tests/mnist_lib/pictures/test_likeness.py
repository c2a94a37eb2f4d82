"""How much pictures look like a model's classes: the law of the share that is rejected, and what models reject."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mnist_lib.api import load_stored
from mnist_lib.data.dataset import Dataset
from mnist_lib.data.table import Table
from mnist_lib.errors import IntegrityError
from mnist_lib.objects.archives import npz
from mnist_lib.objects.local import LocalObjects
from mnist_lib.pictures.likeness import LIKENESS, REJECT_SHARE, Likeness, min_held_out
from mnist_lib.pictures.rejecting import NONE_OF_THESE, rejection
from mnist_lib.results import TrialResult
from mnist_lib.spec import TrialSpec
from mnist_lib.store.contents import StoredModel, contents_of
from mnist_lib.store.publishing import publish
from mnist_lib.training.assignment import Assignment, Resources
from mnist_lib.training.trial import WorkerPlace, run_trials

RNG = np.random.default_rng(0)
SURE = np.ones(1, np.float32)


def one_feature(held_out: int, rng: np.random.Generator) -> Likeness:
    """Return what judges pictures of one feature and two equal logits: the farther from 0, the less alike."""
    ones = np.ones((1, 1), np.float32)
    judged = Likeness(ones, np.zeros((2, 1), np.float32), np.ones(2, np.float32), np.empty(0))
    return replace(judged, held_out=np.sort(judged.scores(*drawn(held_out, rng))))


def drawn(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    return rng.normal(size=(count, 1)).astype(np.float32), np.zeros((count, 2), np.float32)


@pytest.mark.parametrize(("held_out", "rejected"), [(0, 0), (48, 0), (49, 1), (98, 1), (99, 2), (1_000, 20)])
def test_the_pictures_rejected_are_those_below_a_rank_among_the_held_out_ones(held_out: int, rejected: int) -> None:
    """The share of new pictures below the k-th lowest of n scores is k / (n + 1) on average, if they are alike."""
    judged = one_feature(held_out, RNG)
    below = [-np.inf, *(judged.held_out - 1e-9)]  # below each of the held-out scores, from the lowest
    likeness = [(np.searchsorted(judged.held_out, score, side="right") + 1) / (held_out + 1) for score in below[1:]]
    assert sum(value <= REJECT_SHARE for value in likeness) == rejected
    shares = []
    for _ in range(2_000 if rejected in (1, 2) else 100):
        judged = one_feature(held_out, RNG)
        shares.append(np.mean(judged.likeness(*drawn(500, RNG)) <= REJECT_SHARE))
    assert np.mean(shares) == pytest.approx(rejected / (held_out + 1), abs=0.002)


def test_a_likeness_of_the_share_is_rejected_and_no_higher_one() -> None:
    assert rejection(None, SURE, 0.02) == NONE_OF_THESE
    assert rejection(None, SURE, 0.0201) is None
    assert rejection(None, SURE, 0.0201, reject_share=0.05) == NONE_OF_THESE
    assert rejection(None, SURE, 1 / 1e6, reject_share=0.0) is None
    assert [min_held_out(share) for share in (0.02, 0.01, 0.03, 0.5)] == [49, 99, 33, 1]


def fitted(classes: int = 3, features: int = 5) -> Likeness:
    values, logits = RNG.normal(size=(200, features)), RNG.normal(size=(200, classes))
    labels = RNG.integers(classes, size=200)
    judged = Likeness.fit(values.astype(np.float32), logits.astype(np.float32), labels)
    return replace(judged, held_out=np.sort(judged.scores(values.astype(np.float32), logits.astype(np.float32))))


def test_a_file_gives_back_what_was_written() -> None:
    judged = fitted()
    again = Likeness.read(judged.file(), "keras@1: likeness.npz")
    for name, array in vars(judged).items():
        np.testing.assert_array_equal(array, getattr(again, name))


def test_a_file_without_an_array_is_an_error() -> None:
    others = {name: array for name, array in vars(fitted()).items() if name != "means"}
    with pytest.raises(IntegrityError, match=r"^keras@1: likeness.npz: .* missing .*'means'"):
        Likeness.read(npz(others), "keras@1: likeness.npz")


def test_equal_features_and_classes_without_images_give_finite_scores() -> None:
    equal, logits = np.full((20, 4), 3.0, np.float32), np.zeros((20, 3), np.float32)
    judged = Likeness.fit(equal, logits, np.zeros(20, np.int64))
    assert np.isfinite(judged.scores(equal, logits)).all()
    other = judged.scores(np.full((1, 4), 1e4, np.float32), np.full((1, 3), (0.0, 80.0, -80.0), np.float32))
    assert np.isfinite(other).all()
    assert other < judged.scores(equal, logits).min()
    infinite = np.where(np.arange(20)[:, None] % 2, np.float32(np.inf), equal)
    wild = Likeness.fit(infinite, -infinite[:, :3], np.arange(20) % 3)
    assert np.isfinite(Likeness.read(wild.file(), "wild").scores(infinite, -infinite[:, :3])).all()


def test_certainty_does_not_change_if_all_logits_of_a_picture_do() -> None:
    """Averages of log-probabilities over several views are then judged like the logits of one view."""
    features, logits = RNG.normal(size=(50, 5)).astype(np.float32), RNG.normal(size=(50, 3)).astype(np.float32)
    log_probabilities = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    judged = fitted()
    np.testing.assert_allclose(judged.scores(features, logits), judged.scores(features, log_probabilities), atol=1e-4)


def bars(count: int, rng: np.random.Generator) -> Table:
    """Return noisy pictures of a bar, which is upright (0) or lies (1)."""
    labels = rng.integers(2, size=count).astype(np.uint8)
    images = rng.normal(40, 15, (count, 12, 12, 1))
    for image, label in zip(images, labels, strict=True):
        at = rng.integers(3, 8)
        (image[:, at : at + 2] if label == 0 else image[at : at + 2])[:] += 150
    return Table.of(np.clip(images, 0, 255).astype(np.uint8), labels)


def discs(count: int, rng: np.random.Generator) -> np.ndarray:
    y, x = np.mgrid[:12, :12] - 5.5
    images = rng.normal(40, 15, (count, 12, 12, 1)) + 150 * (y**2 + x**2 < 16)[..., None]
    return np.clip(images, 0, 255).astype(np.uint8)


def trained(dataset: Dataset, **settings: Any) -> TrialResult:
    spec = TrialSpec.of("keras", dataset=dataset.name, epochs=15, global_batch_size=32, hidden_units=64, **settings)
    resources = Resources(cpus=2, cpu_replicas=2)  # as the fixture `tensorflow` sets the process up
    *_, result = run_trials([Assignment(spec)], lambda: dataset, resources, WorkerPlace(node="here"))
    assert isinstance(result, TrialResult), result
    return result


@pytest.mark.slow
@pytest.mark.usefixtures("tensorflow")
def test_a_model_of_bars_rejects_discs_and_few_new_bars(tmp_path: Any) -> None:
    rng, objects = np.random.default_rng(1), LocalObjects(tmp_path)
    dataset = Dataset.of("bars", "1", bars(300, rng), bars(150, rng), ("upright", "lying"))
    files, about = contents_of(trained(dataset), dataset, "run", {})
    stored = StoredModel.read(objects, publish(objects, "keras", "run", files, about))
    assert stored.why_all_accepted() is None
    model = load_stored(stored)
    of_test = model.answers(dataset.test.images).likeness
    assert (of_test <= REJECT_SHARE).sum() == 2  # those below the third lowest of 150, without the third
    assert (model.answers(bars(1_000, rng).images).likeness <= REJECT_SHARE).mean() <= 0.06
    assert (model.answers(discs(200, rng)).likeness <= REJECT_SHARE).mean() >= 0.9
    earlier = {name: content for name, content in files.items() if name != LIKENESS}
    old = StoredModel.read(objects, publish(objects, "keras", "old", earlier, about))
    assert (load_stored(old).answers(discs(3, rng)).likeness == 1).all()
    expected = 'no picture is answered with "none of these": keras@2 was stored without scores of held-out pictures'
    assert old.why_all_accepted() == f"{expected}; train it again"
    assert old.why_all_accepted(0.0) is None


@pytest.mark.slow
@pytest.mark.usefixtures("tensorflow")
def test_with_48_held_out_pictures_no_picture_is_rejected_and_the_reason_is_given(tmp_path: Any) -> None:
    rng, objects = np.random.default_rng(2), LocalObjects(tmp_path)
    dataset = Dataset.of("bars", "1", bars(100, rng), bars(48, rng), ("upright", "lying"))
    files, about = contents_of(trained(dataset), dataset, "run", {})
    stored = StoredModel.read(objects, publish(objects, "keras", "run", files, about))
    assert (load_stored(stored).answers(discs(20, rng)).likeness > REJECT_SHARE).all()
    why = "a reject share of 2% needs at least 49 test images, and keras@1 has 48"
    assert stored.why_all_accepted() == f'no picture is answered with "none of these": {why}'
    assert stored.why_all_accepted(0.05) is None


@pytest.mark.slow
@pytest.mark.usefixtures("tensorflow")
def test_pictures_of_digits_of_the_catalog_are_judged_otherwise() -> None:
    rng = np.random.default_rng(3)
    dataset = Dataset.of("mnist", "1", bars(40, rng), bars(20, rng), ("upright", "lying"))
    assert LIKENESS not in trained(dataset).files
