"""The folder of a run, and resuming an unfinished run."""

import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from mnist_lib.errors import BusyError, DataMissingError, IntegrityError, SpecError, StoreError
from mnist_lib.objects.local import LocalObjects
from mnist_lib.objects.protocol import Objects
from mnist_lib.objects.storage import open_storage
from mnist_lib.results import Accuracy, EpochDone, TrialStarted
from mnist_lib.store import opening
from mnist_lib.store.history import AttemptDied, DriverConnected
from mnist_lib.store.opening import open_run
from mnist_lib.store.runs import RunFolder, check_run_name, check_writable, history_line
from tests.support.memory import peak_bytes
from tests.support.store.summaries import small_summary, summary_of

TERMS = {"trials": {"keras-s0": {"epochs": 5, "seed": 0}, "keras-s1": {"epochs": 5, "seed": 1}}, "code": "abc"}

STARTED = TrialStarted(trial="keras-s0", pid=1, node="n", devices=(), gpus=())
EPOCH = EpochDone(trial="keras-s0", epoch=1, loss=0.5, train=Accuracy(1, 2), validation=None, seconds=1.0)


def opened(objects: Objects, name: str | None = "r", terms: dict[str, Any] = TERMS) -> Any:
    return open_run(objects, name, dataset="mnist", terms=terms, command="jobs.train", configuration="epochs: 5")


def test_f5_an_unfinished_run_is_resumed_and_a_complete_one_has_a_summary(objects: Objects) -> None:
    with opened(objects) as folder:
        assert (folder.run, folder.resumed, folder.summary()) == ("r", False, None)
        folder.append_history(STARTED)
        folder.flush()
    with opened(objects) as folder:
        assert (folder.resumed, folder.summary()) == (True, None)
        folder.append_history(EPOCH)
        folder.complete(summary_of(small_summary()))
        assert [len((folder.read(name) or b"").splitlines()) for name in folder.names("history")] == [1, 1]
    with opened(objects) as folder:
        assert folder.summary() == summary_of(small_summary())
    assert not list(objects.names("unfinished"))


@pytest.mark.parametrize(
    ("terms", "differences"),
    [
        ({**TERMS, "code": "abd"}, "code abd instead of abc"),
        ({**TERMS, "rule": {"alpha": 1}}, "rule set instead of none"),
        ({**TERMS, "trials": {i: {**t, "epochs": 7} for i, t in TERMS["trials"].items()}}, "epochs 7 instead of 5"),  # type: ignore[attr-defined]
        ({**TERMS, "trials": {"keras-s0": TERMS["trials"]["keras-s0"]}}, "keras-s1 none instead of set"),  # type: ignore[index]
    ],
)
def test_resuming_with_different_terms_is_refused_and_the_differences_are_listed(
    tmp_path: Path, terms: dict[str, Any], differences: str
) -> None:
    objects = LocalObjects(tmp_path)
    with opened(objects) as folder:
        folder.append_history(STARTED)
    with pytest.raises(SpecError) as refused, opened(objects, terms=terms):
        pass
    expected = f"run_name: expected the terms of run 'r', got {differences}; choose another --run-name"
    assert str(refused.value) == expected


@pytest.mark.parametrize("name", ["r", None])
def test_a_run_that_an_error_ends_before_a_trial_has_begun_is_deleted_if_it_would_come_again(
    objects: Objects, name: str | None
) -> None:
    def end(error: Exception, *, trial: bool = False) -> list[str]:
        arguments: Any = {"dataset": "mnist", "terms": TERMS, "command": "jobs.train", "configuration": "epochs: 5"}
        arguments["is_final"] = lambda error: isinstance(error, DataMissingError)
        opened = open_run(objects, name, **arguments)
        folder = opened.__enter__()
        folder.append_history(STARTED if trial else DriverConnected())
        folder.flush()
        assert not opened.__exit__(type(error), error, None)
        return [*objects.names("runs"), *objects.names("unfinished")]

    assert end(DataMissingError("no such folder")) == []
    assert len(end(StoreError("no answer"))) > 2
    assert end(DataMissingError("no such folder")) == []  # resumed, and still nothing has begun
    assert len(end(DataMissingError("an image is gone"), trial=True)) > 2


