"""Links inside a storage on a disk: those to folders are followed, but nothing is listed or deleted through them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mnist_lib.errors import IntegrityError
from mnist_lib.objects.local import LocalObjects

OPERATIONS: dict[str, Callable[[LocalObjects, str], Any]] = {
    "read": lambda objects, name: objects.read(name),
    "append": lambda objects, name: objects.append(name, b"new"),
    "add": lambda objects, name: objects.add(name, b"new"),
    "lock": lambda objects, name: objects.lock(name).__enter__(),
}


def test_the_folder_of_a_storage_and_folders_in_it_may_be_links(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "other/a").mkdir(parents=True)
    (tmp_path / "results").symlink_to(tmp_path / "disk")
    (tmp_path / "disk/a").symlink_to(tmp_path / "other/a")
    objects = LocalObjects(tmp_path / "results")
    objects.create("a/x", b"content")
    assert objects.read("a/x") == (tmp_path / "other/a/x").read_bytes() == b"content"
    assert [*objects.names("a")] == ["a/x"]
    objects.delete("a/x")
    assert not objects.exists("a/x")


def test_nothing_is_listed_or_deleted_through_a_link_below_a_folder(tmp_path: Path) -> None:
    store = tmp_path / "store"
    outside = tmp_path / "outside"
    for folder in (store / "a", outside):
        folder.mkdir(parents=True)
        (folder / "x").touch()
    for name in ("a/link", "link"):
        (store / name).symlink_to(outside)
    (store / "a/loop").symlink_to(store)
    objects = LocalObjects(store)
    assert [*objects.names("a")] == ["a/link", "a/loop", "a/x"]
    objects.delete_below("a")
    objects.delete_below("link")
    assert [*store.iterdir()] == []
    assert [*outside.iterdir()] == [outside / "x"]


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_link_in_place_of_a_file_is_refused_with_advice(tmp_path: Path, operation: str) -> None:
    (tmp_path / "store/a").mkdir(parents=True)
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "store/a/x").symlink_to(tmp_path / "secret")
    with pytest.raises(IntegrityError, match=r"a/x: expected a regular file, got a link; remove it"):
        OPERATIONS[operation](LocalObjects(tmp_path / "store"), "a/x")
    assert (tmp_path / "secret").read_text() == "secret"


@pytest.mark.parametrize("operation", ["create", "replace"])
def test_a_file_that_is_written_anew_is_written_through_no_link(tmp_path: Path, operation: str) -> None:
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "x").symlink_to(tmp_path / "secret")
    assert getattr(LocalObjects(tmp_path), operation)("x", b"new") is (False if operation == "create" else None)
    assert (tmp_path / "secret").read_text() == "secret"
