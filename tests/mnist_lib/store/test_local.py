"""Files that are whole or absent: who creates one, what survives a power loss, what an error leaves."""

import os
from pathlib import Path

import pytest

from mnist_lib.errors import StoreError
from mnist_lib.store import local as module
from mnist_lib.store.local import LocalObjects


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_what_is_replaced_is_the_old_or_the_new(tmp_path: Path) -> None:
    objects = LocalObjects(tmp_path)
    for content in (b"old", b"new"):
        objects.replace("x", content)
        assert contents(tmp_path) == {"x": content}


@pytest.mark.parametrize("operation", ["create", "replace"])
def test_a_file_is_on_the_disk_before_its_name_and_the_name_before_the_return(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    journal: list[str] = []
    fsync, link, replace = os.fsync, Path.hardlink_to, Path.replace

    def record_sync(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        journal.append(f"sync {'file' if path.is_file() else path.relative_to(tmp_path).as_posix()}")
        fsync(descriptor)

    def record_link(self: Path, target: Path) -> None:
        journal.append(f"name {self.relative_to(tmp_path)}")
        link(self, target)

    def record_replace(self: Path, target: Path) -> Path:
        journal.append(f"name {target.relative_to(tmp_path)}")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", record_sync)
    monkeypatch.setattr(Path, "hardlink_to", record_link)
    monkeypatch.setattr(Path, "replace", record_replace)
    getattr(LocalObjects(tmp_path), operation)("a/b/x", b"content")
    assert journal == ["sync .", "sync a", "sync file", "name a/b/x", "sync a/b"]


@pytest.mark.parametrize("operation", ["create", "replace"])
@pytest.mark.parametrize("number", [1, 2])
def test_an_error_of_the_disk_is_told_and_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str, number: int
) -> None:
    objects, calls, fsync = LocalObjects(tmp_path), [], os.fsync
    objects.replace("x", b"old")

    def broken(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == number:
            raise OSError(5, "Input/output error")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(
        StoreError, match=r"y cannot be read or written \(Input/output error\); name another with --storage"
    ):
        getattr(objects, operation)("y", b"new")
    assert contents(tmp_path) in ({"x": b"old"}, {"x": b"old", "y": b"new"})  # whole, whether or not it is durable


def test_what_is_stored_is_as_readable_as_the_umask_allows(tmp_path: Path) -> None:
    LocalObjects(tmp_path).create("a/x", b"")
    assert (tmp_path / "a/x").stat().st_mode & 0o777 == 0o666 & ~module._umask()


def test_a_temporary_file_is_no_object(tmp_path: Path) -> None:
    objects = LocalObjects(tmp_path)
    objects.create("a/1", b"")
    (tmp_path / "a/.2.tmp").touch()
    assert list(objects.names("a")) == ["a/1"]
