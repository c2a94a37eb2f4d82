"""`jobs.rehearse` as a user runs it."""

import json
import tempfile
from pathlib import Path

import pytest

from tests.support.job import train

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.usefixtures("nothing_is_left")]


def test_f23_every_trial_survives_random_kills_with_the_same_weights(data_dir: Path, tmp_path: Path) -> None:
    command = ("--seed=7", "--seeds=3", "--epochs=6", "--checkpoint-seconds=0", "--data-dir", data_dir, "--json")
    before = {*Path(tempfile.gettempdir()).glob("rehearsal-*")}
    code, stdout, stderr = train(*command, home=tmp_path, module="jobs.rehearse")
    assert code == 0, stderr
    found = json.loads(stdout)
    assert (found["trials"], found["identical"]) == (6, 6)
    assert found["nodes_lost"] == 1
    assert found["workers_killed"] >= 3
    assert len(found["recovery_seconds"]) >= 3
    assert {*Path(tempfile.gettempdir()).glob("rehearsal-*")} <= before  # its temporary folders are deleted
