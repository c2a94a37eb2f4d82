"""Reading versions: every difference from what was committed is found and named."""

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from mnist_lib.errors import IntegrityError, SchemaError
from mnist_lib.objects.local import LocalObjects
from mnist_lib.objects.records import seal
from mnist_lib.objects.storage import open_storage
from mnist_lib.store.publishing import publish
from mnist_lib.store.versions import find, find_all, verify, verify_copy, version_folder

FILES = {"model.keras": b"model", "saved_model/variables/index": b"index"}


@pytest.fixture
def objects(tmp_path: Path) -> LocalObjects:
    return LocalObjects(tmp_path)


def damaged(content: bytes, generator: random.Random) -> Iterator[bytes]:
    """Yield the content with 64 random bits flipped, one at a time, and truncated, extended and empty."""
    for _ in range(64):
        place = generator.randrange(len(content))
        yield content[:place] + bytes([content[place] ^ 1 << generator.randrange(8)]) + content[place + 1 :]
    yield content[:-1]
    yield content + b"x"
    yield b""


def test_p4_s8_a_changed_or_missing_file_is_named_with_what_was_expected(objects: LocalObjects, tmp_path: Path) -> None:
    version = publish(objects, "keras", "r", FILES, {})
    path = tmp_path / version_folder("keras", 1) / "model.keras"
    for content in damaged(FILES["model.keras"], random.Random(0)):
        path.write_bytes(content)
        with pytest.raises(IntegrityError, match=r"^keras@1: model.keras: expected sha256 \w{64}, got"):
            verify(objects, version)
    path.unlink()
    with pytest.raises(IntegrityError, match=r"^keras@1: model.keras: expected sha256 \w{64}, got no file"):
        verify(objects, version)


RECORD = seal({"model": "keras", "number": 1})


@pytest.mark.parametrize(
    "record", [b"", b"{", b"[]", b"null", b"\xff", b'{"schema": 1}', b"{}" * 1_000, RECORD, b"[" * 10**6]
)
def test_s9_a_damaged_commit_record_is_an_error_and_other_versions_are_still_listed(
    objects: LocalObjects, tmp_path: Path, record: bytes
) -> None:
    for run in ("a", "b"):
        publish(objects, "keras", run, FILES, {})
    (tmp_path / "models/keras/commits/00000001.json").write_bytes(record)
    with pytest.raises(IntegrityError, match=r"^keras@1: expected (a|the) record"):
        find(objects, "keras", 1)
    (first, error), (second, version) = find_all(objects, "keras")
    assert (first, type(error), second) == (1, IntegrityError, 2)
    assert version == find(objects, "keras", 2)


def test_s9_a_flipped_bit_in_any_byte_of_a_commit_record_is_found(objects: LocalObjects, tmp_path: Path) -> None:
    publish(objects, "keras", "r", FILES, {"test": {"correct": 9, "total": 10}})
    path = tmp_path / "models/keras/commits/00000001.json"
    record = path.read_bytes()
    for place in range(len(record)):
        path.write_bytes(record[:place] + bytes([record[place] ^ 1]) + record[place + 1 :])
        with pytest.raises(IntegrityError, match=r"^keras@1: "):
            find(objects, "keras", 1)


def test_s9_a_record_of_a_newer_schema_is_a_schema_error(objects: LocalObjects, tmp_path: Path) -> None:
    publish(objects, "keras", "r", FILES, {})
    path = tmp_path / "models/keras/commits/00000001.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema": 2, "unknown": 1}))
    with pytest.raises(SchemaError, match="expected schema 1 or older, got 2"):
        find(objects, "keras", 1)


@pytest.mark.slow
def test_a_copied_version_is_verified_against_its_own_record(objects: LocalObjects, tmp_path: Path, s3: str) -> None:
    version = publish(objects, "keras", "r", FILES, {})
    original, copy, bucket = tmp_path / version_folder("keras", 1), tmp_path / "copy", open_storage(s3)
    shutil.copytree(original, copy)
    for name in objects.names(version_folder("keras", 1)):
        bucket.create(name.removeprefix(f"{version_folder('keras', 1)}/"), objects.read(name) or b"")
    for there in (LocalObjects(copy), bucket):
        assert verify_copy(there) == version
        for name in (*FILES, "record.json"):
            content = there.read(name)
            assert content
            there.replace(name, content[:-1] + bytes([content[-1] ^ 1]))
            with pytest.raises(IntegrityError):
                verify_copy(there)
            there.replace(name, content)
        there.delete("record.json")
        with pytest.raises(IntegrityError, match=r"record.json: expected the record of a version, got no file"):
            verify_copy(there)
