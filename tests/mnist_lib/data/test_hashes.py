"""The hash of an image is that of its picture in a file, whatever the format."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mnist_lib.data.table import hash_of_text, hashes_of, indices_of, text_of
from mnist_lib.pictures.reading import Layout, Shape, read_picture


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_an_image_has_the_hash_of_its_picture(channels: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 9, 7, channels), np.uint8)
    for image, image_hash in zip(images, hashes_of(images), strict=True):
        file = io.BytesIO()
        Image.fromarray(image if channels > 1 else image[..., 0]).save(file, "PNG")
        picture = read_picture(file.getvalue(), Layout(shape=Shape(9, 7, channels)))
        assert image_hash.tobytes() == picture.sha256[:16]
        assert hash_of_text(text_of(image_hash)).tolist() == image_hash.tolist()


def test_every_pixel_and_the_proportions_count() -> None:
    image = np.zeros((1, 4, 6, 1), np.uint8)
    others = [image.reshape(1, 6, 4, 1), image.copy(), image.copy()]
    others[1][0, 0, 0], others[2][0, 3, 5] = 1, 1
    found = {text_of(hashes_of(images)[0]) for images in (image, *others)}
    assert len(found) == 4


def test_many_images_have_the_hashes_of_each() -> None:
    images = np.random.default_rng(1).integers(0, 256, (5_000, 2, 3, 1), np.uint8)
    assert np.array_equal(hashes_of(images), np.concatenate([hashes_of(images[:4_500]), hashes_of(images[4_500:])]))


@given(
    st.lists(st.sampled_from([(0, 3), (1, 0), (2, 2), (3, 0)])),
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4))),
)
def test_the_first_equal_hash_is_found_if_and_only_if_both_halves_agree(
    among: list[tuple[int, int]], asked: list[tuple[int, int]]
) -> None:
    known, wanted = (np.array(pairs, np.uint64).reshape(len(pairs), 2) for pairs in (among, asked))
    expected = [among.index(pair) if pair in among else -1 for pair in asked]
    assert indices_of(wanted, known).tolist() == expected
