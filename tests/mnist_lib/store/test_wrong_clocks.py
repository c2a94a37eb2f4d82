"""A clock that is wrong by years stores no time that no command can read, and nothing else; a right one goes on."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest import mock

import pytest

from jobs.train.__main__ import main as train
from mnist_lib.data.corrections import LabelsFile
from mnist_lib.environment import SystemClock, timestamp
from mnist_lib.errors import ClockError
from mnist_lib.objects.local import LocalObjects
from mnist_lib.objects.protocol import Objects
from mnist_lib.objects.storage import open_storage
from mnist_lib.store.opening import open_run
from mnist_lib.store.runs import check_writable
from tests.support.store.invariants import all_verified, champion_verified
from tests.support.store.scenarios import SCENARIOS
from tests.support.store.summaries import small_summary, summary_of

WRONG = [datetime(year, month, day, tzinfo=UTC) for year, month, day in ((1970, 1, 1), (2019, 12, 31), (2200, 1, 1))]


@contextlib.contextmanager
def clock_at(now: datetime) -> Iterator[None]:
    with mock.patch.object(SystemClock, "now", return_value=now):
        yield


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _begin(objects: Objects) -> None:
    with open_run(
        objects, "r", dataset="mnist", terms={"epochs": 2}, command="jobs.train", configuration="epochs: 2"
    ) as run:
        if not run.is_complete:
            run.complete(summary_of(small_summary()))


def _label(objects: Objects) -> None:
    review = pytest.importorskip("jobs.review.labels")
    decision = review.Decision(image="a" * 32, label="3", replaced="5", why="random")
    review.Labels(LabelsFile(objects), "ada").decide(decision)


WRITERS: dict[str, Callable[[Objects], object]] = {
    **{name: scenario.act for name, scenario in SCENARIOS.items()},
    "label": _label,
    "run": _begin,
    "check": check_writable,
    "lock": lambda objects: objects.lock("x.lock").__enter__(),
}


@pytest.mark.parametrize("now", WRONG)
@pytest.mark.parametrize("writer", sorted(WRITERS.keys() - {"gc"}))  # which stores no time
def test_no_time_is_stored_that_no_command_can_read(tmp_path: Path, writer: str, now: datetime) -> None:
    objects = LocalObjects(tmp_path)
    SCENARIOS["promote"].prepare(objects)
    before = files(tmp_path)
    expected = rf"clock of this machine: expected a year from 2020 to 2199, got {now:%Y-%m-%d}T00:00:00Z; set the clock"
    with clock_at(now), pytest.raises(ClockError, match=expected):
        WRITERS[writer](objects)
    assert files(tmp_path) == before
    assert sorted(all_verified(objects)) == [1, 2, 3, 4]
    assert champion_verified(objects) == 3
    WRITERS[writer](objects)


@pytest.mark.parametrize("year", [2020, 2199])
@pytest.mark.parametrize("writer", WRITERS)
def test_every_time_that_may_be_stored_can_be_read(tmp_path: Path, writer: str, year: int) -> None:
    objects = LocalObjects(tmp_path)
    SCENARIOS["promote"].prepare(objects)
    with clock_at(datetime(year, 12, 31, 23, 59, 59, tzinfo=UTC)):
        WRITERS[writer](objects)
    assert len(all_verified(objects)) >= 3
    assert champion_verified(objects)
    LabelsFile(objects).read()
    if writer == "run":
        _begin(objects)


@pytest.mark.parametrize("now", WRONG)
def test_a_schedule_stores_no_wrong_time_and_its_holder_goes_on(tmp_path: Path, now: datetime) -> None:
    schedule = pytest.importorskip("jobs.retrain.journal")
    journal = schedule.Journal(open_storage(str(tmp_path)), "nightly")
    entry = schedule.Entry("enrolled", "2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z", "host")
    with pytest.raises(ClockError):
        journal.append(0, replace(entry, kind="skipped", at=timestamp(now)))
    assert journal.append(0, replace(entry, kind="skipped", at=timestamp(WRONG[1] + timedelta(days=1))))
    assert journal.last()[1] is not None


@pytest.mark.parametrize("now", WRONG)
def test_training_is_refused_in_one_line_before_it_starts(
    tmp_path: Path, now: datetime, capsys: pytest.CaptureFixture[str]
) -> None:
    with clock_at(now):
        assert train([f"--storage={tmp_path}/results"]) == 6
    error = capsys.readouterr().err
    assert error.startswith("error[E-CLOCK] clock of this machine: expected a year from 2020 to 2199, got ")
    assert error.count("\n") == 1
    assert not (tmp_path / "results/runs").exists()
