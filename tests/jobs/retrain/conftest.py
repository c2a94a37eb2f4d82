"""A fixture for tests of schedules."""

from pathlib import Path

import pytest

from tests.support.schedule import Schedule


@pytest.fixture
def schedule(tmp_path: Path, data_dir: Path) -> Schedule:
    return Schedule(tmp_path, data_dir)
