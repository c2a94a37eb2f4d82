"""Smoke tests of the benchmarks on drawn pictures: networks, sizes and augmentations train a few steps."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import few_pictures, photographs, pictures
from mnist_lib.training.assignment import Resources

pytestmark = [pytest.mark.slow, pytest.mark.long]


@pytest.mark.usefixtures("tensorflow")
def test_few_pictures_are_trained_on_without_validation_images() -> None:
    train, test = few_pictures.splits_of(None)
    found = few_pictures.accuracies("keras", 100, train, test, [0, 1], Resources(cpus=2, cpu_replicas=2), epochs=10)
    assert len(found) == 2
    assert all(0.5 < accuracy < 0.9 for accuracy in found)
    assert few_pictures.row("keras", 300, [0.84, 0.86], 84.5) == "| keras | 300 | 85.00% | 1.41 | 84.5% |"


def test_networks_are_compared_on_the_same_drawn_pictures(tmp_path: Path) -> None:
    sets = {name: replace(drawn, train=40, test=20) for name, drawn in pictures.picture_sets(None, None).items()}
    assert set(sets) == set(pictures.NAMES)
    for name, drawn in sets.items():
        for folder in ("first", "again", "other"):
            drawn.write(tmp_path / folder / name, seed=7 if folder == "other" else 3)
        first, again, other = (
            [file.read_bytes() for file in sorted((tmp_path / folder / name).rglob("*.png"))]
            for folder in ("first", "again", "other")
        )
        assert len(first) == 60
        assert first == again
        assert not {*first} & {*other}
        assert len({Image.open(io.BytesIO(content)).size for content in first}) > 10
    cells = [("keras-fast", 8), few_pictures.BASELINE]
    (lines,) = few_pictures.on_sets({"letters": sets["letters"]}, cells, [0, 1])
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("| keras-")]
    assert [row[:2] for row in rows] == [["keras-fast", "8"], ["keras-cnn", "64"]]
    assert rows[1][3:5] == ["+0.00 (+0.00 to +0.00)", "1.00"]
    assert all(0 <= float(row[2].rstrip("%")) < 100 and float(row[5]) > 0 for row in rows)


def test_augmentations_are_compared_on_the_same_photographs() -> None:
    few = replace(photographs.PHOTOGRAPHS, train=30, test=12)
    found = photographs.accuracies(few, [("keras", "none"), ("keras", "photos")], draws=2)
    lines = photographs.table(found)
    assert len(lines) == 4
    assert lines[2].startswith("| keras | `none` | ")
    assert all(0 <= accuracy <= 100 for of_cell in found.values() for accuracy in of_cell)
    one, again, other = (photographs.photograph(2, False, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert one.tobytes() == again.tobytes() != other.tobytes()
