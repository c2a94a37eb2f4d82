"""Every command works with a model from a user's Python file."""

import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import yaml
from PIL import Image

from jobs.models import __main__ as models
from jobs.train import __main__ as training
from mnist_lib.model_file import ModelFile
from tests.support.job import ROOT, end_of, pid_of, start, starts_of, train

pytestmark = pytest.mark.slow

SOURCE = Path(__file__).parents[2] / "support/own_models.py"
MODELS = "fine_tuned,small_resnet,sequential"


@pytest.fixture(scope="module")
def home(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with the model file, and a run of two of its models."""
    home = tmp_path_factory.mktemp("own-models")
    shutil.copy(SOURCE, home / "mine.py")
    write_weights(home / "first.npz", seed=1)
    (home / "weights").mkdir()  # of another user: only --weights names files
    write_weights(home / "weights/body.npz", seed=2)
    models = ",".join(f"{home}/mine.py:{name}" for name in MODELS.split(","))
    given = ("--model-arg=width=4", "--model-arg=units=24", f"--weights=body={home}/first.npz")
    options = ("--models", models, *given, "--epochs=12", "--run-name=r")
    code, stdout, stderr = train(*options, "--data-dir", data_dir, "--storage", home / "results", home=home)
    assert code == 0, stderr
    assert f"{home}/results/runs/r" in stdout
    sha256 = hashlib.sha256((home / "first.npz").read_bytes()).hexdigest()
    assert f"model fine_tuned: weights body from {home}/first.npz, sha256 {sha256}" in stderr
    manifest = json.loads((home / "results/models/fine_tuned/versions/1/manifest.json").read_text())
    assert manifest["record"]["spec"]["weights"] == {"body": sha256}
    assert not [*(home / "results/models/fine_tuned/versions/1").glob("blank*")]
    (home / "first.npz").unlink()
    return home


def write_weights(path: Path, seed: int) -> None:
    """Write weights of the body of `fine_tuned`."""
    random = np.random.default_rng(seed)
    np.savez(path, kernel=random.normal(0, 0.05, (784, 24)).astype(np.float32), bias=np.linspace(0, 1, 24))


def summary_of(run: Path) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads((run / "summary.json").read_text())
    return summary


def run(home: Path, module: str, *arguments: str | Path) -> tuple[int, str, str]:
    """Run a command on the storage in a home."""
    words = [sys.executable, "-m", module, *map(str, arguments), "--storage", str(home / "results")]
    done = subprocess.run(words, cwd=ROOT, env={**os.environ, "HOME": str(home)}, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.long
def test_a_user_model_is_trained_with_its_arguments_and_stored_with_its_source(home: Path) -> None:
    summary = summary_of(home / "results/runs/r")
    assert sorted(summary["models"]) == sorted(MODELS.split(","))
    manifest = json.loads((home / "results/models/small_resnet/versions/1/manifest.json").read_text())
    assert manifest["record"]["spec"]["arguments"] == {"width": 4}
    assert manifest["record"]["spec"]["source_sha256"] == ModelFile.read(SOURCE).sha256
    assert (home / "results/models/small_resnet/versions/1/model.py").read_bytes() == SOURCE.read_bytes()
    assert summary["models"]["sequential"]["mean_test_accuracy"] > 0.85
    assert "small_resnet" in (home / "results/index.html").read_text()


@pytest.mark.long
@pytest.mark.parametrize("command", ["list", "champion", "history", "verify"])
def test_m2_commands_that_run_no_code_do_not_need_the_model_file(
    home: Path, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert models.main([command, "--storage", str(home / "results")]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    assert "3 versions intact, 0 damaged." in shown.out if command == "verify" else "small_resnet@1" in shown.out


@pytest.mark.long
def test_m2_a_version_trained_elsewhere_runs_only_if_its_file_and_arguments_are_given(
    home: Path, data_dir: Path, tmp_path: Path
) -> None:
    """Each refusal is in `mnist_lib/test_model_file.py`."""
    shutil.copytree(home / "results", tmp_path / "results")
    Image.fromarray(np.tile(np.arange(28, dtype=np.uint8) * 9, (28, 1))).save(tmp_path / "five.png")
    ask = ("jobs.predict", tmp_path / "five.png", "--as-is", "--model=sequential", "--csv")
    code, stdout, stderr = run(tmp_path, *ask, "--model-file", SOURCE)
    assert (code, stdout) == (2, "")
    assert "built by sequential(units=24), which was not trained here; to run it, name the file" in stderr
    code, stdout, stderr = run(tmp_path, *ask, "--model-file", SOURCE, "--model-arg=units=24")
    assert code == 0, stderr
    assert len(stdout.splitlines()) == 2


@pytest.mark.long
def test_a_version_needs_no_weights_file_but_to_be_reproduced(home: Path, data_dir: Path, tmp_path: Path) -> None:
    code, stdout, stderr = run(home, "jobs.models", "evaluate", "fine_tuned", "--data-dir", data_dir)
    assert code == 0, stderr
    assert "gives the stored prediction for all 1,000 test images (the same probabilities)" in stdout
    code, stdout, stderr = run(
        home, "jobs.models", "export", "fine_tuned", "--format=saved_model", "--to", tmp_path / "x"
    )
    assert code == 0, stderr
    reproduce = ("jobs.models", "reproduce", "fine_tuned", "--data-dir", data_dir)
    code, _, stderr = run(home, *reproduce)
    assert code == 2
    assert "weights: expected --weights body=FILE (sha256 " in stderr
    write_weights(tmp_path / "changed.npz", seed=2)
    code, stdout, stderr = run(home, *reproduce, "--weights", f"body={tmp_path}/changed.npz")
    assert re.search("  weights body: [0-9a-f]{64} then, [0-9a-f]{64} here", stdout), (code, stdout, stderr)
    write_weights(tmp_path / "same.npz", seed=1)
    code, stdout, stderr = run(home, *reproduce, "--weights", f"body={tmp_path}/same.npz")
    assert "fine_tuned@1 was reproduced: every weight is the same." in stdout, stderr


@pytest.mark.long
def test_checkpoints_of_25_million_weights_do_not_fill_the_memory_of_the_driver(tmp_path: Path) -> None:
    options = (
        *(f"--models={SOURCE}:large", "--dataset=sklearn-digits", "--epochs=3", "--optimizer=adam"),
        *("--checkpoint-seconds=0", "--cpus-per-trial=1", "--run-name=r"),
    )
    process = start(*options, "--storage", tmp_path, home=tmp_path)
    peak = Peak(process.pid)
    os.kill(pid_of("large-s0", tmp_path / "runs/r", 2), signal.SIGKILL)
    code, _, stderr = end_of(process)
    assert code == 0, stderr
    assert peak.bytes < 1e9
    (trial,) = summary_of(tmp_path / "runs/r")["trials"]
    assert (trial["attempts"], len(starts_of("large-s0", tmp_path / "runs/r"))) == (2, 2)


class Peak:
    """Measures the memory of a process, without shared memory, until the process ends."""

    def __init__(self, pid: int) -> None:
        self.bytes = 0
        threading.Thread(target=self._measure, args=[psutil.Process(pid)], daemon=True).start()

    def _measure(self, process: psutil.Process) -> None:
        with contextlib.suppress(psutil.Error):
            while True:
                memory = process.memory_info()
                self.bytes = max(self.bytes, memory.rss - memory.shared)
                time.sleep(0.1)


def test_code_named_by_a_configuration_file_needs_trust(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    config = tmp_path / "train.yaml"
    config.write_text(yaml.safe_dump({"models": f"{SOURCE}:sequential"}))

    def plan(*options: str) -> tuple[int, str]:
        code = training.main([f"--config={config}", "--plan", *options])
        return code, "".join(capsys.readouterr())

    code, printed = plan()
    assert code == 2
    assert "error[E-MODEL] models: sequential is code in own_models.py, sha256 " in printed
    assert plan("--models=keras")[0] == 0  # flags override files
    assert plan("--trust")[0] == 0
    code, printed = plan(f"--models={SOURCE}:sequential")
    assert code == 0
    assert f"model sequential: code in own_models.py, sha256 {ModelFile.read(SOURCE).sha256}" in printed
    config.write_text("model_arg: {units: 25}")
    assert plan(f"--models={SOURCE}:sequential")[0] == 2


@pytest.mark.long
def test_m1_an_invalid_model_ends_the_run_with_one_line_before_any_trial(data_dir: Path, tmp_path: Path) -> None:
    """The line for each error is in `mnist_lib/models/test_building.py`."""
    (tmp_path / "mine.py").write_text("def f(s, n):\n  raise OSError('no')")
    options = (f"--models={tmp_path}/mine.py:f", "--storage", tmp_path / "results", "--quiet")
    code, stdout, stderr = train(*options, "--data-dir", data_dir, home=tmp_path)
    lines = [line for line in stderr.splitlines() if not line.startswith("waiting for ")]  # on a slow machine
    assert (code, stdout, lines) == (2, "", ["error[E-MODEL] mine.py, line 2: OSError: no"])
    assert not [*(tmp_path / "results/runs").iterdir()]


@pytest.mark.long
def test_m1_an_invalid_model_fails_its_own_trials_only(data_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def f(s, n):\n  raise OSError('no')")
    options = (f"--models=keras,{tmp_path}/mine.py:f", "--epochs=1", "--run-name=r", "--storage", tmp_path / "results")
    code, stdout, stderr = train(*options, "--data-dir", data_dir, home=tmp_path)
    assert code == 9, stderr
    assert "f-s0 failed: E-MODEL mine.py, line 2: OSError: no" in stdout
    trials = summary_of(tmp_path / "results/runs/r")["trials"]
    assert {trial["id"]: trial["status"] for trial in trials} == {"keras-s0": "ok", "f-s0": "failed"}
