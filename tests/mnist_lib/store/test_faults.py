"""Errors, kills and power losses at every step of every operation that changes a store."""

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mnist_lib.errors import IntegrityError, StoreError
from mnist_lib.objects.local import LocalObjects
from mnist_lib.objects.protocol import FAILPOINT_EXIT_STATUS, FAILPOINT_VARIABLE, Objects
from mnist_lib.store.opening import open_run
from tests.support.store.disk import Disk
from tests.support.store.faulty import FAULTS, Faulty, KilledError
from tests.support.store.invariants import all_verified, champion_verified
from tests.support.store.scenarios import SCENARIOS, Scenario
from tests.support.store.summaries import small_summary, summary_of

MAX_OPERATIONS = 500


def check(scenario: Scenario, objects: Objects) -> None:
    """Check after a fault that no version is lost, that new ones are complete, and that a retry succeeds."""
    before, after = scenario.versions
    found = all_verified(objects)
    assert {*before} & {*after} <= {*found}
    assert len(found) <= max(len(before), len(after))
    assert champion_verified(objects) in scenario.champion
    scenario.act(objects)
    found = all_verified(objects)
    assert len(found) == len(after)
    assert {*before} & {*after} <= {*found}
    assert champion_verified(objects) == scenario.champion[1]


@pytest.fixture
def prepared(tmp_path: Path) -> Callable[[Scenario, str], Path]:
    """Return a function that makes a folder in the state before a scenario."""

    def prepare(scenario: Scenario, name: str) -> Path:
        template = tmp_path / "template"
        if not template.exists():
            scenario.prepare(LocalObjects(template))
        return Path(shutil.copytree(template, tmp_path / name))

    return prepare


# A retry after a kill whose operation took effect is the hardest: the others are slow, since all are alike.
@pytest.mark.parametrize(
    ("error", "late"),
    [pytest.param(*fault, marks=[] if fault == (KilledError, True) else pytest.mark.slow) for fault in FAULTS],
)
@pytest.mark.parametrize("name", SCENARIOS)
def test_p1_s1_s2_an_error_or_kill_at_any_operation_loses_no_version(
    prepared: Callable[[Scenario, str], Path], name: str, error: type[BaseException], late: bool
) -> None:
    scenario = SCENARIOS[name]
    for at in range(1, MAX_OPERATIONS):
        folder = prepared(scenario, str(at))
        faulty = Faulty(LocalObjects(folder), at, error, late=late)
        try:
            scenario.act(faulty)
        except (StoreError, KilledError):
            check(scenario, LocalObjects(folder))
            shutil.rmtree(folder)
        else:
            if faulty.operations < at:  # the scenario ended before the fault
                break
    assert (1 if late else 8) < at < MAX_OPERATIONS - 1


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "publish" else pytest.mark.slow) for name in SCENARIOS]
)
def test_s1_a_disk_error_at_any_call_is_a_store_error_and_loses_no_version(
    prepared: Callable[[Scenario, str], Path], name: str
) -> None:
    scenario = SCENARIOS[name]
    for at in range(1, MAX_OPERATIONS):
        folder = prepared(scenario, str(at))
        with Disk(folder, fails_at=at) as disk, contextlib.suppress(StoreError):
            scenario.act(LocalObjects(folder))
        if disk.calls < at:
            break
        check(scenario, LocalObjects(folder))
        shutil.rmtree(folder)
    assert 8 < at < MAX_OPERATIONS - 1


def check_power_losses(scenario: Scenario, disk: Disk, tmp_path: Path) -> None:
    states = disk.states_after_power_loss(seed=0)
    assert len(states) > 5  # each differs from the others
    for number, state in enumerate(states):
        folder = tmp_path / f"after-{number}"
        state.write_to(folder)
        check(scenario, LocalObjects(folder))
        shutil.rmtree(folder)
    states[-1].write_to(tmp_path / "after-all")  # all calls returned; only synced changes are left
    assert all_verified(LocalObjects(tmp_path / "after-all")) == scenario.versions[1]
    assert champion_verified(LocalObjects(tmp_path / "after-all")) == scenario.champion[1]


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENARIOS)
def test_s3_a_power_loss_at_any_call_leaves_committed_versions_complete(
    prepared: Callable[[Scenario, str], Path], tmp_path: Path, name: str
) -> None:
    scenario = SCENARIOS[name]
    with Disk(prepared(scenario, "run")) as disk:
        scenario.act(LocalObjects(tmp_path / "run"))
    check_power_losses(scenario, disk, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("forgotten", ["file", "folder"])
def test_s3_the_power_loss_test_fails_for_a_store_that_does_not_sync(
    prepared: Callable[[Scenario, str], Path], tmp_path: Path, forgotten: str
) -> None:
    scenario = SCENARIOS["publish"]
    with Disk(prepared(scenario, "run"), forgets=forgotten) as disk:
        scenario.act(LocalObjects(tmp_path / "run"))
    with pytest.raises((AssertionError, IntegrityError)):
        check_power_losses(scenario, disk, tmp_path)


def test_s3_a_power_loss_at_any_call_leaves_a_run_that_can_be_completed(tmp_path: Path) -> None:
    checkpoints, seen = [f"checkpoint {epoch} {'.' * 1000}".encode() for epoch in (1, 2)], set()

    def complete(folder: Path) -> None:
        with open_run(
            LocalObjects(folder),
            "r",
            dataset="mnist",
            terms={"epochs": 2},
            command="jobs.train",
            configuration="epochs: 2",
        ) as run:
            found = [run.read(name) for name in run.names("trials")]
            assert all(content in checkpoints for content in found)
            seen.add((len(found), run.summary() is not None))
            if run.summary() is None:
                for epoch, content in enumerate(checkpoints, 1):
                    run.write(f"trials/keras-s0/checkpoints/{epoch}", content)
                run.complete(summary_of(small_summary()))
            assert run.summary() == summary_of(small_summary())

    (tmp_path / "run").mkdir()
    with Disk(tmp_path / "run") as disk:
        complete(tmp_path / "run")
    states = disk.states_after_power_loss(seed=0)
    assert len(states) > 10  # each differs from the others
    for number, state in enumerate(states):
        state.write_to(tmp_path / f"after-{number}")
        complete(tmp_path / f"after-{number}")
    assert seen == {(0, False), (1, False), (2, False), (2, True)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "place"),
    [
        *(("publish", f"publish.before_{place}") for place in ("files", "run", "commit")),
        ("promote", "promote.before_append"),
        ("rollback", "rollback.before_append"),
        *(("gc", f"gc.before_{place}") for place in ("record", "files")),
    ],
)
def test_s2_a_process_that_ends_at_a_failpoint_loses_no_version(
    prepared: Callable[[Scenario, str], Path], name: str, place: str
) -> None:
    folder = prepared(SCENARIOS[name], "run")
    code = (
        "import sys, pathlib; from mnist_lib.objects.local import LocalObjects;"
        "from tests.support.store.scenarios import SCENARIOS;"
        "SCENARIOS[sys.argv[1]].act(LocalObjects(pathlib.Path(sys.argv[2])))"
    )
    command = [sys.executable, "-c", code, name, str(folder)]
    environment = {**os.environ, FAILPOINT_VARIABLE: place}
    done = subprocess.run(command, env=environment, cwd=Path(__file__).parents[3])
    assert done.returncode == FAILPOINT_EXIT_STATUS
    check(SCENARIOS[name], LocalObjects(folder))
