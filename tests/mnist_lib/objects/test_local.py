"""Files on a local disk: syncs, disk errors, concurrent deletion, permissions and leftovers."""

import os
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mnist_lib.errors import StoreError
from mnist_lib.objects.local import LocalObjects
from mnist_lib.objects.storage import open_storage
from tests.support.memory import peak_bytes


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("operation", ["create", "replace"])
def test_p2_a_file_is_synced_before_it_is_named_and_its_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    journal: list[str] = []
    fsync, link, replace = os.fsync, os.link, os.replace

    def path_of(descriptor: int) -> Path:
        return Path(f"/proc/self/fd/{descriptor}").readlink()

    def record_sync(descriptor: int) -> None:
        path = path_of(descriptor)
        journal.append(f"sync {'file' if path.is_file() else path.relative_to(tmp_path.parent).as_posix()}")
        fsync(descriptor)

    def recorded(name: Callable[..., None]) -> Callable[..., None]:
        def record(old: Path, new: Path) -> None:
            journal.append(f"name {new.relative_to(tmp_path)}")
            name(old, new)

        return record

    monkeypatch.setattr(os, "fsync", record_sync)
    monkeypatch.setattr(os, "link", recorded(link))
    monkeypatch.setattr(os, "replace", recorded(replace))
    getattr(LocalObjects(tmp_path), operation)("a/b/x", b"content")
    root = tmp_path.name
    assert journal == ["sync .", f"sync {root}", f"sync {root}/a", "sync file", "name a/b/x", f"sync {root}/a/b"]


@pytest.mark.parametrize(("number", "left"), [(1, b"old"), (2, b"new")])
def test_s1_a_failed_replace_is_reported_and_leaves_one_complete_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, left: bytes
) -> None:
    objects, calls, fsync = LocalObjects(tmp_path), [], os.fsync
    objects.replace("x", b"old")

    def broken(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == number:
            raise OSError(5, "Input/output error")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(StoreError, match=r"x cannot be read or written \(Input/output error\); name another with"):
        objects.replace("x", b"new")
    assert contents(tmp_path) == {"x": left}


def test_s1_a_failed_create_is_reported_and_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(StoreError, match=r"y cannot be read or written \(Input/output error\)"):
        LocalObjects(tmp_path).create("y", b"new")
    assert contents(tmp_path) == {}


def test_concurrent_deletions_of_one_folder_all_succeed(tmp_path: Path) -> None:
    objects = LocalObjects(tmp_path)
    for attempt in range(20):
        for name in range(30):
            (tmp_path / f"a/{attempt}/{name % 3}").mkdir(parents=True, exist_ok=True)
            (tmp_path / f"a/{attempt}/{name % 3}/{name}").touch()
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _, at=attempt: objects.delete_below(f"a/{at}"), range(4)))
        assert not (tmp_path / f"a/{attempt}").exists()


def test_stored_files_have_the_permissions_that_the_umask_allows(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        LocalObjects(tmp_path).create("a/x", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "a/x").stat().st_mode & 0o777 == 0o640


def test_a_storage_that_is_created_is_private_and_one_that_exists_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir(mode=0o755)
    for name, mode in (("new", 0o700), ("shared", 0o755)):
        open_storage(str(tmp_path / name)).create("a/x", b"")
        assert (tmp_path / name).stat().st_mode & 0o777 == mode


def test_a_temporary_file_is_not_listed_as_an_object(tmp_path: Path) -> None:
    objects = LocalObjects(tmp_path)
    objects.create("a/1", b"")
    (tmp_path / f"a/.2.{uuid.uuid4().hex}").touch()
    assert list(objects.names("a")) == ["a/1"]


def test_a_file_that_has_grown_to_gigabytes_is_not_read(tmp_path: Path) -> None:
    for name in ("grown", "runs/r/summary.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        with (tmp_path / name).open("wb") as file:
            file.truncate(12_000_000_000)  # a hole: it takes no space on the disk
    setup = "from pathlib import Path\nfrom mnist_lib.errors import IntegrityError\n"
    setup += "from mnist_lib.objects.local import LocalObjects\nfrom mnist_lib.store.runs import RunFolder\n"
    setup += f"objects = LocalObjects(Path({str(tmp_path)!r}))\n"
    code = """
for read in (lambda: objects.read("grown"), RunFolder(objects, "r").summary):
    try:
        raise AssertionError(read())
    except IntegrityError as error:
        assert "got 12,000,000,000; restore it" in str(error)
"""
    assert peak_bytes(setup, code) < 8_000_000
