"""The ink is found whatever the colours of ink and paper and however the paper is lit."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.support.digits import DIGITS, MAX_DIFFERENCE, any_digit, centred, difference, enlarged
from tests.support.drawing import painted


@settings(max_examples=settings().max_examples // 2)
@given(any_digit, st.integers(20, 300))
def test_dark_on_light_gives_the_same_image_as_light_on_dark(digit: NDArray[np.uint8], side: int) -> None:
    pixels = enlarged(digit, side)
    np.testing.assert_array_equal(centred(255 - pixels), centred(pixels))


def test_the_colours_of_ink_and_paper_make_hardly_any_difference() -> None:
    random = np.random.default_rng(0)
    differences = []
    for digit in random.choice(DIGITS, 300):
        colours = [random.integers(0, 91, 3), random.integers(160, 256, 3)]
        random.shuffle(colours)
        paper, ink = colours
        coloured = np.rint(paper + np.pad(digit, 1)[..., None] / 255 * (ink - paper)).astype(np.uint8)
        differences.append(difference(centred(coloured), centred(digit)))
    assert np.mean(np.array(differences) < 1) >= 0.99  # in the others, rounding moved an edge


def test_uneven_light_and_dirt_are_not_ink() -> None:
    random = np.random.default_rng(0)
    differences = []
    for digit in DIGITS[:1000:50]:
        sheet = np.zeros((500, 420), np.float32)
        sheet[120:400, 80:360] = enlarged(digit, 280) / 255
        pixels = painted(sheet, random).astype(float)
        y, x = np.mgrid[-1:1:500j, -1:1:420j]
        pixels *= (1 - 0.25 * (x * x + y * y) / 2 + 0.15 * x)[..., None]  # light from the right
        pixels[30:36, 380:386] = pixels[460:464, 20:24] = 255 - pixels[30:36, 380:386].mean()  # dirt
        differences.append(difference(centred(pixels.clip(0, 255).astype(np.uint8)), digit))
    assert np.mean(differences) < MAX_DIFFERENCE


def test_a_shadow_with_an_edge_is_not_ink() -> None:
    random = np.random.default_rng(0)
    differences = []
    for digit in DIGITS[:1000:50]:
        sheet = np.zeros((500, 420), np.float32)
        sheet[150:350, 100:300] = enlarged(digit, 200) / 255
        y, x = np.mgrid[-1:1:500j, -1:1:420j]
        shadow = 1 / (1 + np.exp(-12 * (x + y / 2 - random.uniform(-0.6, 0.6))))
        pixels = (235 - 190 * sheet) * (1 - 0.2 * shadow) + random.normal(0, 2, sheet.shape)
        differences.append(difference(centred(pixels.clip(0, 255).astype(np.uint8)), digit))
    assert np.mean(differences) < 1.2 * MAX_DIFFERENCE


def test_ink_that_crosses_the_border_is_not_paper() -> None:
    pixels = np.full((200, 200), 240, np.uint8)
    pixels[:, 90:110] = 30
    image = centred(pixels)
    assert image[14, 14] == 255
    assert image[14, 4] == 0
