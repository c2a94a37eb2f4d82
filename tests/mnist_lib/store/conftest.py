"""The tests of this folder do not wait for the disk; the processes that they start do."""

import os

import pytest


@pytest.fixture(autouse=True)
def no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `os.fsync` only check its descriptor. A simulated `Disk` wraps whatever it is, and records its calls."""
    monkeypatch.setattr(os, "fsync", os.fstat)
