"""The hash of an image's pixels: it identifies an image whatever its file is called, and assigns it to a split."""

import hashlib

import numpy as np
from numpy.typing import NDArray

# [n, 2]: the first 16 bytes of a sha256. The chance that two of a million images share them is below 10**-26.
ImageHashes = NDArray[np.uint64]

TEST_SHARE = 0.15  # of the pictures of a folder, if there is no test folder

IMAGES_PER_BLOCK = 4_096  # bounds the memory for their colours


def hashes_of(images: NDArray[np.uint8]) -> ImageHashes:
    """Return the hashes of images, [n, height, width, channels]: picture files with these pixels have the same."""
    count, height, width, channels = images.shape
    size = hashlib.sha256(f"{(width, height)}".encode())
    hashes = np.empty((count, 2), np.uint64)
    for first in range(0, count, IMAGES_PER_BLOCK):
        block = images[first : first + IMAGES_PER_BLOCK]
        colours = np.full((*block.shape[:3], 4), 255, np.uint8)  # red, green, blue, opacity
        colours[..., : channels if channels > 1 else 3] = block
        for index, pixels in enumerate(colours.reshape(len(block), -1), start=first):
            digest = size.copy()
            digest.update(pixels.data)
            hashes[index] = np.frombuffer(digest.digest()[:16], np.uint64)
    return hashes


def indices_of(hashes: ImageHashes, among: ImageHashes) -> NDArray[np.int64]:
    """Return the index in `among`, [n, 2], of an image with each hash, or -1 if there is none."""
    if not len(among):
        return np.full(len(hashes), -1)
    # A number for each hash in `among`, from the ranks of its halves: whoever writes a file may repeat one half.
    (first, first_rank), (second, second_rank) = (np.unique(half, return_inverse=True) for half in among.T)
    numbers = first_rank * len(second) + second_rank
    order = np.argsort(numbers)
    wanted = np.searchsorted(first, hashes[:, 0]) * len(second) + np.searchsorted(second, hashes[:, 1])
    found = order[np.minimum(np.searchsorted(numbers[order], wanted), len(among) - 1)]
    return np.where((among[found] == hashes).all(axis=1), found, -1)


def shares_of(hashes: ImageHashes) -> NDArray[np.float64]:
    """Return two numbers from 0 to 1 for each image, [n, 2], by which it is assigned to splits."""
    return hashes / 2.0**64


def is_held_out(hashes: ImageHashes) -> NDArray[np.bool_]:
    """Return whether each image is for the test, [n], if only its pixels decide."""
    held_out: NDArray[np.bool_] = shares_of(hashes)[:, 0] < TEST_SHARE
    return held_out


def text_of(image_hash: NDArray[np.uint64]) -> str:
    """Return a hash, [2], as 32 hexadecimal digits."""
    return image_hash.tobytes().hex()


def hash_of_text(text: str) -> NDArray[np.uint64]:
    """Return the hash, [2], that `text_of` has written."""
    return np.frombuffer(bytes.fromhex(text), np.uint64)
