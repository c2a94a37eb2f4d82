"""A local copy of a folder in a bucket. Later runs copy only what has changed."""

from dataclasses import replace
from pathlib import Path

import obstore
import pytest

from mnist_lib.catalog import MAX_PICTURE_BYTES
from mnist_lib.data.prepare import prepare
from mnist_lib.data.request import DataRequest
from mnist_lib.data.sources import mirror
from mnist_lib.errors import DataMissingError, TooLargeError
from mnist_lib.objects import bucket
from tests.support.pictures import classes, noise, write_folder


def send(folder: Path, url: str) -> None:
    store = bucket._open(url)
    for path in folder.rglob("*"):
        if path.is_file():
            obstore.put(store, path.relative_to(folder).as_posix(), path.read_bytes())


def test_a_folder_in_a_bucket_is_the_same_dataset_and_only_changes_are_copied(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{s3}/my letters"
    local = write_folder(tmp_path / "local", classes("a é", "b"))
    rows = [f"{name}/{number}.png,{number}" for name in ("a é", "b") for number in range(30)]
    (local / "groups.csv").write_text("\n".join(["path,group", *rows]))
    send(local, url)
    request = DataRequest(dataset=url, data_dir=tmp_path / "data")
    copied: list[str] = []
    copy = mirror._copy

    def copy_and_note(store: bucket.BucketObjects, folder: Path, name: str) -> None:
        copied.append(name)
        copy(store, folder, name)

    monkeypatch.setattr(mirror, "_copy", copy_and_note)
    here = mirror.with_local_files(request)
    assert (request.name, here.name, len(copied)) == ("my-letters", "my-letters", 61)
    expected = prepare(DataRequest(dataset=f"{local}/", data_dir=tmp_path / "data"))
    assert prepare(here).fingerprint == expected.fingerprint
    assert prepare(replace(here, group_by="groups.csv")).group_counts is not None
    store = bucket._open(url)
    noise(9_999).save(local / "a é/new.png")
    obstore.put(store, "a é/new.png", (local / "a é/new.png").read_bytes())
    obstore.delete(store, "b/1.png")
    copied.clear()
    changed = prepare(mirror.with_local_files(request))
    assert copied == ["a é/new.png"]
    (local / "b/1.png").unlink()
    assert changed.fingerprint == prepare(DataRequest(dataset=f"{local}/", data_dir=tmp_path / "data")).fingerprint


def test_an_interrupted_copy_is_repeated_and_a_name_cannot_leave_the_folder(s3: str, tmp_path: Path) -> None:
    send(write_folder(tmp_path / "local", classes("a", "b", pictures=2)), s3)
    mirror.mirror(s3, tmp_path / "copy")
    (tmp_path / "copy/a/1.png").write_bytes(b"cut")
    (tmp_path / "copy" / mirror.STATE).write_text("{")  # cut by a power loss
    (tmp_path / "copy/a/deleted-meanwhile.png").write_bytes(b"x")
    mirror.mirror(s3, tmp_path / "copy")
    assert (tmp_path / "copy/a/1.png").read_bytes() == (tmp_path / "local/a/1.png").read_bytes()
    assert not (tmp_path / "copy/a/deleted-meanwhile.png").exists()
    for name in ("a/", "note.txt"):  # a folder as web consoles make one, and a file that is not a picture
        obstore.put(bucket._open(s3), name, b"")
    mirror.mirror(s3, tmp_path / "copy")
    assert sorted(path.name for path in (tmp_path / "copy").iterdir() if path.name[0] != ".") == ["a", "b"]
    with pytest.raises(DataMissingError, match="got none in s3://"):
        mirror.mirror(f"{s3}/mistyped", tmp_path / "copy")
    assert (tmp_path / "copy/a/1.png").exists()
    assert not any(map(mirror._is_picture, ("../x.png", "/x.png", "a/../../x.png", "a\0b", "")))
    with pytest.raises(DataMissingError, match="in a bucket, got: s3://no-such-bucket/folder/ cannot be read"):
        mirror.mirror("s3://no-such-bucket/folder", tmp_path / "other")


@pytest.mark.slow
def test_an_object_too_large_to_be_a_picture_is_named_but_not_copied(s3: str, tmp_path: Path) -> None:
    send(write_folder(tmp_path / "local", {**classes("a", "b"), "a/large.png": bytes(11_000_000)}), s3)
    request = DataRequest(dataset=s3, data_dir=tmp_path / "data")
    for _ in range(2):
        here = mirror.with_local_files(request)
        assert here.folder is not None
        assert (here.folder / "a/large.png").stat().st_blocks == 0
        dataset = prepare(here)
        assert len(dataset.report.unreadable) == 1
        assert dataset.report.notices == (
            "left out: a/large.png: expected at most 10 MB, got 11.0; scale the picture down",
        )
    with pytest.raises(TooLargeError, match=r"a/large\.png: expected at most 10,000,000 bytes, got 11,000,000"):
        bucket.BucketObjects(s3).content("a/large.png", MAX_PICTURE_BYTES)
