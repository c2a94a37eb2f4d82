"""Fixtures for tests that disturb runs: a check that no process is left."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.bounds import wait_until
from tests.support.job import describe, processes_of, tasks_of_clusters


@pytest.fixture
def nothing_is_left(tmp_path: Path) -> Iterator[None]:
    """Check that the test leaves no process, and no task in a cluster that it has joined.

    Two agents of Ray may outlive a killed cluster by a minute.
    """
    yield
    wait_until(lambda: not processes_of(tmp_path), lambda: f"processes still run: {processes_of(tmp_path)}")
    _require_no_tasks(seconds=60)
    assert not list(tmp_path.rglob(".*.????????????????????????????????"))


def _require_no_tasks(seconds: float) -> None:
    """Fail if a task still runs after that time, and kill it, since it would let all following tests fail as well."""

    def kill_tasks() -> str:
        left = tasks_of_clusters()
        described = "; ".join(map(describe, left))
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        return f"tasks still run, and were killed: {described}"

    wait_until(lambda: not tasks_of_clusters(), kill_tasks, seconds)
