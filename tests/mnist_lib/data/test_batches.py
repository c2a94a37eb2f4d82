from collections import Counter

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from mnist_lib.data import batches
from mnist_lib.data.batches import Plan, balancing_weights, blank_chunk, epochs, evaluation_batch_size
from mnist_lib.data.table import Table

pytestmark = pytest.mark.usefixtures("tensorflow")


def numbered(n: int) -> Table:
    """Images of 1x2 pixels that encode their own number, whose last digit is the label."""
    numbers = np.arange(n)
    images = np.stack([numbers // 256, numbers % 256], axis=1).astype(np.uint8)
    return Table.of(images.reshape(n, 1, 2, 1), (numbers % 10).astype(np.uint8))


def numbers_of(images: tf.Tensor) -> np.ndarray:
    pixels = images.numpy().astype(int)
    return pixels[..., 0, 0, 0] * 256 + pixels[..., 0, 1, 0]


def orders(n: int, seed: int, first: int, last: int) -> list[list[int]]:
    """Return the order of the images in each epoch."""
    plan = Plan(n, 7, 1)
    seen: list[int] = []
    for chunk in epochs(numbered(n), plan, seed, first, last):
        real = chunk.parts[0].weights.numpy() > 0
        seen += numbers_of(chunk.parts[0].images)[real].tolist()
    return [seen[i : i + n] for i in range(0, len(seen), n)]


@settings(deadline=None, max_examples=40)
@given(n=st.integers(1, 300), batch=st.integers(1, 310), replicas=st.integers(1, 3), steps_per_chunk=st.integers(1, 9))
@pytest.mark.slow
def test_each_epoch_has_every_image_once_with_equal_weights_in_a_batch(
    n: int, batch: int, replicas: int, steps_per_chunk: int
) -> None:
    plan = Plan(n, batch, replicas)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "STEPS_PER_CHUNK", steps_per_chunk)
        chunks = list(epochs(numbered(n), plan, seed=1, first=1, last=2))
        assert len(chunks) == 2 * plan.chunks
        for epoch in (chunks[: plan.chunks], chunks[plan.chunks :]):
            seen: Counter[int] = Counter()
            for chunk in epoch:
                steps = int(chunk.steps)
                weights = np.stack([shard.weights.numpy() for shard in chunk.parts])  # [replicas, steps, batch]
                assert weights[:, :steps].sum(axis=(0, 2)) == pytest.approx(np.ones(steps))
                assert not weights[:, steps:].any()
                for shard in chunk.parts:
                    real = shard.weights.numpy() > 0
                    numbers = numbers_of(shard.images)[real]
                    assert (shard.labels.numpy()[real] == numbers % 10).all()
                    seen.update(numbers.tolist())
            assert seen == Counter(range(n))


def test_balancing_weights_let_every_class_count_the_same_and_leave_equal_classes_as_they_are() -> None:
    labels = np.array([7] * 95 + [2] * 4 + [0], np.uint8)
    weights = balancing_weights(labels)
    assert weights.dtype == np.float32
    assert weights.tolist() == pytest.approx([100 / (3 * 95)] * 95 + [100 / (3 * 4)] * 4 + [100 / 3])
    assert (balancing_weights(np.repeat(np.arange(7, dtype=np.uint8), 13)) == 1).all()
    split, plan = numbered(101), Plan(101, 32, 2)
    given = np.linspace(0.5, 1.5, 101).astype(np.float32)
    (plain,), (weighted,) = (epochs(split, plan, 0, 1, 1, by) for by in (None, given))
    for one, other in zip(plain.parts, weighted.parts, strict=True):
        assert (one.images.numpy() == other.images.numpy()).all()
        assert (one.weights.numpy() * given[numbers_of(one.images)] == other.weights.numpy()).all()


def test_the_order_of_images_is_a_function_of_seed_and_epoch() -> None:
    first, second, third = orders(100, seed=3, first=1, last=3)
    assert first != second != third
    assert orders(100, seed=3, first=2, last=3) == [second, third]  # as in a resumed run
    assert orders(100, seed=4, first=1, last=1) != [first]


def test_a_resumed_epoch_has_the_chunks_that_follow_and_those_of_later_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "STEPS_PER_CHUNK", 2)
    split, plan = numbered(101), Plan(101, 25, 2)  # 2, 2 and 1 steps

    def numbers(first_chunk: int) -> list[list[int]]:
        """Return the images of each chunk of the epochs 2 and 3."""
        shards = [chunk.parts for chunk in epochs(split, plan, 3, 2, 3, first_chunk=first_chunk)]
        return [[n for s in both for n in numbers_of(s.images)[s.weights.numpy() > 0].tolist()] for both in shards]

    whole = numbers(first_chunk=0)
    assert len(whole) == 6
    for chunk in range(4):
        assert sum(map(len, whole[:chunk])) == plan.images_in(chunk)
        assert plan.steps_in(chunk) == plan.steps_for(plan.images_in(chunk)) == min(5, 2 * chunk)
        assert numbers(chunk) == whole[chunk:]


@pytest.mark.parametrize(("images", "steps"), [(127, 1), (128, 1), (129, 2), (54_000, 422)])
def test_a_short_last_batch_is_one_step(images: int, steps: int) -> None:
    assert Plan(images, 128, 1).steps == steps


def test_the_padding_of_a_short_batch_is_other_images_of_the_epoch() -> None:
    """Batch normalisation would otherwise see one image many times."""
    (chunk,) = epochs(numbered(70), Plan(70, 64, 2), seed=0, first=1, last=1)
    last = np.concatenate([numbers_of(shard.images)[1] for shard in chunk.parts])
    assert len(set(last.tolist())) == 64
    assert [int((shard.weights.numpy()[1] > 0).sum()) for shard in chunk.parts] == [6, 0]
    assert [set(shard.replica.numpy().tolist()) for shard in chunk.parts] == [{0}, {1}]


def test_padding_wastes_less_than_a_step_per_chunk() -> None:
    plan = Plan(60_000, 128, 1)
    assert plan.chunks * plan.steps_per_chunk - plan.steps < plan.chunks


def test_a_batch_of_an_evaluation_fits_the_pixels_and_the_activations_of_the_model() -> None:
    assert evaluation_batch_size((28, 28, 1)) == 1_000
    assert evaluation_batch_size((224, 224, 3)) == 21
    assert evaluation_batch_size((28, 28, 1), 1 << 22) == 256
    assert evaluation_batch_size((28, 28, 1), 1 << 40) == 1


@pytest.mark.parametrize("replicas", [1, 3])
def test_a_blank_chunk_looks_like_a_chunk_of_an_epoch_to_a_compiled_function(replicas: int) -> None:
    plan, split = Plan(300, 7, replicas), numbered(300)
    chunk = next(iter(epochs(split, plan, seed=0, first=1, last=1)))
    specs = [tf.nest.map_structure(tf.type_spec_from_value, found) for found in (chunk, blank_chunk(split, plan))]
    assert specs[0] == specs[1]
