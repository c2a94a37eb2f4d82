"""What has changed between two states of a dataset: compared with a count, on random datasets and real folders."""

import time
from collections import Counter
from pathlib import Path

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from mnist_lib.data.changes import DatasetState, changes_between
from mnist_lib.data.corrections import NONE
from mnist_lib.errors import IntegrityError
from tests.support.corrections import correct, correction
from tests.support.pictures import classes, noise, read, write_folder

NOTHING: dict[str, dict[str, int]] = {"train": {}, "test": {}}
IMAGES = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 2), st.integers(0, 1)), max_size=30)


def state(images: list[tuple[int, int, int]], names: tuple[str, ...] = ("a", "b", "c")) -> DatasetState:
    """Return a state of images, each given as its key, label and split."""
    rows = np.array(images, np.uint64).reshape(len(images), 3)
    hashes = np.stack([rows[:, 0] * np.uint64(0x9E3779B97F4A7C15), rows[:, 0]], axis=1)
    return DatasetState(hashes, rows[:, 1].astype(np.uint8), rows[:, 2].astype(np.uint8), names)


@hypothesis.given(IMAGES, IMAGES)
def test_added_and_removed_images_are_those_that_a_count_finds(
    old: list[tuple[int, int, int]], new: list[tuple[int, int, int]]
) -> None:
    changes = changes_between(state(old), state(new))
    for number, split in enumerate(("train", "test")):
        before, after = (Counter(key for key, _, own in images if own == number) for images in (old, new))
        assert sum(changes.added[split].values()) == (after - before).total()
        assert sum(changes.removed[split].values()) == (before - after).total()
        assert sum(changes.relabelled[split].values()) <= (before & after).total()
    keys = {key for key, _, _ in old}
    assert changes.new_test.tolist() == [key not in keys for key, _, own in new if own == 1]


@hypothesis.given(IMAGES)
def test_nothing_has_changed_between_equal_states(images: list[tuple[int, int, int]]) -> None:
    changes = changes_between(state(images), state(images))
    assert changes.added == changes.removed == changes.relabelled == NOTHING
    assert not changes.new_test.any()


def test_labels_are_compared_by_the_names_of_their_classes() -> None:
    old = state([(1, 0, 0), (2, 1, 0), (3, 2, 1)])
    new = state([(1, 0, 0), (2, 1, 0), (3, 0, 1)], names=("b", "c", "d"))
    changes = changes_between(old, new)
    assert changes.relabelled == {"train": {"b": 1, "c": 1}, "test": {"b": 1}}


def test_a_state_is_read_back_and_a_damaged_one_refused() -> None:
    before = state([(1, 0, 0), (2, 1, 0), (3, 2, 1)])
    content = before.content()
    after = DatasetState.read(content, "state")
    assert changes_between(before, after).relabelled == NOTHING
    assert after.classes == before.classes
    for damaged in (b"", content[:-40], content.replace(b"hashes", b"hashed")):
        with pytest.raises(IntegrityError):
            DatasetState.read(damaged, "state")


def test_pictures_that_come_and_go_and_corrections_are_counted_by_split_and_class(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "f", classes("a", "b"))
    before = DatasetState.of(read(folder))
    write_folder(folder, {**classes("a", "b", "c", pictures=40)})
    (folder / "b/7.png").unlink()
    correct(folder, correction(noise(3), "b"), correction(noise(4), NONE))
    changes = changes_between(before, DatasetState.of(read(folder)))
    by_class = {kind: Counter[str]() for kind in ("added", "removed", "relabelled")}
    for kind, counts in by_class.items():
        for of_split in getattr(changes, kind).values():
            counts.update(of_split)
    assert by_class == {"added": {"a": 10, "b": 10, "c": 40}, "removed": {"a": 1, "b": 1}, "relabelled": {"b": 1}}
    assert changes.new_test.sum() == sum(changes.added["test"].values()) > 0


def test_renaming_a_class_relabels_its_pictures_and_renaming_the_folder_changes_nothing(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "f", classes("a", "b"))
    before = DatasetState.of(read(folder))
    (folder / "a").rename(folder / "z")
    changes = changes_between(before, DatasetState.of(read(folder)))
    assert sum(sum(counts.values()) for counts in changes.relabelled.values()) == 30
    assert changes.added == changes.removed == NOTHING
    (folder / "z").rename(folder / "a")
    folder.rename(tmp_path / "g")
    assert changes_between(before, DatasetState.of(read(tmp_path / "g"))).relabelled == NOTHING


@pytest.mark.slow
def test_a_million_images_are_compared_within_seconds() -> None:
    random = np.random.default_rng(0)
    hashes = random.integers(0, 2**64, (1_000_000, 2), np.uint64, endpoint=False)
    labels, split = random.integers(0, 10, 1_000_000).astype(np.uint8), (hashes[:, 0] < 2**61).astype(np.uint8)
    names = tuple("0123456789")
    before = DatasetState(hashes[:990_000], labels[:990_000], split[:990_000], names).content()
    begin = time.monotonic()
    after = DatasetState(hashes, labels, split, names)
    changes = changes_between(DatasetState.read(before, "state"), after)
    content = after.content()
    seconds = time.monotonic() - begin
    assert sum(sum(counts.values()) for counts in changes.added.values()) == 10_000
    assert len(content) < 20_000_000
    assert seconds < 10  # 0.8 s on an idle machine
