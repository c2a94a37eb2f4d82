"""Made-up pictures are of any shape, equal for a seed, and of kinds that no class looks like."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from mnist_lib.data.made_up import MAKERS, SHARES, MadeUp, is_blank, kinds_unlike, made_up

Random = np.random.Generator


def squares(count: int, random: Random, side: int = 24) -> NDArray[np.uint8]:
    """Return pictures of a square on paper with a little noise."""
    pictures = random.uniform(180, 250, (count, 1, 1, 3)) + random.normal(0, 6, (count, side, side, 3))
    for picture in pictures:
        top, left = random.integers(side // 8, side // 3, 2)
        picture[top : top + side // 2, left : left + side // 2] = random.uniform(0, 110, 3)
    return np.clip(pictures, 0, 255).astype(np.uint8)


def plain(count: int, random: Random) -> NDArray[np.uint8]:
    pictures = random.uniform(20, 230, (count, 1, 1, 3)) + random.normal(0, 3, (count, 24, 24, 3))
    return pictures.astype(np.uint8)


def stripes(count: int, random: Random) -> NDArray[np.uint8]:
    pictures = np.empty((count, 24, 24, 3))
    for picture in pictures:
        dark, light = random.uniform((0, 150), (100, 255))
        picture[:] = dark
        picture[:, (np.arange(24) + random.integers(4)) % 4 < 2] = light
    return np.clip(pictures + random.normal(0, 4, pictures.shape), 0, 255).astype(np.uint8)


def grains(count: int, random: Random) -> NDArray[np.uint8]:
    return np.clip(random.normal(random.uniform(90, 160, (count, 1, 1, 3)), 40, (count, 24, 24, 3)), 0, 255).astype(
        np.uint8
    )


def clouds(count: int, random: Random) -> NDArray[np.uint8]:
    coarse = random.integers(256, size=(count, 3, 3, 3), dtype=np.uint8)
    return np.stack([np.asarray(Image.fromarray(colours).resize((24, 24))) for colours in coarse])


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("shape", [(3, 3, 1), (28, 28, 1), (24, 33, 3), (7, 5, 4)])
def test_a_picture_of_each_kind_has_the_shape_of_the_others_and_is_none_of_them(
    kind: str, shape: tuple[int, int, int]
) -> None:
    pictures = np.random.default_rng(0).integers(256, size=(9, *shape), dtype=np.uint8)
    made = made_up(kind, pictures, np.random.default_rng(1))
    assert made.shape == pictures.shape
    assert made.dtype == np.uint8
    np.testing.assert_array_equal(made, made_up(kind, pictures, np.random.default_rng(1)))
    same = sum(np.array_equal(one, other) for one in made for other in pictures)
    assert same <= (2 if shape == (3, 3, 1) else 0)  # few tiles may be in their order by chance


def test_the_kinds_of_a_batch_have_their_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = squares(8, np.random.default_rng(0))
    assert MadeUp().count(8) == 0
    chosen = MadeUp(("noise", "two"))
    assert chosen.count(9) == 3
    monkeypatch.setitem(MAKERS, "noise", lambda pictures, random: np.zeros(pictures.shape))
    made = chosen.make(pictures, 2_000, np.random.default_rng(0))
    expected = SHARES["noise"] / (SHARES["noise"] + SHARES["two"])
    assert (made.max(axis=(1, 2, 3)) == 0).mean() == pytest.approx(expected, abs=0.04)


def test_counter_examples_are_used_as_they_are() -> None:
    pictures = squares(8, np.random.default_rng(0))
    given = squares(3, np.random.default_rng(1))
    assert MadeUp(counter_examples=given[:0]).count(8) == 0
    assert MadeUp(counter_examples=given).count(8) == 2
    made = MadeUp(("noise",), given).make(pictures, 1_000, np.random.default_rng(0))
    known = {picture.tobytes() for picture in given}
    used = [picture.tobytes() in known for picture in made]
    assert np.mean(used) == pytest.approx(0.8, abs=0.04)
    assert {picture.tobytes() for picture in made[np.array(used)]} == known


@pytest.mark.parametrize(
    ("other", "without"),
    [
        (squares, set()),
        (plain, {"surfaces", "tiles", "two"}),
        (stripes, {"tiles", "two"}),
        (grains, {"noise", "tiles", "two"}),
        (clouds, {"blobs"}),
    ],
)
@pytest.mark.parametrize("share", [1.0, 0.3, 0.05])
def test_a_kind_that_a_class_looks_like_is_left_out(
    other: Callable[[int, Random], NDArray[np.uint8]], without: set[str], share: float
) -> None:
    random = np.random.default_rng(5)
    count = round(200 * share)
    pictures = np.concatenate([squares(200, random), other(count, random), squares(200 - count, random)])
    kinds = {*kinds_unlike(pictures, np.repeat(np.array((0, 1), np.uint8), 200))}
    assert kinds == {*MAKERS} - (without if share >= 0.3 else set())


@pytest.mark.parametrize("side", [16, 64, 224])
def test_the_size_of_pictures_does_not_change_what_they_look_like(side: int) -> None:
    pictures = squares(30, np.random.default_rng(3), side)
    assert {*kinds_unlike(pictures, np.zeros(30, np.uint8))} == {*MAKERS}


def test_pictures_of_one_pixel_have_no_kinds() -> None:
    assert kinds_unlike(np.zeros((4, 1, 9, 1), np.uint8), np.zeros(4, np.uint8)) == ()


def test_a_blank_picture_has_one_colour_but_for_a_little_noise() -> None:
    random = np.random.default_rng(0)
    faint = np.full((24, 24, 3), 200, np.uint8)
    faint[4:20, 11:13] -= 20
    pictures = np.stack([np.full((24, 24, 3), (9, 200, 90), np.uint8), squares(1, random)[0], faint])
    np.testing.assert_array_equal(is_blank(pictures), [True, False, False])
    assert is_blank(pictures[:1] + random.integers(0, 8, (1, 24, 24, 3), dtype=np.uint8)).all()
