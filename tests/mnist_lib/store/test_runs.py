"""The folder of a run."""

import time
from pathlib import Path

import pytest

from mnist_lib.errors import SpecError, StoreError
from mnist_lib.store.local import LocalObjects
from mnist_lib.store.runs import RunFolder, check_run_name, check_writable
from mnist_lib.store.storage import open_storage


def test_an_unfinished_run_begins_again_and_a_finished_one_is_refused(tmp_path: Path) -> None:
    objects, path = LocalObjects(tmp_path), tmp_path / "runs/r"
    for _ in range(2):
        folder = RunFolder.create(objects, "r", "epochs: 1")
        assert [file.name for file in path.iterdir()] == ["config.yaml"]
        folder.append_history({"event": "started"})
        folder.write_json("trials/a/result.json", {})
    assert len((path / "history.jsonl").read_text().splitlines()) == 1
    folder.complete({})
    with pytest.raises(SpecError, match=r"run_name: 'r' is finished: .*choose another --run-name"):
        RunFolder.create(objects, "r", "")


def test_runs_without_a_name_that_begin_in_the_same_second_get_a_folder_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "gmtime", lambda: time.struct_time((2026, 11, 25, 3, 0, 0, 2, 329, 0)))
    for storage in (str(tmp_path), "memory://same-second"):
        names = [RunFolder.create_unnamed(open_storage(storage), "mnist", "same").run for _ in range(3)]
        assert names == [f"2026-11-25T03-00-00Z-mnist{end}" for end in ("", "-2", "-3")]


@pytest.mark.parametrize("name", ["../x", "/x", "a/b", "", ".hidden", "-x", "a\0b", "\uff41", "x" * 101, "a\n"])
def test_a_run_name_that_is_no_plain_folder_name_is_refused(name: str) -> None:
    with pytest.raises(SpecError, match=r"run_name: expected"):
        check_run_name(name)


def test_to_check_a_storage_leaves_nothing_there(tmp_path: Path) -> None:
    check_writable(LocalObjects(tmp_path / "new"))
    assert not list((tmp_path / "new").iterdir())


def test_a_storage_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for write in (lambda objects: RunFolder.create(objects, "r", ""), check_writable):
        with pytest.raises(StoreError, match=r"file.* cannot be read or written .*--storage"):
            write(LocalObjects(tmp_path / "file"))


def test_a_storage_on_which_nothing_can_be_created_if_absent_is_refused_before_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(self: Path, target: Path) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(Path, "hardlink_to", refused)
    with pytest.raises(StoreError, match="Operation not supported"):
        check_writable(LocalObjects(tmp_path))
    assert not list(tmp_path.iterdir())
