"""The commands of `docs/fine-tune.md` do what the page says, on smaller data."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.fine_tuning import CLASSES, letters
from tests.support.documents import ROOT, blocks

PAGE = "docs/fine-tune.md"


@pytest.mark.slow
@pytest.mark.long
def test_the_page_starts_from_a_version_and_from_a_file(tmp_path: Path, data_dir: Path) -> None:
    split = letters(per_class=5, seed=0)
    for number, (image, label) in enumerate(zip(np.asarray(split.images)[..., 0], split.labels, strict=True)):
        path = tmp_path / "letters" / CLASSES[label] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    (code,) = (block.text for block in blocks("python") if block.document == PAGE)
    (tmp_path / "my_network.py").write_text(code)
    save = "from my_network import body; body((28, 28, 1)).save_weights('digits.weights.h5')"
    subprocess.run([sys.executable, "-c", save], cwd=tmp_path, check=True, capture_output=True)
    lines = [line for block in blocks("sh") if block.document == PAGE for line in block.text.splitlines()]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}
    runs = []
    for line in lines:
        words = shlex.split(line.replace("--dataset mnist", "--dataset mnist-mini"))
        command = [sys.executable, *words[1:], "--epochs=3", "--freeze-epochs=1", "--json", f"--data-dir={data_dir}"]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        runs.append((json.loads(done.stdout)["trials"][0], done.stderr))
    (_, log), (from_version, log_of_version), (from_file, _) = runs
    assert "--freeze-epochs freezes nothing" in log
    assert from_version["spec"]["init_from"] == "keras-cnn@1"
    assert "all weights of keras-cnn but those of the last layer are from keras-cnn@1" in log_of_version
    assert "freezes nothing" not in log_of_version
    assert [*from_file["spec"]["weights"]] == ["weights"]
