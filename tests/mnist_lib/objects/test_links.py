"""Links inside a storage on a local disk: nothing outside is read, changed or deleted, whenever they appear."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.models import __main__ as models
from mnist_lib.errors import IntegrityError, MnistError
from mnist_lib.objects.local import MAX_DEPTH, LocalObjects
from mnist_lib.store.champions.challenge import promote
from mnist_lib.store.champions.promotion import Rule
from mnist_lib.store.publishing import collect
from tests.support.store.scenarios import published

LINK = "expected a folder, got a link or a file; links inside a storage are not followed"
TEMPORARY = f".x.{32 * '0'}"

OPERATIONS: dict[str, Callable[[LocalObjects, str], Any]] = {
    "read": lambda objects, name: objects.read(name),
    "exists": lambda objects, name: objects.exists(name),
    "create": lambda objects, name: objects.create(name, b"new"),
    "replace": lambda objects, name: objects.replace(name, b"new"),
    "append": lambda objects, name: objects.append(name, b"new"),
    "names": lambda objects, name: [*objects.names(name)],
    "folders": lambda objects, name: objects.folders(name),
    "delete": lambda objects, name: objects.delete(name),
    "delete_below": lambda objects, name: objects.delete_below(name),
    "delete_leftovers": lambda objects, name: objects.delete_leftovers(name),
    "lock": lambda objects, name: objects.lock(name).__enter__(),
}


def state(folder: Path) -> dict[str, tuple[int, bytes | str]]:
    """Return the mode and the content of everything below a folder, with the targets of links."""
    found: dict[str, tuple[int, bytes | str]] = {}
    for path in [folder, *folder.rglob("*")]:
        content = str(path.readlink()) if path.is_symlink() else path.read_bytes() if path.is_file() else ""
        found[path.relative_to(folder).as_posix()] = path.lstat().st_mode, content
    return found


def move_outside(path: Path, outside: Path) -> None:
    """Move a file or folder to the folder `outside`, and leave a link in its place."""
    outside.mkdir(exist_ok=True)
    target = outside / f"{len([*outside.iterdir()])}"
    path.rename(target)
    path.symlink_to(target)


@contextlib.contextmanager
def without_syncs() -> Iterator[Path]:
    """Provide a temporary folder in which nothing is synced: that would take time, and is not tested here."""
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(os, "fsync"):
        yield Path(folder)


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage with three versions, of which gc deletes the first, and a temporary file that is old."""
    folder = tmp_path_factory.mktemp("versions")
    objects = LocalObjects(folder)
    first, second, _ = [published(objects, right) for right in (40, 80, 120)]
    with mock.patch("mnist_lib.store.versions.now_text", return_value="2026-01-01T00:00:00Z"):  # recent holds stop gc
        promote(objects, second, Rule())
    left = folder / f"models/keras/versions/2/{TEMPORARY}"
    left.touch()
    os.utime(left, (0, 0))
    assert collect(objects, "keras", 1, dry_run=True).deleted == [first.name]
    return folder


@pytest.mark.parametrize("name", ["models", "models/keras", "models/keras/versions"])
def test_gc_refuses_a_link_in_place_of_a_folder_and_deletes_nothing_there(
    versions: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    store, outside = tmp_path / "store", tmp_path / "outside"
    shutil.copytree(versions, store)
    move_outside(store / name, outside)
    before = state(outside)
    # gc has marked the version as one to delete, and finds the link when it deletes the files.
    assert models.main(["gc", "--keep=1", "--storage", str(store)]) == 7
    assert state(outside) == before
    assert f"{store / name}: {LINK}" in "".join(capsys.readouterr())


@pytest.mark.parametrize("operation", ["delete_below", "delete_leftovers", "names"])
@pytest.mark.parametrize("swapped", ["a", "a/b", "a/b/c"])
def test_a_folder_that_becomes_a_link_just_before_it_is_opened_is_not_followed(
    tmp_path: Path, operation: str, swapped: str
) -> None:
    store, outside = tmp_path / "store", tmp_path / "outside"
    (store / "a/b/c").mkdir(parents=True)
    for path in (store / "a/b/c/x", store / f"a/b/c/{TEMPORARY}"):
        path.touch()
        os.utime(path, (0, 0))
    opened = os.open

    def swap_and_open(path: str | Path, *arguments: Any, **options: Any) -> int:
        if path == Path(swapped).name and not (store / swapped).is_symlink():
            move_outside(store / swapped, outside)
            before.update(state(outside))
        return opened(path, *arguments, **options)

    before: dict[str, Any] = {}
    with mock.patch.object(os, "open", swap_and_open), contextlib.suppress(MnistError):
        OPERATIONS[operation](LocalObjects(store), "a/b")
    assert before
    assert state(outside) == before


def test_the_folder_of_a_storage_may_itself_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "results").symlink_to(tmp_path / "disk")
    objects = LocalObjects(tmp_path / "results")
    objects.create("a/x", b"content")
    assert objects.read("a/x") == (tmp_path / "disk/a/x").read_bytes() == b"content"
    assert [*objects.names("")] == ["a/x"]


