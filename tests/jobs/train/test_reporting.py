"""What is written for people never fails a run, and leaves none out."""

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from jobs.train.reporting import is_in_index, write_index
from mnist_lib.data.split import Dataset
from mnist_lib.store.local import LocalObjects
from tests.support.job import ROOT
from tests.support.made_run import made_run


@pytest.fixture(scope="module")
def summary(digits: Dataset) -> dict[str, Any]:
    return dict(made_run(digits, seeds=1, models=("keras",)).summary)


def complete(objects: LocalObjects, summary: dict[str, Any], run: str) -> None:
    objects.replace(f"runs/{run}/summary.json", json.dumps({**summary, "run": run}).encode())


def test_a_run_that_is_completed_while_the_index_is_written_is_in_it(summary: dict[str, Any], tmp_path: Path) -> None:
    class Busy(LocalObjects):
        def replace(self, name: str, content: bytes) -> None:
            if name == "index.html" and not self.exists("runs/b/summary.json"):
                complete(objects, summary, "b")  # by another driver, whose own index comes before this one
            super().replace(name, content)

    objects = LocalObjects(tmp_path)
    complete(objects, summary, "a")
    write_index(Busy(tmp_path))
    assert is_in_index(objects, "a")
    assert is_in_index(objects, "b")


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"run": "odd", "models": {"keras": {}}, "trials": []}'])
def test_a_summary_that_is_none_is_left_out_and_named(
    summary: dict[str, Any], tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    objects = LocalObjects(tmp_path)
    complete(objects, summary, "whole")
    objects.replace("runs/odd/summary.json", content)
    with caplog.at_level(logging.WARNING):
        write_index(objects)
    assert is_in_index(objects, "whole")
    assert not is_in_index(objects, "odd")
    assert "leaves out run odd" in caplog.text


def test_without_matplotlib_there_is_a_warning_and_no_failure(summary: dict[str, Any], tmp_path: Path) -> None:
    complete(LocalObjects(tmp_path), summary, "a")
    script = (
        "import logging, sys; sys.modules['matplotlib'] = None; logging.basicConfig(format='%(message)s');"
        f"from jobs.train.reporting import write_index; from mnist_lib.store.local import LocalObjects;"
        f"from pathlib import Path; write_index(LocalObjects(Path({str(tmp_path)!r})))"
    )
    told = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert told.stderr.startswith("the index could not be written (ModuleNotFoundError")
    assert not (tmp_path / "index.html").exists()
