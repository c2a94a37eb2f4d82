"""The Dockerfile agrees with the files that it copies. It is not built, since there is no Docker."""

import re
from pathlib import Path

import pytest
from setuptools import find_packages

from tests.support.deploy_files import (
    CONTAINERS,
    DOCKERFILE,
    GUIDE,
    PODS,
    PROJECT,
    ROOT,
    instructions,
)


def is_in_build_context(path: str) -> bool:
    """Return whether .dockerignore lets a path into the image: the last pattern for it or a folder above it decides."""
    included = True
    folders = [path, *map(str, Path(path).parents)]
    for pattern in (ROOT / ".dockerignore").read_text().splitlines():
        if not pattern or pattern.startswith("#"):
            continue
        expression = re.escape(pattern.removeprefix("!")).replace(r"\*\*/", "(?:.*/)?").replace(r"\*", "[^/]*")
        if any(re.fullmatch(expression, folder) for folder in folders):
            included = pattern.startswith("!")
    return included


def test_every_copied_file_exists_and_is_in_the_build_context() -> None:
    copied = [source for line in instructions("COPY") for source in line.split()[:-1]]
    expanded = {source.replace("${LOCK}", lock) for source in copied for lock in ("runtime", "gpu")}
    assert expanded >= {"requirements/runtime.lock", "requirements/gpu.lock", "pyproject.toml", "README.md"}
    for source in expanded:
        assert (ROOT / source).exists(), source
        files = [ROOT / source] if (ROOT / source).is_file() else (ROOT / source).rglob("*.py")
        for file in files:
            assert is_in_build_context(str(file.relative_to(ROOT))), file


def test_every_package_and_its_data_are_in_the_image() -> None:
    packages: list[str] = find_packages(str(ROOT), include=PROJECT["tool"]["setuptools"]["packages"]["find"]["include"])
    copied = {line.split()[0] for line in instructions("COPY")}
    assert {name.partition(".")[0] for name in packages} <= copied
    for name, patterns in PROJECT["tool"]["setuptools"]["package-data"].items():
        folder = ROOT / name.replace(".", "/")
        data = [file for pattern in patterns for file in folder.glob(pattern)]
        assert data
        assert all(is_in_build_context(str(file.relative_to(ROOT))) for file in data)


@pytest.mark.parametrize(
    "path", [".git/config", "results/runs/a/run.json", ".venv/bin/python", "auth_token", "jobs/__pycache__/a.pyc"]
)
def test_nothing_else_is_in_the_build_context(path: str) -> None:
    assert not is_in_build_context(path)


def test_the_image_installs_the_lock_file_and_holds_no_secret() -> None:
    installs = [line for line in instructions("RUN") if "pip install" in line]
    assert ["--require-hashes" in line or "--no-deps" in line for line in installs] == [True, True]
    assert instructions("FROM") == ["python:3.11-slim"]
    assert not re.search(r"TOKEN|SECRET|PASSWORD|ACCESS_KEY", " ".join(instructions("ENV") + instructions("ARG")))


def test_the_image_and_the_pods_agree_on_the_user() -> None:
    (user,) = instructions("USER")
    for pod in PODS:
        context = pod["spec"]["securityContext"]
        assert user == f"{context['runAsUser']}:{context['runAsGroup']}"
        assert context["runAsNonRoot"]
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}


def test_every_container_uses_the_image_of_this_version() -> None:
    image = f"{PROJECT['project']['name']}:{PROJECT['project']['version']}"
    assert {container["image"] for container in CONTAINERS} == {image}
    assert f"--tag {image} ." in GUIDE
    assert f"--tag {image} ." in DOCKERFILE
