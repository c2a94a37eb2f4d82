"""What is told of a dataset before one trains on it: as a document, and as tables for people."""

from pathlib import Path
from typing import Any

import numpy as np
from rich.bar import Bar
from rich.console import Console
from rich.table import Table

from mnist_lib.catalog import DATASETS, NUM_CLASSES
from mnist_lib.data.split import Dataset, Split

BAR_CHARACTERS = 20


def describe(dataset: Dataset, data_dir: Path | None) -> dict[str, Any]:
    """
    Args:
        data_dir: TFDS' folder, in which it is prepared; None if it could not be kept anywhere.
    """
    entry = DATASETS[dataset.name]
    folder = data_dir / entry.tfds_name / dataset.version if data_dir else None
    return {
        "name": dataset.name,
        "about": entry.about,
        "version": dataset.version,
        "fingerprint": dataset.fingerprint,
        "image_shape": list(dataset.image_shape),
        "prepared_in": str(folder) if folder else None,
        "splits": {"train": _describe(dataset.train), "test": _describe(dataset.test)},
    }


def _describe(split: Split) -> dict[str, Any]:
    return {
        "images": len(split),
        "per_class": np.bincount(split.labels, minlength=NUM_CLASSES).tolist(),
        "lowest_pixel": int(split.images.min()),
        "highest_pixel": int(split.images.max()),
        "mean_pixel": float(split.images.mean()),
    }


def render(description: dict[str, Any], console: Console) -> None:
    height, width, _ = description["image_shape"]
    train, test = description["splits"]["train"], description["splits"]["test"]
    facts = {
        "train": f"{train['images']:,} images, {_pixels(train)}",
        "test": f"{test['images']:,} images, {_pixels(test)}",
        "image": f"{height} x {width} pixels, one channel, uint8",
        "prepared": description["prepared_in"] or "again for every run: no folder for datasets can be written",
        "fingerprint": description["fingerprint"],
    }
    console.print(
        f"{description['name']} {description['version']}: {description['about']}\n", style="bold", highlight=False
    )
    for what, text in facts.items():
        console.print(f"  {what:11}  {text}", soft_wrap=True, markup=False, highlight=False)
    console.print()
    console.print(_classes(train["per_class"], test["per_class"]))


def _pixels(split: dict[str, Any]) -> str:
    return f"pixels {split['lowest_pixel']} to {split['highest_pixel']}, {split['mean_pixel']:.1f} on average"


def _classes(train: list[int], test: list[int]) -> Table:
    table = Table(box=None, padding=(0, 1))
    table.add_column("class", justify="right")
    for heading in ("train", "test"):
        table.add_column(heading, justify="right")
        table.add_column(width=BAR_CHARACTERS)
    for label, counts in enumerate(zip(train, test, strict=True)):
        cells: list[Any] = []
        for count, largest in zip(counts, (max(train), max(test)), strict=True):
            cells += [f"{count:,}", Bar(largest, 0, count, width=BAR_CHARACTERS)]
        table.add_row(str(label), *cells)
    return table
