"""Search, review, tracking, schedules and the page of a report can be deleted. `make annexes` runs the tests left."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.without_annex import ANNEXES, FAST, copy_project, delete


@pytest.mark.long
@pytest.mark.parametrize("name", ANNEXES)
def test_without_an_annex_all_other_tests_find_what_they_import(name: str, tmp_path: Path) -> None:
    copy_project(tmp_path)
    delete(ANNEXES[name], tmp_path)
    command = [sys.executable, "-m", "pytest", *FAST, "--collect-only", "-q"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
