"""Digits of the full MNIST are read from pictures, however they were saved."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mnist_lib.data.table import Table
from tests.support.drawing import drawn, png
from tests.support.job import train

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.mnist, pytest.mark.usefixtures("tensorflow")]


@pytest.fixture(scope="module")
def mnist(
    mnist_source: Path, data_dir: Path, ray_address: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Table]:
    """A storage whose champion has at least 98% accuracy on the full MNIST, and 1,000 test images."""
    from mnist_lib.data.prepare import prepare
    from mnist_lib.data.request import DataRequest

    home = tmp_path_factory.mktemp("predict-mnist")
    data = ("--dataset=mnist", "--data-dir", data_dir, "--data-source", mnist_source)
    where = ("--address", ray_address, "--gpus-per-trial=0", "--storage", home / "results")
    how = ("--models=keras", "--epochs=8", "--optimizer=adam", "--schedule=one-cycle", "--learning-rate=0.003")
    code, stdout, stderr = train(*data, *where, *how, "--json", home=home)
    assert code == 0, stderr
    assert json.loads(stdout)["trials"][0]["test_accuracy"] >= 0.98
    test = prepare(DataRequest(dataset="mnist", data_dir=data_dir, data_source=mnist_source)).test
    return home / "results", test.take(np.random.default_rng(0).choice(10_000, 1_000, replace=False))


def _jpeg(image: Image.Image) -> bytes:
    content = io.BytesIO()
    image.save(content, "JPEG")
    return content.getvalue()


def _scaled(image: Image.Image, side: int) -> Image.Image:
    return image.resize((side, side), Image.Resampling.BICUBIC)


def predicted_digits(stdout: str) -> np.ndarray:
    """Return the answers, with -1 for a picture that is rejected, which counts as wrong."""
    return np.array([-1 if row["class"] is None else int(row["class"]) for row in json.loads(stdout)["pictures"]])


VARIANTS: dict[str, Callable[[Image.Image], bytes]] = {
    "PNG": lambda image: png(np.asarray(image)),
    "JPEG": _jpeg,
    "smaller": lambda image: png(np.asarray(_scaled(image, 22))),
    "large, as JPEG, dark on light": lambda image: _jpeg(Image.fromarray(255 - np.asarray(_scaled(image, 300)))),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_970_of_1000_saved_digits_are_predicted_right(
    variant: str, mnist: tuple[Path, Table], tmp_path: Path, predict: Any
) -> None:
    storage, test = mnist
    for number, image in enumerate(np.asarray(test.images)[..., 0]):
        (tmp_path / f"{number:04d}").write_bytes(VARIANTS[variant](Image.fromarray(image)))
    code, stdout, _ = predict(*sorted(tmp_path.iterdir()), "--storage", storage, "--json")
    assert code == 0
    assert (predicted_digits(stdout) == test.labels).mean() >= 0.97


def test_38_of_40_drawn_digits_are_predicted_right(mnist: tuple[Path, Table], tmp_path: Path, predict: Any) -> None:
    storage, test = mnist
    for number in range(40):
        (tmp_path / f"{number:04d}").write_bytes(drawn(test.images[number][..., 0], number))
    code, stdout, _ = predict(*sorted(tmp_path.iterdir()), "--storage", storage, "--json")
    assert code == 0
    assert (predicted_digits(stdout) == test.labels[:40]).mean() >= 0.95