@pytest.mark.parametrize("trace", ["history", "checkpoint", "summary"])
def test_w12_a_run_in_which_a_trial_has_begun_keeps_its_terms(objects: Objects, trace: str) -> None:
    with opened(objects) as folder:
        if trace == "history":
            folder.append_history(STARTED)
            folder.flush()
        elif trace == "checkpoint":
            folder.write("trials/keras-s0/checkpoints/1", b"weights")
        else:
            folder.complete(summary_of(small_summary()))
    with pytest.raises(SpecError, match="code abd instead of abc"), opened(objects, terms={**TERMS, "code": "abd"}):
        pass
    assert folder.begun().terms == TERMS


def test_f5_without_a_name_the_unfinished_run_with_the_same_terms_is_resumed(objects: Objects) -> None:
    with opened(objects, None) as first:
        pass
    with opened(objects, None, {**TERMS, "code": "other"}) as other:
        assert other.run != first.run
    with opened(objects, None) as again:
        assert (again.run, again.resumed) == (first.run, True)
        again.complete(summary_of(small_summary()))
    with opened(objects, None) as next_one:
        assert (next_one.run != first.run, next_one.resumed) == (True, False)


def test_a_run_that_was_begun_without_a_name_can_be_resumed_by_name(objects: Objects) -> None:
    with opened(objects, None) as first:
        pass
    with opened(objects, first.run) as again:
        assert again.resumed
        again.complete(summary_of(small_summary()))
    assert not list(objects.names("unfinished"))


def test_unnamed_runs_that_begin_in_the_same_second_get_different_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "now_text", lambda: "2026-11-25T03:00:00Z")
    for storage in (str(tmp_path), "memory://same-second"):
        names = []
        for number in range(3):
            with opened(open_storage(storage), None, {"number": number}) as folder:
                names.append(folder.run)
        assert names == [f"2026-11-25T03-00-00Z-mnist{end}" for end in ("", "-2", "-3")]


def hold(root: Path, ready: Any) -> None:
    with opened(LocalObjects(root)):
        ready.set()
        signal.pause()


def test_an_unnamed_run_takes_another_name_if_one_of_the_same_second_is_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "now_text", lambda: "2026-11-25T03:00:00Z")
    first, second = LocalObjects(tmp_path), LocalObjects(tmp_path)
    with (
        first.lock("unfinished/2026-11-25T03-00-00Z-mnist.lock"),  # its record is not written yet
        open_run(second, None, dataset="mnist", terms={"a": 1}, command="jobs.train", configuration="") as folder,
    ):
        assert folder.run == "2026-11-25T03-00-00Z-mnist-2"


def test_a_run_is_locked_until_the_process_that_works_on_it_is_killed(tmp_path: Path) -> None:
    processes = multiprocessing.get_context("spawn")
    ready = processes.Event()
    holder = processes.Process(target=hold, args=(tmp_path, ready))
    holder.start()
    assert ready.wait(60)
    message = rf"r\.lock: expected no lock, got one held by process {holder.pid} on \S+ since 20\S+Z; wait for that"
    with pytest.raises(BusyError, match=message), opened(LocalObjects(tmp_path)):
        pass
    assert holder.pid
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    with opened(LocalObjects(tmp_path)) as folder:
        assert folder.resumed


def test_the_time_worked_on_a_run_leaves_out_the_time_between_two_drivers(tmp_path: Path) -> None:
    objects = LocalObjects(tmp_path)
    first = RunFolder(objects, "r")
    assert first.seconds_worked() == 0
    died = AttemptDied(trial="keras-s0", attempt=1, reason="killed")
    driver = DriverConnected()
    entries = [(100, driver), (110, EPOCH), (160, EPOCH), (9_000, driver), (9_020, died), (20_000, driver)]
    for at, entry in entries:
        first.append_history(structs.replace(entry, at=at))
    assert RunFolder(objects, "r", resumed=True).seconds_worked() == 60 + 20
    phases = {"start": 2.0, "cluster": 5.0}  # before the entry of a driver
    first.append_history(DriverConnected(at=30_000, phases=phases))
    assert RunFolder(objects, "r", resumed=True).seconds_worked() == 60 + 20 + 7


