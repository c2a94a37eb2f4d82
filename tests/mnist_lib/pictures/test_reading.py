"""Whatever a picture is like, what is on it comes out as in the dataset; and what is none costs little."""

import io
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from mnist_lib.data.embedded import FOLDER
from mnist_lib.errors import ImageError
from mnist_lib.pictures.ink import ink_of, laid_out
from mnist_lib.pictures.reading import (
    Layout,
    content_or_error,
    find_pictures,
    read_content,
    read_picture,
    read_pictures,
)
from tests.support.drawing import KINDS, header_only, painted, png, saved

MNIST = Layout.of("mnist", (28, 28))
AS_IS = Layout.of("mnist", (28, 28), as_is=True)

with np.load(FOLDER / "mnist-mini.npz") as arrays:
    DIGITS: NDArray[np.uint8] = arrays["test_images"][..., 0]

NEAR = 10.0  # of 255, on the mean over pixels and digits

some_digit = st.integers(0, len(DIGITS) - 1).map(lambda index: DIGITS[index])


def laid(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return laid_out(ink_of(pixels.astype(np.float32).reshape(*pixels.shape[:2], -1)), (28, 28), 20)


def enlarged(digit: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(digit).resize((side, side), Image.Resampling.BICUBIC))


def difference(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """Mean over pixels, of 255."""
    return float(np.abs(one.astype(float) - other.astype(float)).mean())


@settings(deadline=None, max_examples=50)
@given(some_digit, st.tuples(*[st.integers(1, 60)] * 4))
def test_where_on_the_sheet_a_digit_is_changes_nothing(
    digit: NDArray[np.uint8], margins: tuple[int, int, int, int]
) -> None:
    top, bottom, left, right = margins
    np.testing.assert_array_equal(laid(np.pad(digit, ((top, bottom), (left, right)))), laid(np.pad(digit, 1)))


@settings(deadline=None, max_examples=50)
@given(some_digit, st.integers(20, 300))
def test_dark_on_light_is_light_on_dark(digit: NDArray[np.uint8], side: int) -> None:
    pixels = enlarged(digit, side)
    np.testing.assert_array_equal(laid(255 - pixels), laid(pixels))


@settings(deadline=None, max_examples=50)
@given(some_digit, st.integers(20, 300), st.sampled_from([28, 56]))
def test_the_ink_fills_the_box_of_mnists_authors_and_its_mass_is_in_the_middle(
    digit: NDArray[np.uint8], size: int, side: int
) -> None:
    image = read_picture(png(enlarged(digit, size)), Layout.of("mnist", (side, side))).image[..., 0].astype(float)
    assert image.max() == 255
    for axis in (0, 1):
        mass = image.sum(axis=axis)
        filled = np.flatnonzero(mass)
        assert np.ptp(filled) + 1 <= side * 20 // 28
        centre = float(mass @ np.arange(side)) / mass.sum()
        assert abs(centre - side / 2) <= 0.51 or filled[0] == 0 or filled[-1] == side - 1


def test_where_a_datasets_digits_fill_the_picture_the_ink_does() -> None:
    for digit in DIGITS[:1000:50]:
        image = read_picture(png(enlarged(digit, 100)), Layout.of("sklearn-digits", (8, 8))).image[..., 0]
        assert max(np.ptp(np.flatnonzero(image.any(axis=axis))) + 1 for axis in (0, 1)) == 8


def test_the_colours_of_ink_and_paper_change_next_to_nothing() -> None:
    random = np.random.default_rng(0)
    differences = []
    for digit in random.choice(DIGITS, 300):
        colours = [random.integers(0, 91, 3), random.integers(160, 256, 3)]
        random.shuffle(colours)
        paper, ink = colours
        coloured = np.rint(paper + np.pad(digit, 1)[..., None] / 255 * (ink - paper)).astype(np.uint8)
        differences.append(difference(laid(coloured), laid(digit)))
    assert np.mean(np.array(differences) < 1) >= 0.99  # of the others, rounding moved an edge


def test_a_digit_of_the_dataset_comes_out_as_it_is() -> None:
    differences = [difference(laid(digit), digit) for digit in DIGITS]
    assert np.mean(differences) < 1  # of 255


@pytest.mark.parametrize(("mode", "format"), KINDS)
def test_a_digit_of_any_mode_is_the_same_digit(mode: str, format: str) -> None:
    differences = []
    for digit in DIGITS[:1000:50]:
        pixels = np.stack([255 - enlarged(digit, 140)] * 3, axis=-1)
        found = read_picture(saved(pixels, mode, format), MNIST)
        assert found.size == (140, 140)
        assert found.resized
        assert found.image.shape == (28, 28, 1)
        differences.append(difference(found.image[..., 0], digit))
    assert np.mean(differences) < NEAR


def test_one_pixel_beside_its_place_a_digit_is_no_longer_near() -> None:
    assert np.mean([difference(np.roll(digit, 1, axis=1), digit) for digit in DIGITS[:1000:50]]) > 1.5 * NEAR


def test_paper_need_not_be_evenly_lit_nor_clean() -> None:
    random = np.random.default_rng(0)
    differences = []
    for digit in DIGITS[:1000:50]:
        sheet = np.zeros((500, 420), np.float32)
        sheet[120:400, 80:360] = enlarged(digit, 280) / 255
        pixels = painted(sheet, random).astype(float)
        y, x = np.mgrid[-1:1:500j, -1:1:420j]
        pixels *= (1 - 0.25 * (x * x + y * y) / 2 + 0.15 * x)[..., None]  # a lamp from the right
        pixels[30:36, 380:386] = pixels[460:464, 20:24] = 255 - pixels[30:36, 380:386].mean()  # dirt
        differences.append(difference(laid(pixels.clip(0, 255).astype(np.uint8)), digit))
    assert np.mean(differences) < NEAR


def test_a_shadow_with_an_edge_is_no_ink() -> None:
    random = np.random.default_rng(0)
    differences = []
    for digit in DIGITS[:1000:50]:
        sheet = np.zeros((500, 420), np.float32)
        sheet[150:350, 100:300] = enlarged(digit, 200) / 255
        y, x = np.mgrid[-1:1:500j, -1:1:420j]
        shadow = 1 / (1 + np.exp(-12 * (x + y / 2 - random.uniform(-0.6, 0.6))))
        pixels = (235 - 190 * sheet) * (1 - 0.2 * shadow) + random.normal(0, 2, sheet.shape)
        differences.append(difference(laid(pixels.clip(0, 255).astype(np.uint8)), digit))
    assert np.mean(differences) < 1.2 * NEAR


def test_ink_that_goes_over_the_border_is_no_paper() -> None:
    pixels = np.full((200, 200), 240, np.uint8)
    pixels[:, 90:110] = 30
    image = laid(pixels)
    assert image[14, 14] == 255
    assert image[14, 4] == 0


def test_a_thin_line_on_a_large_sheet_becomes_as_wide_as_a_pens() -> None:
    thin = Image.new("L", (900, 900), 255)
    ImageDraw.Draw(thin).ellipse((300, 250, 600, 700), outline=0, width=5)
    wide = Image.new("L", (900, 900), 255)
    ImageDraw.Draw(wide).ellipse((290, 240, 610, 710), outline=0, width=45)
    inked = [np.count_nonzero(laid(np.asarray(sheet)) > 128) for sheet in (thin, wide)]
    assert inked[0] == pytest.approx(inked[1], rel=0.25)


def test_transparent_paper_is_white_unless_the_ink_is() -> None:
    digit = enlarged(DIGITS[3], 100)
    for ink in (0, 255):
        pixels = np.dstack([np.full((100, 100, 3), ink, np.uint8), digit])
        assert difference(read_picture(png(pixels), MNIST).image[..., 0], DIGITS[3]) < NEAR


def test_a_photo_is_turned_as_its_camera_says() -> None:
    digit = DIGITS[300]
    image = Image.fromarray(255 - enlarged(digit, 140)).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6
    content = io.BytesIO()
    image.save(content, "JPEG", exif=exif)
    assert difference(read_picture(content.getvalue(), MNIST).image[..., 0], digit) < NEAR


def test_of_an_animation_the_first_picture_counts() -> None:
    first, *others = (Image.fromarray(enlarged(digit, 100)) for digit in DIGITS[[300, 0, 900]])
    content = io.BytesIO()
    first.save(content, "GIF", save_all=True, append_images=others)
    assert difference(read_picture(content.getvalue(), MNIST).image[..., 0], DIGITS[300]) < NEAR


def test_as_it_is_means_as_it_is() -> None:
    for digit in (DIGITS[0], 255 - DIGITS[0]):
        found = read_picture(png(digit), AS_IS)
        np.testing.assert_array_equal(found.image[..., 0], digit)
        assert not found.resized
    assert difference(read_picture(png(enlarged(DIGITS[0], 280)), AS_IS).image[..., 0], DIGITS[0]) < 5
    small = read_picture(png(DIGITS[0]), Layout.of("sklearn-digits", (8, 8), as_is=True))
    assert small.image.shape == (8, 8, 1)
    assert small.resized


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "got an empty file"),
        (b"no picture", "expected a picture (PNG, JPEG, GIF, BMP, TIFF, WEBP, PPM), got something else"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "got something else"),  # a program would read it
        (header_only(60_000, 60_000), "expected at most 50,000,000 pixels"),
        (header_only(10_000, 10_000), "expected at most 50,000,000 pixels, got 10,000 x 10,000"),
        (header_only(28, 28), "expected a whole picture, got a damaged one"),
        (png(enlarged(DIGITS[0], 300))[:-2_000], "expected a whole picture, got a damaged one"),
        (png(np.full((30, 30), 77, np.uint8)), "nothing stands out"),
        (png(np.random.default_rng(0).normal(128, 4, (300, 300)).astype(np.uint8)), "nothing stands out"),
        (png(np.zeros((1, 1), np.uint8)), "nothing stands out"),
    ],
)
def test_what_is_no_picture_of_anything_is_refused_in_no_time(content: bytes, message: str) -> None:
    begin = time.monotonic()
    with pytest.raises(ImageError) as refused:
        read_picture(content, MNIST)
    assert time.monotonic() - begin < 1
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@settings(deadline=None, max_examples=100)
@given(
    st.sampled_from(range(len(KINDS))),
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=8),
    st.floats(0, 1),
)
def test_a_damaged_file_is_a_picture_or_an_error_never_a_crash(
    kind: int, changes: list[tuple[float, int]], kept: float
) -> None:
    content = bytearray(saved(np.stack([DIGITS[0]] * 3, axis=-1), *KINDS[kind]))
    for place, value in changes:
        content[int(place * (len(content) - 1))] = value
    (found,) = read_pictures([bytes(content[: int(kept * len(content)) + 1])], MNIST)
    assert isinstance(found, ImageError) or found.image.shape == (28, 28, 1)


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1), st.sampled_from([2, 20, 256]))
def test_any_pixels_are_a_picture_or_an_error_never_a_crash(height: int, width: int, seed: int, levels: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, levels, (height, width, 3)).astype(np.uint8)
    (found,) = read_pictures([png(pixels)], MNIST)
    assert isinstance(found, ImageError) or found.image.max() == 255


def test_folders_are_walked_in_order_and_named_files_are_taken_whatever_their_name(tmp_path: Path) -> None:
    for name in ("b.png", "a/z.JPG", "a/.hidden.png", ".git/x.png", "a/notes.txt", "c.gif", "empty/notes"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
    named = [tmp_path / "a/notes.txt", tmp_path, tmp_path / "empty", tmp_path / "gone.png"]
    names = ["a/notes.txt", "a/z.JPG", "b.png", "c.gif", "empty", "gone.png"]
    assert find_pictures(named) == [tmp_path / name for name in names]
    assert "got a folder without any" in str(content_or_error(tmp_path / "empty"))
    assert "at which nothing is" in str(content_or_error(tmp_path / "gone.png"))


def test_a_file_is_not_read_if_it_is_too_large_or_none(tmp_path: Path) -> None:
    large = tmp_path / "large.png"
    with large.open("wb") as file:
        file.truncate(11_000_000)
    with pytest.raises(ImageError, match=r"expected at most 10 MB, got 11\.0"):
        read_content(large)
    for path in (Path("/dev/zero"), Path("/dev/null"), Path("a\0b"), tmp_path / ("x" * 300)):
        assert isinstance(content_or_error(path), ImageError)
