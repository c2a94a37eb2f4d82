"""The pictures of folders are read by one process for all tests of this folder."""

import contextlib

import pytest

from mnist_lib.pictures.sandbox import Sandbox


@pytest.fixture(autouse=True)
def one_sandbox(monkeypatch: pytest.MonkeyPatch, sandbox: Sandbox) -> None:
    monkeypatch.setattr("mnist_lib.data.reading.folder.Sandboxes", lambda files: contextlib.nullcontext(sandbox))