def test_an_incomplete_line_of_the_history_is_not_read_and_joins_no_later_one(objects: Objects) -> None:
    with opened(objects) as folder:
        folder.write("history/00000001.jsonl", history_line(DriverConnected(at=1)) + b'{"event": "ep')
    with opened(objects) as folder:
        assert [*folder.history()] == [DriverConnected(at=1)]
        folder.append_history(structs.replace(EPOCH, at=2))
        assert [*folder.history()] == [DriverConnected(at=1), structs.replace(EPOCH, at=2)]


def test_the_history_of_an_earlier_version_is_read_and_comes_first(objects: Objects) -> None:
    with opened(objects) as folder:
        folder.append_history(DriverConnected(at=2))
        folder.write("history.jsonl", history_line(DriverConnected(at=1)))
        assert [*folder.history()] == [DriverConnected(at=1), DriverConnected(at=2)]


def test_i11_the_lines_of_two_drivers_that_write_at_the_same_time_are_all_kept(storage: str) -> None:
    folders = [RunFolder(open_storage(storage), "r") for _ in range(2)]
    for at in range(1, 5):
        for folder in folders:
            folder.append_history(DriverConnected(at=at))
            folder.flush()
    assert [entry.at for entry in folders[0].history()] == [1, 2, 3, 4, 1, 2, 3, 4]


def test_a_damaged_run_record_is_an_integrity_error_that_names_it(tmp_path: Path) -> None:
    objects = LocalObjects(tmp_path)
    with opened(objects):
        pass
    (tmp_path / "runs/r/run.json").write_text("{")
    with pytest.raises(IntegrityError, match=r"runs/r/run\.json: expected a record"), opened(objects):
        pass


def test_resuming_with_another_dataset_is_refused(objects: Objects) -> None:
    folder = RunFolder(objects, "r")
    for _ in range(2):
        folder.require_same("fingerprint.txt", "abc", "dataset")
    with pytest.raises(SpecError, match="run r: expected the dataset with which it was begun, got another"):
        folder.require_same("fingerprint.txt", "abd", "dataset")


@pytest.mark.parametrize("name", ["../x", "/x", "a/b", "", ".hidden", "-x", "a\0b", "\uff41", "x" * 101, "a\n"])
def test_s10_a_run_name_that_is_not_a_plain_folder_name_is_refused(name: str) -> None:
    with pytest.raises(SpecError, match=r"run_name: expected"):
        check_run_name(name)


def test_checking_a_storage_leaves_no_file_in_it(tmp_path: Path) -> None:
    check_writable(LocalObjects(tmp_path / "new"))
    assert not list((tmp_path / "new").iterdir())


def test_s7_a_storage_that_cannot_be_written_is_named_in_the_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    objects = LocalObjects(tmp_path / "file")
    message = r"file.* cannot be read or written .*--storage"
    with pytest.raises(StoreError, match=message), opened(objects):
        pass
    with pytest.raises(StoreError, match=message):
        check_writable(objects)


def test_s7_a_storage_without_hard_links_is_refused_before_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", refused)
    with pytest.raises(StoreError, match="Operation not supported"):
        check_writable(LocalObjects(tmp_path))
    assert not list(tmp_path.iterdir())


def test_w7_a_history_of_any_length_is_read_in_little_memory(tmp_path: Path) -> None:
    folder = RunFolder(LocalObjects(tmp_path), "r")
    folder.append_history(DriverConnected(at=1))
    line = history_line(AttemptDied(at=61, trial="t", attempt=1, reason="r" * 900_000))
    for number in range(2, 62):
        (tmp_path / f"runs/r/history/{number:08d}.jsonl").write_bytes(5 * line)  # 4.5 MB
    setup = f"""
from pathlib import Path
from mnist_lib.objects.local import LocalObjects
from mnist_lib.store.runs import RunFolder
folder = RunFolder(LocalObjects(Path({str(tmp_path)!r})), "r", resumed=True)
"""
    assert peak_bytes(setup, "assert folder.seconds_worked() == 60") < 30_000_000
