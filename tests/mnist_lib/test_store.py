import hashlib
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mnist_lib.errors import SpecError, StoreError
from mnist_lib.store import atomic
from mnist_lib.store.runs import RunFolder, check_run_name, check_writable
from mnist_lib.store.versions import publish, version_folder

FILES = {"model.keras": b"model", "saved_model/variables/index": b"index"}


def test_versions_count_up_and_hold_their_files_with_size_and_sha256(tmp_path: Path) -> None:
    assert [publish(tmp_path, "keras", FILES, {"run": "r"}) for _ in range(2)] == [1, 2]
    folder = version_folder(tmp_path, "keras", 2)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["run"] == "r"
    for name, content in FILES.items():
        assert (folder / name).read_bytes() == content
        assert manifest["files"][name] == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def test_publishers_at_once_get_a_version_each(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        numbers = list(pool.map(lambda n: publish(tmp_path, "keras", {"n": str(n).encode()}, {}), range(40)))
    assert sorted(numbers) == list(range(1, 41))
    for n, number in enumerate(numbers):
        assert (version_folder(tmp_path, "keras", number) / "n").read_text() == str(n)


def test_a_failed_publish_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic, "_write_synced", full)
    with pytest.raises(StoreError, match=r"versions cannot be written .No space left on device.; name another"):
        publish(tmp_path, "keras", FILES, {})
    assert not list((tmp_path / "models/keras/versions").iterdir())


def test_a_publisher_killed_in_between_leaves_no_version(tmp_path: Path) -> None:
    code = (
        "import os, sys, pathlib; from mnist_lib.store import versions, atomic;"
        "atomic._sync_folder = lambda folder: os._exit(9);"  # at the first of its two files
        "versions.publish(pathlib.Path(sys.argv[1]), 'keras', {'a': b'1', 'b': b'2'}, {})"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)]).returncode == 9
    assert publish(tmp_path, "keras", FILES, {}) == 1


def test_a_written_file_replaces_the_old_one_and_leaves_no_other(tmp_path: Path) -> None:
    for content in (b"old", b"new"):
        atomic.write_file(tmp_path / "x", content)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("x", b"new")]


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    atomic.write_file(tmp_path / "x", b"old")

    def broken(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="Input/output error"):
        atomic.write_file(tmp_path / "x", b"new")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("x", b"old")]


def test_what_is_stored_is_as_readable_as_the_umask_allows(tmp_path: Path) -> None:
    folder = version_folder(tmp_path, "keras", publish(tmp_path, "keras", FILES, {}))
    for path in (folder, *folder.rglob("*")):
        expected = (0o777 if path.is_dir() else 0o666) & ~atomic._umask()
        assert path.stat().st_mode & 0o777 == expected, path


def test_every_file_and_folder_of_a_version_is_synced_before_it_appears(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: set[str] = set()
    fsync, rename = os.fsync, Path.rename

    def record(descriptor: int) -> None:
        synced.add(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        fsync(descriptor)

    def check(self: Path, target: Path) -> Path:
        folders = {str(path) for path in (self, *self.rglob("*")) if path.is_dir()}
        assert folders <= synced
        assert len(synced - folders) >= len(FILES) + 1  # its files, under their temporary names
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", record)
    monkeypatch.setattr(Path, "rename", check)
    publish(tmp_path / "new", "keras", FILES, {})
    for parent in ("", "new", "new/models", "new/models/keras", "new/models/keras/versions"):
        assert str(tmp_path / parent) in synced


def test_an_unfinished_run_begins_again_and_a_finished_one_is_refused(tmp_path: Path) -> None:
    for _ in range(2):
        folder = RunFolder.create(tmp_path, "r")
        assert not (folder.path / "trials").exists()
        folder.append_history({"event": "started"})
        folder.write_json("trials/a/result.json", {})
    assert len((folder.path / "history.jsonl").read_text().splitlines()) == 1
    folder.write_json("summary.json", {})
    with pytest.raises(SpecError, match=r"run_name: 'r' is finished: .*choose another --run-name"):
        RunFolder.create(tmp_path, "r")


def test_runs_without_a_name_that_begin_in_the_same_second_get_a_folder_each(tmp_path: Path) -> None:
    assert len({RunFolder.create_unnamed(tmp_path, "mnist").path for _ in range(5)}) == 5


@pytest.mark.parametrize("name", ["../x", "/x", "a/b", "", ".hidden", "-x", "a\0b", "\uff41", "x" * 101, "a\n"])
def test_a_run_name_that_is_no_plain_folder_name_is_refused(name: str) -> None:
    with pytest.raises(SpecError, match=r"run_name: expected"):
        check_run_name(name)


def test_a_storage_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for write in (lambda storage: RunFolder.create(storage, "r"), check_writable):
        with pytest.raises(StoreError, match=r"file.* cannot be written .*--storage"):
            write(tmp_path / "file")
