"""A version that somebody else has put into the storage calls no other function of a file that is trusted."""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mnist_lib.errors import ModelError
from mnist_lib.model_file import SOURCE_FILE, Call, ModelFile, trust
from mnist_lib.objects.local import LocalObjects
from mnist_lib.spec import TrialSpec
from mnist_lib.store.contents import StoredModel
from mnist_lib.store.publishing import publish
from mnist_lib.store.versions import Version
from tests.support.job import ROOT
from tests.support.store.fake_versions import DATASET, about, small_manifest

CODE = b"""
import pathlib

def small(image_shape, num_classes, width=3, log=None):
    if log:
        pathlib.Path(log).touch()

def export(image_shape, num_classes, path="canary"):
    pathlib.Path(path).touch()
"""
FILE = ModelFile(name="mine.py", content=CODE)


@pytest.fixture
def objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalObjects:
    """A storage, of a user who has trained `small` with a width of 4."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    trust([Call(FILE, "small", {"width": 4})])
    return LocalObjects(tmp_path / "results")


def forged(objects: LocalObjects, model: str, function: str, arguments: dict[str, Any]) -> Version:
    spec = TrialSpec.of(function, source_sha256=FILE.sha256, arguments=arguments)
    dataset = {**DATASET, "name": "mnist-mini"}
    manifest = small_manifest(spec=asdict(spec), dataset=dataset, weights_sha256="0" * 64)
    files = {"weights.npz": b"", SOURCE_FILE: CODE, "manifest.json": json.dumps(manifest).encode()}
    return publish(objects, model, "r", files, {**about(), "dataset": dataset})


def test_m2_the_trusted_call_may_be_made(objects: LocalObjects) -> None:
    assert StoredModel.read(objects, forged(objects, "small", "small", {"width": 4})).source == FILE_IN_VERSION


FILE_IN_VERSION = ModelFile(name=SOURCE_FILE, content=CODE)


@pytest.mark.parametrize(
    ("model", "function", "arguments"),
    [
        ("small", "small", {"width": 4, "log": "canary"}),
        ("small", "small", {}),
        ("export", "export", {}),
        ("export", "export", {"path": "canary"}),
        ("small", "export", {"path": "canary"}),
    ],
)
def test_m2_no_other_function_or_argument_of_a_trusted_file_is_used(
    model: str, function: str, arguments: dict[str, Any], objects: LocalObjects
) -> None:
    version = forged(objects, model, function, arguments)
    with pytest.raises(ModelError, match=rf"^{model}@1: "):
        StoredModel.read(objects, version)


def test_m2_a_file_on_the_command_line_is_not_called_with_other_arguments(
    objects: LocalObjects, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_bytes(CODE)
    version = forged(objects, "small", "small", {"log": "canary"})
    for arguments in (None, {"width": 4}):
        with pytest.raises(ModelError, match=r"built by small\(log='canary'\)"):
            StoredModel.read(objects, version, tmp_path / "mine.py", arguments)
    assert StoredModel.read(objects, version, tmp_path / "mine.py", {"log": "canary"}).source == FILE_IN_VERSION


@pytest.mark.slow
def test_m2_a_plain_predict_makes_no_forged_call(objects: LocalObjects, tmp_path: Path) -> None:
    from PIL import Image

    canary = tmp_path / "canary"
    forged(objects, "small", "small", {"log": str(canary)})
    Image.fromarray(np.zeros((28, 28), np.uint8)).save(tmp_path / "five.png")
    command = ("jobs.predict", tmp_path / "five.png", "--model=small@1", "--storage", tmp_path / "results")
    words = [sys.executable, "-m", *map(str, command)]
    done = subprocess.run(words, cwd=ROOT, env={**os.environ}, capture_output=True, text=True)
    assert done.returncode in (2, 7), done.stderr
    assert "small@1: " in done.stderr
    assert not canary.exists()
