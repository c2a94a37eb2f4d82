"""Every Python snippet of the documents runs, from a folder that is not the repository."""

import subprocess
import sys
from pathlib import Path

import pytest

from mnist_lib.model_file import ModelFile
from mnist_lib.spec import TrialSpec
from tests.support.documents import Snippet, blocks

# Appended to each snippet that predicts: checks its probabilities.
IS_RIGHT = """
import numpy as np
assert np.asarray(probabilities).shape == (1_000, 10)
assert (np.asarray(probabilities).argmax(axis=1) == np.load("labels.npy")).mean() > {accuracy}
"""
ACCURACY = {"scratch": 0.2, "keras": 0.8}  # minimum after a few epochs


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("snippet", blocks("python"), ids=repr)
def test_every_snippet_runs_and_predicts_digits(snippet: Snippet, stored: Path) -> None:
    code = snippet.text
    if "probabilities = " in code or "probabilities,) = " in code:
        code += IS_RIGHT.format(accuracy=ACCURACY["scratch" if "scratch" in code else "keras"])
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:__main__", "-c", code],
        cwd=stored,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.usefixtures("tensorflow")
def test_the_model_of_the_guide_can_be_trained() -> None:
    from mnist_lib.models.building import check_model

    (text,) = [snippet.text for snippet in blocks("python") if snippet.text.startswith("# my_models.py\n")]
    file = ModelFile(name="my_models.py", content=text.encode())
    check_model(TrialSpec.of("small_resnet", source_sha256=file.sha256, arguments={"width": 4}), (28, 28, 1), 10, file)


def test_snippets_show_the_api_and_how_to_load_stored_files() -> None:
    shown = "".join(snippet.text for snippet in blocks("python"))
    assert all(
        name in shown
        for name in ("mnist_lib.load(", "mnist_lib.runs(", "saved_model.load(", "load_model(", "keras.Model(")
    )
