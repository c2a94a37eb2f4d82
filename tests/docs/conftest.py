"""A real storage for the snippets and the reference: one run, and the exported models that the documents mention."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mnist_lib.data.split import Dataset
from tests.support.shared import made_once


@pytest.fixture(scope="session")
def summary_of_stored(stored: Path) -> dict[str, Any]:
    (path,) = stored.glob("results/runs/*/summary.json")
    summary: dict[str, Any] = json.loads(path.read_text())
    return summary


@pytest.fixture(scope="session")
def stored(
    gpu_run: tuple[dict[str, Any], Path],
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
        onnx = ("jobs.models", "export", "keras", "--format=onnx", "--to=digits.onnx", f"--data-dir={data_dir}")
        litert = ("jobs.models", "export", "keras", "--format=litert", f"--data-dir={data_dir}")
        for command in (onnx, litert):
            subprocess.run([sys.executable, "-m", *command], cwd=folder, check=True, env=dict(os.environ))
        np.save(folder / "images.npy", digits.test.images)
        np.save(folder / "labels.npy", digits.test.labels)

    copy = tmp_path_factory.mktemp("stored") / "copy"
    return Path(shutil.copytree(made_once(shared_folder / "stored", make), copy))
