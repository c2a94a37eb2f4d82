"""Pictures that show none of the classes. A model that is trained with them as a further class rejects most others, too
(outlier exposure: Hendrycks et al., 2019).

They are made from the pictures of a batch while it is read. A kind that a class looks like is left out.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnist_lib.data.images import ImageArray, blocks

Pixels = NDArray[np.uint8]  # [n, height, width, channels], 0-255
Levels = NDArray[Any]  # the same as floating-point numbers; values beyond 0 to 255 are clipped
Random = np.random.Generator

SURFACES, COUNTER_EXAMPLES = "surfaces", "counter-examples"
PER_BATCH = 4  # pictures of a batch for each made-up one
MAX_CELLS = 8  # in a row and in a column
TILES = 3, 5  # limits of the same; in fewer and larger tiles, an object may be whole
MAX_BLOBS = 5
# Those that are harder to tell from real pictures are more.
SHARES = {"noise": 1, SURFACES: 1, "blobs": 2, "tiles": 2, "two": 4, COUNTER_EXAMPLES: 4}

# What a class looks like: a kind is left out if this share of the pictures of a class are like it.
LIKE_SHARE = 0.1
MAX_COMPARED = 2_000  # pictures
SIDE = 32  # pixels: roughness depends on the size, so larger pictures are reduced by leaving out pixels
MAX_FLAT = 8.0  # levels, the deviation from a plain or graded surface
MIN_NOISY, MAX_SMOOTH = 1.2, 0.3  # difference between neighbours / deviation; independent pixels have the root of 2
PARTS = 3  # in a row and in a column
MAX_UNEVEN = 0.2  # by how much the parts of a texture differ, in their means and their deviations


@dataclass(frozen=True)
class MadeUp:
    """The made-up pictures of a trial."""

    kinds: tuple[str, ...] = ()
    counter_examples: ImageArray | None = None  # given by the user, and used like a kind

    def count(self, batch_size: int) -> int:
        """Return how many are added to a batch of pictures."""
        return -(-batch_size // PER_BATCH) if self._all_kinds else 0

    def make(self, pictures: Pixels, count: int, random: Random) -> Pixels:
        """Return `count` made-up pictures of random kinds, in their shares.

        Args:
            pictures: from which they are made.
        """
        kinds = self._all_kinds
        shares = np.array([SHARES[kind] for kind in kinds])
        chosen = random.choice(len(kinds), size=count, p=shares / shares.sum())
        made = np.empty((count, *pictures.shape[1:]), np.uint8)
        for number, kind in enumerate(kinds):
            rows = np.flatnonzero(chosen == number)
            if kind == COUNTER_EXAMPLES:
                made[rows] = np.asarray(_some(self.counter_examples, len(rows), random))
            else:
                made[rows] = made_up(kind, _some(pictures, len(rows), random), random)
        return made

    @property
    def _all_kinds(self) -> tuple[str, ...]:
        has_some = self.counter_examples is not None and len(self.counter_examples) > 0
        return (*self.kinds, COUNTER_EXAMPLES) if has_some else self.kinds


def _some(pictures: Any, count: int, random: Random) -> Any:
    return pictures[random.integers(len(pictures), size=count)]


def made_up(kind: str, pictures: Pixels, random: Random) -> Pixels:
    """Return a made-up picture of a kind for each of the pictures, from which it may be made."""
    return np.clip(MAKERS[kind](pictures, random), 0, 255).astype(np.uint8)


def _noise(pictures: Pixels, random: Random) -> Levels:
    """Return pixels that vary independently around one colour, some of them in brightness alone."""
    deviation = random.uniform(10, 120, (len(pictures), 1, 1, 1))
    noise = random.standard_normal(pictures.shape, np.float32)
    is_grey = random.random((len(pictures), 1, 1, 1)) < 0.3
    return _colours(pictures, random) + deviation * np.where(is_grey, noise[..., :1], noise)


def _surfaces(pictures: Pixels, random: Random) -> Levels:
    """Return plain and graded surfaces."""
    count, height, width, channels = pictures.shape
    angle = random.uniform(0, 2 * np.pi, (count, 1, 1, 1))
    y, x = (np.linspace(-1, 1, side) for side in (height, width))
    along = np.cos(angle) * x[:, None] + np.sin(angle) * y[:, None, None]
    is_graded = random.random((count, 1, 1, 1)) < 0.5
    return _colours(pictures, random) + is_graded * random.uniform(-90, 90, (count, 1, 1, channels)) * along


def _colours(pictures: Pixels, random: Random) -> Levels:
    count, *_, channels = pictures.shape
    return random.uniform(0, 255, (count, 1, 1, channels))


def _blobs(pictures: Pixels, random: Random) -> Levels:
    """Return blurred colours, and plain ones with blobs of others."""
    made = _colours(pictures, random) + np.zeros(pictures.shape)
    for picture in made:
        height, width, channels = picture.shape
        if random.random() < 0.5:
            mean = picture.mean(axis=(0, 1))
            picture[:] = mean + random.uniform(0.3, 1.5) * (_blurred(height, width, channels, random) - mean)
            continue
        for _ in range(random.integers(1, MAX_BLOBS + 1)):
            field = _blurred(height, width, 1, random)[..., 0]
            picture[field > np.quantile(field, random.uniform(0.6, 0.95))] = random.uniform(0, 255, channels)
    return made


def _blurred(height: int, width: int, channels: int, random: Random) -> Levels:
    """Return colours that change smoothly: [height, width, channels]."""
    cells = int(random.integers(2, MAX_CELLS + 1))
    rows = _between(random.uniform(0, 255, (cells, cells, channels)), height)
    return _between(rows.swapaxes(0, 1), width).swapaxes(0, 1)


def _between(cells: Levels, length: int) -> Levels:
    """Return so many rows, interpolated between those of `cells`."""
    at = np.linspace(0, len(cells) - 1, length)
    low = np.minimum(at.astype(np.intp), len(cells) - 2)
    share = (at - low)[:, None, None]
    return np.asarray((1 - share) * cells[low] + share * cells[low + 1])


def _tiles(pictures: Pixels, random: Random) -> Pixels:
    """Return each picture with its tiles in another order."""
    made = pictures.copy()
    for picture, original in zip(made, pictures, strict=True):
        tiles = min(int(random.integers(*TILES)), *picture.shape[:2])
        height, width = (side // tiles for side in picture.shape[:2])
        places = [(y, x) for y in range(0, height * tiles, height) for x in range(0, width * tiles, width)]
        for (to_y, to_x), place in zip(places, random.permutation(len(places)), strict=True):
            y, x = places[place]
            picture[to_y : to_y + height, to_x : to_x + width] = original[y : y + height, x : x + width]
    return made


def _two(pictures: Pixels, random: Random) -> Pixels:
    """Return half of each picture beside or above half of another one: both narrowed, or both cut."""
    made = pictures.copy()
    others = pictures[random.permutation(len(pictures))]
    for turned_or_not in zip(made, pictures, others, strict=True):
        is_above, is_cut = random.random(2) < (0.7, 0.5)
        picture, one, other = turned_or_not if is_above else (each.swapaxes(0, 1) for each in turned_or_not)
        half = len(picture) // 2
        picture[:half] = one[len(one) - half :] if is_cut else one[::2][:half]
        picture[half : 2 * half] = other[:half] if is_cut else other[::2][:half]
    return made


MAKERS: dict[str, Callable[[Pixels, Random], Levels | Pixels]] = {
    "noise": _noise,
    SURFACES: _surfaces,
    "blobs": _blobs,
    "tiles": _tiles,
    "two": _two,
}


def kinds_unlike(pictures: ImageArray, labels: NDArray[np.integer]) -> tuple[str, ...]:
    """Return the kinds of made-up pictures that no class looks like.

    A class of plain colours, such as the empty squares of a chessboard, excludes surfaces, and a texture excludes what
    is made by moving its parts.

    Args:
        pictures, labels: those to train on.
    """
    if min(pictures.shape[1:3]) < PARTS:
        return ()
    every = -(-len(pictures) // MAX_COMPARED)
    stride = max(1, min(pictures.shape[1:3]) // SIDE)
    sample = pictures[::every]
    reduced = [np.asarray(sample[rows])[:, ::stride, ::stride] for rows in blocks(sample)]
    levels = np.concatenate(reduced, dtype=np.float32)
    is_flat, roughness = _flat_and_rough(levels)
    is_texture = is_flat | (_unevenness(levels) < MAX_UNEVEN)
    is_smooth = ~is_flat & (roughness < MAX_SMOOTH)
    is_like = {"noise": ~is_flat & (roughness > MIN_NOISY), SURFACES: is_flat, "blobs": is_smooth}
    is_like |= dict.fromkeys(("tiles", "two"), is_texture)
    sizes = np.bincount(labels[::every])
    return tuple(
        kind for kind, like in is_like.items() if (np.bincount(labels[::every], like) <= LIKE_SHARE * sizes).all()
    )


def is_blank(pictures: ImageArray) -> NDArray[np.bool_]:
    """Return whether each picture has one colour: [n]."""
    ranges = [np.ptp(picture, axis=(0, 1)).max() for picture in pictures]
    return np.array(ranges) <= MAX_FLAT


def _flat_and_rough(levels: Levels) -> tuple[NDArray[np.bool_], Levels]:
    """Return whether each picture is a plain or graded surface, and how much neighbours differ, relative to all."""
    for axis in (1, 2):  # without what a gradient along this axis explains
        side = np.linspace(-1, 1, levels.shape[axis]).reshape([-1 if each == axis else 1 for each in range(4)])
        levels = levels - levels.mean(axis=(1, 2), keepdims=True)
        slope = (levels * side).mean(axis=(1, 2), keepdims=True) / max((side**2).mean(), 1e-9)
        levels = np.asarray(levels - slope * side)
    deviation = _mean_root(levels)
    steps = np.stack([_mean_root(np.diff(levels, axis=axis)) for axis in (1, 2)])
    return deviation < MAX_FLAT, steps.mean(axis=0) / np.maximum(deviation, 1e-9)


def _unevenness(levels: Levels) -> Levels:
    """Return by how much the parts of each picture, three by three, differ in their means or in their deviations."""
    rows, columns = (np.array_split(np.arange(side), PARTS) for side in levels.shape[1:3])
    parts = [levels[:, row[:, None], column] for row in rows for column in columns]
    means = np.stack([part.mean(axis=(1, 2)) for part in parts])  # [parts, n, channels]
    deviations = np.stack([_mean_root(part - part.mean(axis=(1, 2), keepdims=True)) for part in parts])
    of_means = np.sqrt(means.var(axis=0).mean(axis=1))
    whole = _mean_root(levels - levels.mean(axis=(1, 2), keepdims=True))
    return np.asarray(np.maximum(of_means, deviations.std(axis=0)) / np.maximum(whole, 1e-9))


def _mean_root(levels: Levels) -> Levels:
    """Return the root of the mean square of each picture, [n]."""
    roots: Levels = np.sqrt((levels**2).mean(axis=(1, 2, 3)))
    return roots