@pytest.mark.parametrize("operation", ["read", "append", "lock"])
def test_a_link_in_place_of_a_file_is_refused_with_advice(tmp_path: Path, operation: str) -> None:
    (tmp_path / "store/a").mkdir(parents=True)
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "store/a/x").symlink_to(tmp_path / "secret")
    with pytest.raises(IntegrityError, match=r"a/x: expected a regular file, got a link; .* remove it"):
        OPERATIONS[operation](LocalObjects(tmp_path / "store"), "a/x")
    assert (tmp_path / "secret").read_text() == "secret"


def test_folders_that_are_nested_too_deeply_are_an_error_and_not_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "/".join(["d"] * (MAX_DEPTH + 2))).mkdir(parents=True)
    with pytest.raises(MnistError, match=f"folders nested more than {MAX_DEPTH} deep"):
        [*LocalObjects(tmp_path).names("")]


@pytest.mark.fuzz
@given(moved=st.sets(st.integers(0, 999), min_size=1, max_size=5), keep=st.integers(1, 3))
def test_gc_changes_nothing_outside_wherever_links_are(versions: Path, moved: set[int], keep: int) -> None:
    with without_syncs() as folder:
        store, outside = folder / "store", folder / "outside"
        shutil.copytree(versions, store, copy_function=os.link)
        for number in sorted(moved):
            if paths := sorted(path for path in store.rglob("*") if not path.is_symlink()):
                move_outside(paths[number % len(paths)], outside)
        before = state(outside)
        with contextlib.suppress(MnistError):
            collect(LocalObjects(store), "keras", keep)
        assert state(outside) == before


places = st.sampled_from(["a", "b", "a/a", "a/b", "b/a"])
names = st.sampled_from(["a", "b", "a/a", "a/b", "b/a", "a/a/a", "a/a/b", "a/b/a", "b/a/b", "b/a/b/a"])
kinds = st.sampled_from(["a link out", "a link into a folder there", "a link up", "a file", "an old temporary file"])


@pytest.mark.fuzz
@given(
    tree=st.lists(st.tuples(places, kinds), min_size=1, max_size=4),
    operations=st.lists(st.tuples(st.sampled_from(sorted(OPERATIONS)), names), min_size=1, max_size=4),
)
def test_no_operation_reads_or_changes_anything_outside(
    tree: list[tuple[str, str]], operations: list[tuple[str, str]]
) -> None:
    with without_syncs() as folder:
        store, outside = folder / "store", folder / "outside"
        (outside / "a/b").mkdir(parents=True)
        for path in (
            outside / "b",
            outside / "a/a",
            outside / "a/b/a",
            outside / TEMPORARY,
            outside / f"a/{TEMPORARY}",
        ):
            path.write_text("secret")
            os.utime(path, (0, 0))
        for name, kind in tree:
            with contextlib.suppress(OSError):  # something else is in the way
                path = store / name
                path.parent.mkdir(parents=True, exist_ok=True)
                if kind == "a file":
                    path.touch()
                elif kind == "an old temporary file":
                    (path.parent / TEMPORARY).touch()
                    os.utime(path.parent / TEMPORARY, (0, 0))
                else:
                    path.symlink_to({"a link out": outside, "a link up": Path("..")}.get(kind, outside / "a"))
        before = state(outside)
        for operation, name in operations:
            with contextlib.suppress(MnistError):
                assert "secret" not in str(OPERATIONS[operation](LocalObjects(store), name))
        assert state(outside) == before
