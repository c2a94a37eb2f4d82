"""Pictures of every mode and format are read, and files of any content cost little to refuse."""

import contextlib
import io
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mnist_lib.errors import ImageError
from mnist_lib.pictures.reading import (
    Layout,
    Shape,
    read_content,
    read_file,
    read_picture,
)
from tests.support.bounds import at_most_processor_seconds
from tests.support.digits import DIGITS, MAX_DIFFERENCE, difference, enlarged
from tests.support.drawing import KINDS, header_only, png, saved
from tests.support.hostile_pictures import AS_IS, COLOUR, of_numbers
from tests.support.hostile_pictures import DIGIT as MNIST


def refusal(path: Path) -> str:
    with pytest.raises(ImageError) as refused:
        read_file(path, MNIST)
    return str(refused.value)


@pytest.mark.parametrize(("mode", "format"), KINDS)
def test_i5_a_digit_is_the_same_in_every_mode_and_format(mode: str, format: str) -> None:
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
        (b"\x89PNG\r\n\x1a\n" + bytes(40), "expected a complete picture, got a damaged one; copy or save it again"),
        (b"no picture", "expected a picture (PNG, JPEG, GIF, BMP, TIFF, WEBP, PPM), got something else"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "got something else"),  # a program, for Ghostscript
        (header_only(60_000, 60_000), "expected at most 50,000,000 pixels"),
        (header_only(10_000, 10_000), "expected at most 50,000,000 pixels, got 10,000 x 10,000"),
        (header_only(28, 28), "expected a complete picture, got a damaged one"),
        (png(enlarged(DIGITS[0], 300))[:-2_000], "expected a complete picture, got a damaged one"),
        (png(np.full((30, 30), 77, np.uint8)), "too little contrast"),
        (png(np.zeros((1, 1), np.uint8)), "too little contrast"),
    ],
)
def test_i6_a_file_that_is_not_a_usable_picture_is_refused_within_a_second(content: bytes, message: str) -> None:
    with at_most_processor_seconds(1), pytest.raises(ImageError) as refused:
        read_picture(content, MNIST)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


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
    with contextlib.suppress(ImageError):
        found = read_picture(bytes(content[: int(kept * len(content)) + 1]), MNIST)
        assert found.image.shape == (28, 28, 1)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1), st.sampled_from([2, 20, 256]))
def test_random_pixels_give_a_picture_or_an_image_error(height: int, width: int, seed: int, levels: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, levels, (height, width, 3)).astype(np.uint8)
    with contextlib.suppress(ImageError):
        found = read_picture(png(pixels), MNIST)
        assert found.image.max() == 255 or found.likeness == 0  # no ink


def test_a_file_that_is_too_large_or_not_a_file_is_refused(tmp_path: Path) -> None:
    large = tmp_path / "large.png"
    with large.open("wb") as file:
        file.truncate(11_000_000)
    with pytest.raises(ImageError, match=r"expected at most 10 MB, got 11\.0"):
        read_content(large)
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "endless.png").symlink_to("/dev/zero")
    for path in (tmp_path / "pipe.png", tmp_path / "endless.png", Path("/dev/null")):
        assert "got a device, a pipe or a socket" in refusal(path)
    for path in (Path("a\0b"), tmp_path / ("x" * 300), Path("x/" * 2_500)):
        assert "expected a file that can be read" in refusal(path)


def test_a_file_that_changes_while_it_is_read_and_one_of_the_kernel_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "expected the 0 bytes of a file, got more" in refusal(Path("/proc/self/environ"))
    path, before = tmp_path / "changing.png", png(DIGITS[0])

    def changed(content: bytes) -> str:
        """Return the refusal of a file that gets another content when it is opened."""

        def change(name: str, flags: int) -> int:
            path.write_bytes(content)
            return os.open(name, flags)

        path.write_bytes(before)
        with monkeypatch.context() as patched:
            patched.setattr("mnist_lib.pictures.reading._open", change)
            return refusal(path)

    assert f"expected the {len(before)} bytes of a file, got more" in changed(before + b"x")
    assert f"expected the {len(before)} bytes of a file, got 9" in changed(bytes(9))


@pytest.mark.parametrize("values", [(np.nan,), (0, np.nan), (1, np.inf), (-np.inf, 3)])
def test_a_picture_of_numbers_that_are_not_finite_is_refused(values: tuple[float, ...]) -> None:
    for layout in (MNIST, AS_IS, COLOUR):
        with pytest.raises(ImageError, match="expected a number for each pixel, got infinity or NaN"):
            read_picture(of_numbers(*values), layout)


@pytest.mark.parametrize("values", [(-3.4e38, 3.4e38), (0, 1e-45), (1e30, 1e30), (-5, 0, 7)])
def test_a_picture_of_numbers_in_any_range_is_read(values: tuple[float, ...]) -> None:
    image = read_picture(of_numbers(*values), Layout(shape=Shape(20, 30, 3))).image
    assert image.min() == 0
    assert image.max() == (0 if len(set(values)) == 1 or max(values) < 1e-9 else 255)
