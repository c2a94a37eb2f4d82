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
from filelock import FileLock

from mnist_lib.data.split import Dataset


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
    made, copy = shared_folder / "stored", tmp_path_factory.mktemp("stored") / "copy"
    with FileLock(f"{made}.lock"):
        if not (made / "labels.npy").exists():
            made.mkdir()
            shutil.copytree(gpu_run[1] / "results", made / "results")
            onnx = ("jobs.models", "export", "keras", "--format=onnx", "--to=digits.onnx", f"--data-dir={data_dir}")
            litert = ("jobs.models", "export", "keras", "--format=litert", f"--data-dir={data_dir}")
            for command in (onnx, litert):
                subprocess.run([sys.executable, "-m", *command], cwd=made, check=True, env=dict(os.environ))
            np.save(made / "images.npy", digits.test.images)
            np.save(made / "labels.npy", digits.test.labels)
    return Path(shutil.copytree(made, copy))
