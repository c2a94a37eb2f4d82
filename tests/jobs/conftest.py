"""For tests that disturb runs: what an undisturbed one comes to, and whether anything is left."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clusters import wait_until
from tests.jobs.job import at, hashes, processes_of, train


@pytest.fixture(scope="session")
def calm(ray_address: str, data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The weights' hash of each trial of an undisturbed run."""
    home = tmp_path_factory.mktemp("calm")
    code, stdout, stderr = train(*at(ray_address, data_dir, home), "--seeds=2", home=home)
    assert code == 0, stderr
    return hashes(stdout)


@pytest.fixture
def nothing_is_left(tmp_path: Path) -> Iterator[None]:
    """Two agents of Ray's try for a minute to tell that their cluster was killed, then they end."""
    yield
    wait_until(lambda: not processes_of(tmp_path), f"processes are left: {processes_of(tmp_path)}", 75)
    assert not list(tmp_path.rglob(".*.????????????????????????????????"))
