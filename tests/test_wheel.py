"""The wheel that is built from the repository contains all of its code and runs without the repository."""

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.bounds import JOB_SECONDS

ROOT = Path(__file__).parents[1]
PACKAGES = ("jobs", "mnist_lib", "cluster")
BUILT_FROM = (*PACKAGES, "pyproject.toml", "README.md")
# Files that are used only from a clone: an image is built with the first, and the second is filled in by hand.
NOT_PACKED = {"cluster/deploy/Dockerfile", "cluster/deploy/kubernetes/secret.yaml.example"}
OFFLINE = ("--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "--quiet")


def pip(*arguments: str | Path) -> None:
    done = subprocess.run([sys.executable, "-m", "pip", *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def files_of_repository(*paths: str) -> Sequence[str]:
    """Return the files that Git tracks or would add."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *paths]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return [name for name in listed if (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy, since building writes into the folder that it builds from."""
    copy, built = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("built")
    for name in files_of_repository(*BUILT_FROM):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy / name)
    pip("wheel", *OFFLINE, "--wheel-dir", built, copy)
    (found,) = built.glob("*.whl")
    return found


@pytest.mark.slow
def test_the_wheel_contains_every_file_of_the_packages_and_no_other(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert packed == {*files_of_repository(*PACKAGES)} - NOT_PACKED


@pytest.mark.slow
@pytest.mark.long
def test_the_installed_wheel_trains_a_model_without_the_repository(wheel: Path, data_dir: Path, tmp_path: Path) -> None:
    """The code is that of the wheel; the dependencies are those of this environment."""
    installed, elsewhere = tmp_path / "installed", tmp_path / "elsewhere"
    pip("install", *OFFLINE, "--target", installed, wheel)
    elsewhere.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(installed), "HOME": str(tmp_path)}

    def run(*command: str | Path) -> str:
        done = subprocess.run(
            [*map(str, command)], cwd=elsewhere, env=environment, capture_output=True, text=True, timeout=JOB_SECONDS
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    for package in PACKAGES:
        assert Path(run(sys.executable, "-c", f"import {package}; print({package}.__file__)")).is_relative_to(installed)
    program = installed / "bin/mnist-jobs"
    assert run(sys.executable, program, "--version").startswith("mnist-jobs ")
    run(sys.executable, program, "train", "--models=scratch", "--epochs=1", f"--data-dir={data_dir}")
    assert len([*elsewhere.glob("results/runs/*/report.html")]) == 1
