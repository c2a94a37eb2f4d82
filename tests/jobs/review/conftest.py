"""Fixtures: a storage with a version that needs no TensorFlow, its process, digits as pictures."""

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.review.data import Viewer
from jobs.review.model_process import ModelProcess
from mnist_lib.api import find_version
from mnist_lib.data.dataset import Dataset
from mnist_lib.objects.local import LocalObjects
from mnist_lib.pictures.sandbox import Sandbox
from mnist_lib.store.contents import StoredModel
from tests.support.bounds import wait_until
from tests.support.linear import load_linear, publish_linear
from tests.support.reviewing import LAYOUT, Serve, data_of, serving, session_of, write_digits


@pytest.fixture(scope="session")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage with the version keras@1, for `load_linear`."""
    storage = tmp_path_factory.mktemp("storage")
    publish_linear(LocalObjects(storage))
    return storage


@pytest.fixture(scope="session")
def stored(storage: Path) -> StoredModel:
    objects = LocalObjects(storage)
    return StoredModel.read(objects, find_version(objects, "keras@1"))


@pytest.fixture(scope="session")
def model(stored: StoredModel) -> Iterator[ModelProcess]:
    with contextlib.closing(ModelProcess(stored, load_linear)) as process:
        yield process


@pytest.fixture
def folder(digits: Dataset, tmp_path: Path) -> Path:
    """A dataset of 120 digits."""
    return write_digits(tmp_path / "digits", digits, range(120), sorted_by_class=True)


@pytest.fixture
def new(digits: Dataset, tmp_path: Path) -> Path:
    """60 digits that the dataset does not contain, with their classes in their names."""
    return write_digits(tmp_path / "new", digits, range(120, 180), sorted_by_class=False)


class Running:
    """Stands for a sandbox that stays open for the next test: to start some for each would take most of the time."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.call = sandbox.call

    def close(self) -> None:
        pass


@pytest.fixture(autouse=True)
def two_sandboxes(monkeypatch: pytest.MonkeyPatch, sandbox: Sandbox, other_sandbox: Sandbox) -> None:
    running = itertools.cycle([sandbox, other_sandbox])  # one to show pictures, one to decide about them
    monkeypatch.setattr("jobs.review.data.Sandbox", lambda: Running(next(running)))
    for module in ("jobs.review.pictures", "mnist_lib.data.reading.folder"):
        monkeypatch.setattr(f"{module}.Sandboxes", lambda files: contextlib.nullcontext(sandbox))


@pytest.fixture(scope="session")
def other_sandbox() -> Iterator[Sandbox]:
    with contextlib.closing(Sandbox()) as sandbox:
        yield sandbox


@pytest.fixture
def viewer(folder: Path) -> Iterator[Viewer]:
    viewer = Viewer(data_of(folder, validation_percent=20), LAYOUT)
    yield viewer
    viewer.close()


@pytest.fixture(scope="module")
def serve_page(digits: Dataset, model: ModelProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """Serve a session without pictures: to read some takes a second, and most requests need none."""
    data = data_of(write_digits(tmp_path_factory.mktemp("page") / "digits", digits, range(120), sorted_by_class=True))
    viewer = Viewer(data, LAYOUT)
    session = session_of(viewer, model)
    session.is_complete = True
    wait_until(lambda: model.state == "ready", "the model is not loaded")
    yield lambda: serving(session)
    viewer.close()
