"""Fixtures for tests that disturb runs: the result of an undisturbed run, and a check that no process is left."""

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from filelock import FileLock

from tests.support.clusters import wait_until
from tests.support.job import describe, hashes, options_for, processes_of, tasks_of_clusters, train
from tests.support.schedule import Schedule


@pytest.fixture(scope="session")
def calm(
    ray_address: str, data_dir: Path, shared_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """The hash of each trial's weights in an undisturbed run, which parallel test processes train only once."""
    storage = tmp_path_factory.mktemp("calm")
    return _undisturbed(shared_folder / "calm", *options_for(ray_address, data_dir, storage), "--seeds=2")


@pytest.fixture(scope="session")
def calm_scratch(
    ray_address: str, data_dir: Path, shared_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """The same for a run of one trial, which takes less time."""
    storage = tmp_path_factory.mktemp("calm-scratch")
    command = (*options_for(ray_address, data_dir, storage), "--models=scratch")
    return _undisturbed(shared_folder / "calm-scratch", *command)


def _undisturbed(known: Path, *command: str | Path) -> dict[str, str]:
    with FileLock(f"{known}.lock"):
        if not known.exists():
            code, stdout, stderr = train(*command, home=known.parent / f"home-of-{known.name}")
            assert code == 0, stderr
            known.write_text(json.dumps(hashes(stdout)))
        found: dict[str, str] = json.loads(known.read_text())
    return found


@pytest.fixture
def nothing_is_left(tmp_path: Path) -> Iterator[None]:
    """Check that the test leaves no process, and no task in a cluster that it has joined.

    Two agents of Ray may outlive a killed cluster by a minute.
    """
    yield
    wait_until(lambda: not processes_of(tmp_path), f"processes still run: {processes_of(tmp_path)}", 75)
    _require_no_tasks(seconds=30)
    assert not list(tmp_path.rglob(".*.????????????????????????????????"))


def _require_no_tasks(seconds: float) -> None:
    """Fail if a task still runs after that time, and kill it, since it would let all following tests fail as well."""
    deadline = time.monotonic() + seconds
    while left := tasks_of_clusters():
        if time.monotonic() > deadline:
            described = "; ".join(map(describe, left))
            for process in left:
                with contextlib.suppress(psutil.Error):
                    process.kill()
            pytest.fail(f"tasks still run, and were killed: {described}")
        time.sleep(0.1)


@pytest.fixture
def schedule(tmp_path: Path, data_dir: Path) -> Schedule:
    return Schedule(tmp_path, data_dir)
