"""Publishing, whatever goes wrong at whichever step; and what reading finds that is not as it was committed."""

import json
import random
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mnist_lib.errors import IntegrityError, SchemaError, SpecError
from mnist_lib.store.local import LocalObjects
from mnist_lib.store.log import last_number, seal
from mnist_lib.store.publishing import publish
from mnist_lib.store.storage import open_storage
from mnist_lib.store.versions import find, find_all, read_file, verify, verify_copy, version_folder
from tests.support.store.invariants import all_verified

FILES = {"model.keras": b"model", "saved_model/variables/index": b"index"}


@pytest.fixture
def objects(tmp_path: Path) -> LocalObjects:
    return LocalObjects(tmp_path)


def test_versions_count_up_and_hold_their_files(objects: LocalObjects, tmp_path: Path) -> None:
    for number in (1, 2):
        version = publish(objects, "keras", f"run-{number}", FILES, {"test": 3})
        assert (version.number, version.name) == (number, f"keras@{number}")
        assert find(objects, "keras", number) == version
        assert version.about == {"test": 3}
    for name, content in FILES.items():
        assert read_file(objects, version, name) == content
        assert (tmp_path / version_folder("keras", 2) / name).read_bytes() == content
    assert find(objects, "keras", 3) is None


def test_a_run_publishes_a_model_once(objects: LocalObjects) -> None:
    first = publish(objects, "keras", "r", FILES, {})
    again = publish(objects, "keras", "r", {"model.keras": b"another"}, {})
    other = publish(objects, "scratch", "r", FILES, {})
    assert again == first
    assert (other.model, other.number) == ("scratch", 1)
    assert all_verified(objects) == [1]


def test_attempts_at_one_run_that_publish_at_once_publish_once(objects: LocalObjects) -> None:
    with ThreadPoolExecutor(8) as pool:
        published = list(pool.map(lambda n: publish(objects, "keras", "r", {"n": bytes([n])}, {}), range(8)))
    assert len({version.number for version in published}) == 1
    assert all_verified(objects) == [published[0].number]
    folders = {name.split("/")[3] for name in objects.names("models/keras/versions")}
    assert folders == {str(published[0].number)}


def damaged(content: bytes, generator: random.Random) -> Iterator[bytes]:
    for _ in range(64):
        place = generator.randrange(len(content))
        yield content[:place] + bytes([content[place] ^ 1 << generator.randrange(8)]) + content[place + 1 :]
    yield content[:-1]
    yield content + b"x"
    yield b""


def test_a_file_that_is_not_what_was_committed_is_named_with_what_was_expected(
    objects: LocalObjects, tmp_path: Path
) -> None:
    version = publish(objects, "keras", "r", FILES, {})
    path = tmp_path / version_folder("keras", 1) / "model.keras"
    for content in damaged(FILES["model.keras"], random.Random(0)):
        path.write_bytes(content)
        with pytest.raises(IntegrityError, match=r"^keras@1: model.keras: expected (5 bytes|sha256 \w{64}), got"):
            verify(objects, version)
    path.unlink()
    with pytest.raises(IntegrityError, match=r"^keras@1: model.keras: expected 5 bytes, got no file"):
        verify(objects, version)
    path.write_bytes(FILES["model.keras"])
    (path.parent / "more").touch()
    with pytest.raises(IntegrityError, match=r"^keras@1: more: expected no such file"):
        verify(objects, version)


RECORD = seal({"model": "keras", "number": 1})


@pytest.mark.parametrize(
    "record", [b"", b"{", b"[]", b"null", b"\xff", b'{"schema": 1}', b"{}" * 1_000, RECORD, b"[" * 10**6]
)
def test_a_record_that_is_none_is_an_integrity_error_and_hides_no_other_version(
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


def test_a_flipped_byte_anywhere_in_a_record_is_found(objects: LocalObjects, tmp_path: Path) -> None:
    publish(objects, "keras", "r", FILES, {"test": {"correct": 9, "total": 10}})
    path = tmp_path / "models/keras/commits/00000001.json"
    record = path.read_bytes()
    for place in range(len(record)):
        path.write_bytes(record[:place] + bytes([record[place] ^ 1]) + record[place + 1 :])
        with pytest.raises(IntegrityError, match=r"^keras@1: "):
            find(objects, "keras", 1)


def test_a_record_of_another_version_is_not_taken_for_this(objects: LocalObjects, tmp_path: Path) -> None:
    for run in ("a", "b"):
        publish(objects, "keras", run, FILES, {})
    commits = tmp_path / "models/keras/commits"
    (commits / "00000001.json").write_bytes((commits / "00000002.json").read_bytes())
    with pytest.raises(IntegrityError, match=r"^keras@1: expected the record of a version, got one of keras@2"):
        find(objects, "keras", 1)


def test_a_record_of_a_newer_program_is_told_as_such(objects: LocalObjects, tmp_path: Path) -> None:
    publish(objects, "keras", "r", FILES, {})
    path = tmp_path / "models/keras/commits/00000001.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema": 2, "unknown": 1}))
    with pytest.raises(SchemaError, match="schema 2, this program knows 1"):
        find(objects, "keras", 1)


@pytest.mark.parametrize("name", ["../../x", "/x", "", "a\0b", "x" * 300, "-x", "\uff41", ".."])
def test_names_that_could_lead_elsewhere_are_refused_and_nothing_is_written(tmp_path: Path, name: str) -> None:
    objects = LocalObjects(tmp_path / "root")
    for model, run, file in ((name, "r", "x"), ("keras", name, "x"), ("keras", "r", f"a/{name}/b")):
        with pytest.raises(SpecError, match="expected up to"):
            publish(objects, model, run, {file: b""}, {})
    assert not list(tmp_path.iterdir())


def test_a_copy_of_a_version_is_verified_where_it_is(objects: LocalObjects, tmp_path: Path, s3: str) -> None:
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


@pytest.mark.parametrize("last", [0, 1, 2, 3, 4, 7, 8, 100, 10_000])
def test_the_highest_number_is_found_with_few_questions(last: int) -> None:
    asked: list[int] = []

    def exists(number: int) -> bool:
        asked.append(number)
        return number <= last

    assert last_number(exists) == last
    assert len(asked) <= 2 * max(1, last.bit_length()) + 2
