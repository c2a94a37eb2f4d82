"""Digits are accepted; rows of digits, letters, photographs and noise are not."""

import gzip
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from mnist_lib.errors import ImageError
from mnist_lib.pictures.reading import Layout, Picture, Shape, read_picture
from mnist_lib.pictures.rejecting import NOT_ONE_DIGIT, UNSURE, rejection
from mnist_lib.results import Accuracy
from tests.support.digits import DIGITS, enlarged
from tests.support.drawing import drawn, painted, png

MNIST = Layout.of("mnist", Shape(28, 28, 1))
SMALL = Layout.of("sklearn-digits", Shape(8, 8, 1))
DATA = Path(matplotlib.get_data_path())
FONTS = ("DejaVuSans", "DejaVuSerif", "DejaVuSansMono-Bold", "STIXGeneral", "STIXGeneralItalic")
SURE = np.eye(10, dtype=np.float32)[4]  # the probabilities of a model that is sure of a 4
AMBIGUOUS = "OoIlZzSsBbqg"  # see docs/predict.md


def written(text: str, font: str = "DejaVuSans") -> NDArray[np.uint8]:
    """Return text in a font that comes with Matplotlib, black on white."""
    image = Image.new("L", (60 * len(text) + 80, 160), 255)
    type = ImageFont.truetype(DATA / "fonts/ttf" / f"{font}.ttf", 90)
    ImageDraw.Draw(image).text((40, 20), text, 0, type)
    return np.asarray(image)


def answer(pixels: NDArray[np.uint8], layout: Layout = MNIST) -> str | None:
    return rejection(read_picture(png(pixels), layout).likeness, SURE)


def share(reasons: Sequence[str | None]) -> float:
    return float(np.mean([reason is not None for reason in reasons]))


@pytest.mark.parametrize("layout", [MNIST, SMALL, Layout.of("mnist", Shape(28, 28, 1), as_is=True)])
def test_digits_are_accepted_by_every_layout(layout: Layout) -> None:
    assert share([answer(DIGITS[number], layout) for number in range(0, 1_000, 7)]) <= 0.02
    assert share([answer(enlarged(DIGITS[number], 140), layout) for number in range(0, 1_000, 13)]) <= 0.02


@pytest.mark.slow
@pytest.mark.long
def test_drawn_digits_are_accepted() -> None:
    reasons = [rejection(read_picture(drawn(DIGITS[n], n), MNIST).likeness, SURE) for n in range(0, 1_000, 21)]
    assert share(reasons) <= 0.03


@pytest.mark.parametrize("layout", [MNIST, SMALL])
@pytest.mark.parametrize("text", ["314", "A", "10", "42", "Hello", "K"])
def test_a_number_of_several_digits_a_letter_and_a_word_are_rejected(text: str, layout: Layout) -> None:
    assert answer(written(text), layout) == NOT_ONE_DIGIT
    assert answer(255 - written(text), layout) == NOT_ONE_DIGIT


@pytest.mark.slow
def test_printed_digits_are_accepted_and_letters_are_not() -> None:
    letters = [letter for letter in map(chr, [*range(65, 91), *range(97, 123)]) if letter not in AMBIGUOUS]
    assert share([answer(written(letter, font)) for font in FONTS for letter in letters]) >= 0.9
    assert share([answer(written(str(digit), font)) for font in FONTS for digit in range(10)]) <= 0.1


def test_two_handwritten_digits_are_rejected() -> None:
    random = np.random.default_rng(0)
    pairs = [np.concatenate([*DIGITS[random.integers(0, 1_000, 2)]], axis=1) for _ in range(200)]
    assert share([answer(pair) for pair in pairs]) >= 0.95


@pytest.mark.slow
def test_photographs_are_rejected() -> None:
    with Image.open(DATA / "sample_data/grace_hopper.jpg") as image:
        photo = image.convert("RGB")
    parts = [photo] + [photo.crop((x, y, x + 200, y + 200)) for x in range(0, 300, 60) for y in range(0, 400, 60)]
    assert share([answer(np.asarray(part)) for part in parts]) >= 0.9


def test_an_empty_sheet_with_noise_is_not_one_digit_and_one_of_a_single_colour_is_an_error() -> None:
    for seed in range(10):
        sheet = painted(np.zeros((200, 150), np.float32), np.random.default_rng(seed))
        assert answer(sheet) == NOT_ONE_DIGIT
    random = np.random.default_rng(0)
    for deviation in (1, 4, 30):
        noise = random.normal(128, deviation, (90, 90, 3)).clip(0, 255).astype(np.uint8)
        assert answer(noise) == NOT_ONE_DIGIT
    with pytest.raises(ImageError, match="too little contrast"):
        answer(np.full((90, 90), 250, np.uint8))
    as_before = Layout.of("mnist", Shape(28, 28, 1), accept_all=True)
    with pytest.raises(ImageError, match="too little contrast"):
        read_picture(png(noise), as_before)


def test_only_pictures_for_models_of_the_ten_digits_are_judged() -> None:
    for layout in (
        Layout.of("kmnist", Shape(28, 28, 1)),
        Layout.of("./digits", Shape(28, 28, 1)),
        Layout.of("mnist", Shape(28, 28, 1), accept_all=True),
    ):
        assert read_picture(png(written("314")), layout).likeness is None
        assert answer(written("314"), layout) is None


@pytest.mark.slow
def test_the_image_for_the_model_is_the_same_whether_the_picture_is_judged_or_not() -> None:
    unjudged = Layout.of("mnist", Shape(28, 28, 1), accept_all=True)
    for number in range(0, 1_000, 100):
        content = drawn(DIGITS[number], number // 100)  # each kind of picture
        one, other = (read_picture(content, layout) for layout in (MNIST, unjudged))
        np.testing.assert_array_equal(one.image, other.image)


def test_a_model_that_doubts_makes_an_answer_unsure_but_no_picture_less_of_a_digit() -> None:
    doubtful = np.full(10, 0.1, np.float32)
    assert [rejection(likeness, doubtful) for likeness in (None, 0.9, 0.0)] == [UNSURE, UNSURE, NOT_ONE_DIGIT]
    assert [rejection(likeness, SURE) for likeness in (None, 0.9, 0.0)] == [None, None, NOT_ONE_DIGIT]
    assert Picture(DIGITS[:1], (28, 28)).likeness is None


@pytest.mark.long
@pytest.mark.mnist
def test_at_most_2_percent_of_the_test_digits_of_mnist_are_rejected(mnist_source: Path) -> None:
    content = gzip.decompress((mnist_source / "t10k-images-idx3-ubyte.gz").read_bytes())
    images = np.frombuffer(content, np.uint8, offset=16).reshape(-1, 28, 28)
    rejected = sum(answer(image) is not None for image in images)
    assert Accuracy(rejected, len(images)).value <= 0.02
