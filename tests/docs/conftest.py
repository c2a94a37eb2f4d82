"""A real storage for the snippets and the reference: one run, and the exported models that the documents mention."""

import contextlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs.models import __main__ as models
from mnist_lib.data.dataset import Dataset
from tests.support.shared import made_once


@pytest.fixture(scope="session")
def stored(
    gpu_run: tuple[dict[str, Any], Path],
    tensorflow: None,
    shared_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
    data_dir: Path,
    digits: Dataset,
) -> Path:
    """A folder with `results`, where both models are stored, `images.npy`, `labels.npy` and two exported models.

    Parallel test processes share them, and each has a copy.
    """

    def make(folder: Path) -> None:
        shutil.copytree(gpu_run[1] / "results", folder / "results")
        with contextlib.chdir(folder):
            for form in ("--format=onnx", "--format=litert"):
                to = ["--to=digits.onnx"] if "onnx" in form else []
                assert models.main(["export", "keras", form, *to, f"--data-dir={data_dir}"]) == 0
        np.save(folder / "images.npy", digits.test.images)
        np.save(folder / "labels.npy", digits.test.labels)

    copy = tmp_path_factory.mktemp("stored") / "copy"
    return Path(shutil.copytree(made_once(shared_folder / "stored", make), copy))
