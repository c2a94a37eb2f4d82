"""The kinds of storage that a test can run on."""

import uuid
from pathlib import Path

import pytest

from mnist_lib.objects.protocol import Objects
from mnist_lib.objects.storage import open_storage


@pytest.fixture(params=["local", "memory", pytest.param("s3", marks=pytest.mark.slow)])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return an empty storage of each kind, in the form that `--storage` takes."""
    if request.param == "s3":
        return str(request.getfixturevalue("s3"))
    return f"memory://{uuid.uuid4().hex}" if request.param == "memory" else str(tmp_path)


@pytest.fixture
def objects(storage: str) -> Objects:
    return open_storage(storage)
