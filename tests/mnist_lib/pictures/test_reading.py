"""Pictures of every mode and format are read, and files of any content cost little to refuse."""

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mnist_lib.errors import ImageError
from mnist_lib.pictures.reading import (
    Layout,
    Shape,
    content_or_error,
    find_pictures,
    read_content,
    read_picture,
    read_pictures,
)
from tests.support.digits import DIGITS, MAX_DIFFERENCE, difference, enlarged
from tests.support.drawing import KINDS, header_only, png, saved
from tests.support.processor import at_most_processor_seconds

MNIST = Layout.of("mnist", Shape(28, 28, 1))
AS_IS = Layout.of("mnist", Shape(28, 28, 1), as_is=True)


@pytest.mark.parametrize(("mode", "format"), KINDS)
def test_a_digit_is_the_same_in_every_mode_and_format(mode: str, format: str) -> None:
    differences = []
    for digit in DIGITS[:1000:50]:
        pixels = np.stack([255 - enlarged(digit, 140)] * 3, axis=-1)
        found = read_picture(saved(pixels, mode, format), MNIST)
        assert found.size == (140, 140)
        assert found.resized
        assert found.image.shape == (28, 28, 1)
        differences.append(difference(found.image[..., 0], digit))
    assert np.mean(differences) < MAX_DIFFERENCE


def test_transparent_paper_is_white_unless_the_ink_is_white() -> None:
    digit = enlarged(DIGITS[3], 100)
    for ink in (0, 255):
        pixels = np.dstack([np.full((100, 100, 3), ink, np.uint8), digit])
        assert difference(read_picture(png(pixels), MNIST).image[..., 0], DIGITS[3]) < MAX_DIFFERENCE


def test_a_photo_is_rotated_as_its_exif_data_say() -> None:
    digit = DIGITS[300]
    image = Image.fromarray(255 - enlarged(digit, 140)).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6
    content = io.BytesIO()
    image.save(content, "JPEG", exif=exif)
    assert difference(read_picture(content.getvalue(), MNIST).image[..., 0], digit) < MAX_DIFFERENCE


def test_the_first_frame_of_an_animation_is_read() -> None:
    first, *others = (Image.fromarray(enlarged(digit, 100)) for digit in DIGITS[[300, 0, 900]])
    content = io.BytesIO()
    first.save(content, "GIF", save_all=True, append_images=others)
    assert difference(read_picture(content.getvalue(), MNIST).image[..., 0], DIGITS[300]) < MAX_DIFFERENCE


def test_the_as_is_option_prevents_cropping_and_inversion() -> None:
    for digit in (DIGITS[0], 255 - DIGITS[0]):
        found = read_picture(png(digit), AS_IS)
        np.testing.assert_array_equal(found.image[..., 0], digit)
        assert not found.resized
    assert difference(read_picture(png(enlarged(DIGITS[0], 280)), AS_IS).image[..., 0], DIGITS[0]) < 5
    small = read_picture(png(DIGITS[0]), Layout.of("sklearn-digits", Shape(8, 8, 1), as_is=True))
    assert small.image.shape == (8, 8, 1)
    assert small.resized


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "got an empty file"),
        (b"no picture", "expected a picture (PNG, JPEG, GIF, BMP, TIFF, WEBP, PPM), got something else"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "got something else"),  # a program, for Ghostscript
        (header_only(60_000, 60_000), "expected at most 50,000,000 pixels"),
        (header_only(10_000, 10_000), "expected at most 50,000,000 pixels, got 10,000 x 10,000"),
        (header_only(28, 28), "expected a complete picture, got a damaged one"),
        (png(enlarged(DIGITS[0], 300))[:-2_000], "expected a complete picture, got a damaged one"),
        (png(np.full((30, 30), 77, np.uint8)), "too little contrast"),
        (png(np.random.default_rng(0).normal(128, 4, (300, 300)).astype(np.uint8)), "too little contrast"),
        (png(np.zeros((1, 1), np.uint8)), "too little contrast"),
    ],
)
def test_a_file_that_is_not_a_usable_picture_is_refused_within_a_second(content: bytes, message: str) -> None:
    with at_most_processor_seconds(1), pytest.raises(ImageError) as refused:
        read_picture(content, MNIST)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@settings(deadline=None, max_examples=100)
@given(
    st.sampled_from(range(len(KINDS))),
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=8),
    st.floats(0, 1),
)
def test_a_damaged_file_gives_a_picture_or_an_image_error(
    kind: int, changes: list[tuple[float, int]], kept: float
) -> None:
    content = bytearray(saved(np.stack([DIGITS[0]] * 3, axis=-1), *KINDS[kind]))
    for place, value in changes:
        content[int(place * (len(content) - 1))] = value
    (found,) = read_pictures([bytes(content[: int(kept * len(content)) + 1])], MNIST)
    assert isinstance(found, ImageError) or found.image.shape == (28, 28, 1)


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1), st.sampled_from([2, 20, 256]))
def test_random_pixels_give_a_picture_or_an_image_error(height: int, width: int, seed: int, levels: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, levels, (height, width, 3)).astype(np.uint8)
    (found,) = read_pictures([png(pixels)], MNIST)
    assert isinstance(found, ImageError) or found.image.max() == 255


def test_folders_are_searched_in_order_and_named_files_are_always_included(tmp_path: Path) -> None:
    for name in ("b.png", "a/z.JPG", "a/.hidden.png", ".git/x.png", "a/notes.txt", "c.gif", "empty/notes"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
    named = [tmp_path / "a/notes.txt", tmp_path, tmp_path / "empty", tmp_path / "gone.png"]
    names = ["a/notes.txt", "a/z.JPG", "b.png", "c.gif", "empty", "gone.png"]
    assert find_pictures(named) == [tmp_path / name for name in names]
    assert "got a folder without any" in str(content_or_error(tmp_path / "empty"))
    assert "got a path that does not exist" in str(content_or_error(tmp_path / "gone.png"))


def test_a_file_that_is_too_large_or_not_a_file_is_refused(tmp_path: Path) -> None:
    large = tmp_path / "large.png"
    with large.open("wb") as file:
        file.truncate(11_000_000)
    with pytest.raises(ImageError, match=r"expected at most 10 MB, got 11\.0"):
        read_content(large)
    for path in (Path("/dev/zero"), Path("/dev/null"), Path("a\0b"), tmp_path / ("x" * 300)):
        assert isinstance(content_or_error(path), ImageError)
