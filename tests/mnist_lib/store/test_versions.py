"""Publishing, whatever goes wrong at whichever step; and what reading finds that is not as it was committed."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mnist_lib.errors import IntegrityError, SchemaError, StoreError
from mnist_lib.store.failpoints import EXIT_STATUS, VARIABLE
from mnist_lib.store.objects import LocalObjects, Objects
from mnist_lib.store.versions import find, highest, numbers, publish, read_file, verify, version_folder
from tests.mnist_lib.store.faulty import FAULTS, Faulty, KilledError

FILES = {"model.keras": b"model", "saved_model/variables/index": b"index"}


@pytest.fixture
def objects(tmp_path: Path) -> LocalObjects:
    return LocalObjects(tmp_path)


def all_verified(objects: Objects, model: str = "keras") -> list[int]:
    """The versions there are, each of them complete."""
    found = numbers(objects, model)
    for number in found:
        version = find(objects, model, number)
        assert version is not None
        verify(objects, version)
    return found


def test_versions_count_up_and_hold_their_files(objects: LocalObjects, tmp_path: Path) -> None:
    for number in (1, 2):
        version, new = publish(objects, "keras", f"run-{number}", FILES, {"test": 3})
        assert (version.number, version.name, new) == (number, f"keras@{number}", True)
        assert find(objects, "keras", number) == version
        assert version.about == {"test": 3}
    for name, content in FILES.items():
        assert read_file(objects, version, name) == content
        assert (tmp_path / version_folder("keras", 2) / name).read_bytes() == content
    assert find(objects, "keras", 3) is None


def test_a_run_publishes_a_model_once(objects: LocalObjects) -> None:
    first, _ = publish(objects, "keras", "r", FILES, {})
    again, new = publish(objects, "keras", "r", {"model.keras": b"another"}, {})
    other, _ = publish(objects, "scratch", "r", FILES, {})
    assert (again, new) == (first, False)
    assert (other.model, other.number) == ("scratch", 1)
    assert all_verified(objects) == [1]


@pytest.mark.slow
def test_processes_that_publish_at_once_get_a_version_each(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from mnist_lib.store.objects import LocalObjects;"
        "from mnist_lib.store.versions import publish;"
        "objects = LocalObjects(pathlib.Path(sys.argv[1]));"
        "[print(publish(objects, 'keras', f'{sys.argv[2]}-{n}', {'n': f'{sys.argv[2]}-{n}'.encode()}, {})[0].number)"
        " for n in range(5)]"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path), str(k)], stdout=subprocess.PIPE, text=True)
        for k in range(8)
    ]
    published = [int(line) for process in processes for line in process.communicate()[0].split()]
    assert sorted(published) == list(range(1, 41))
    objects = LocalObjects(tmp_path)
    assert all_verified(objects) == list(range(1, 41))
    for number in published:
        version = find(objects, "keras", number)
        assert version is not None
        assert read_file(objects, version, "n").decode() == version.run


def test_attempts_at_one_run_that_publish_at_once_publish_once(objects: LocalObjects) -> None:
    with ThreadPoolExecutor(8) as pool:
        published = list(pool.map(lambda n: publish(objects, "keras", "r", {"n": bytes([n])}, {}), range(8)))
    assert len({version.number for version, _ in published}) == 1
    assert sum(new for _, new in published) == 1
    assert len(all_verified(objects)) == 1


@pytest.mark.parametrize(("error", "late"), FAULTS)
def test_a_fault_at_any_operation_of_publishing_leaves_whole_versions_and_the_retry_succeeds(
    tmp_path: Path, error: type[BaseException], late: bool
) -> None:
    for at in range(1, 100):
        objects = LocalObjects(tmp_path / str(at))
        publish(objects, "keras", "before", FILES, {})
        faulty = Faulty(objects, at, error, late=late)
        try:
            publish(faulty, "keras", "r", FILES, {})
        except (StoreError, KilledError):
            assert all_verified(objects) in ([1], [1, 2])
        else:
            assert faulty.operations < at  # it was through before the fault came
            break
        version, _ = publish(objects, "keras", "r", FILES, {})
        assert all_verified(objects) == [1, version.number]
        assert version.run == "r"
    else:
        pytest.fail("publishing has no end")
    assert at > 8


@pytest.mark.parametrize("place", ["before_files", "before_run", "before_commit"])
def test_a_process_that_ends_at_a_step_leaves_no_version_and_its_run_is_published_by_the_next(
    tmp_path: Path, place: str
) -> None:
    code = (
        "import sys, pathlib; from mnist_lib.store.objects import LocalObjects;"
        "from mnist_lib.store.versions import publish;"
        "publish(LocalObjects(pathlib.Path(sys.argv[1])), 'keras', 'r', {'a': b'1', 'b': b'2'}, {})"
    )
    environment = {**os.environ, VARIABLE: f"publish.{place}=exit"}
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=environment)
    objects = LocalObjects(tmp_path)
    assert done.returncode == EXIT_STATUS
    assert all_verified(objects) == []
    version, new = publish(objects, "keras", "r", {"a": b"1", "b": b"2"}, {})
    assert new
    assert all_verified(objects) == [version.number]


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
    version, _ = publish(objects, "keras", "r", FILES, {})
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


@pytest.mark.parametrize(
    "record", [b"", b"{", b"[]", b"null", b"\xff", b'{"schema": 1}', b'{"schema": "1", "number": 1}', b"{}" * 1_000]
)
def test_a_record_that_is_none_is_an_integrity_error_and_hides_no_other_version(
    objects: LocalObjects, tmp_path: Path, record: bytes
) -> None:
    for run in ("a", "b"):
        publish(objects, "keras", run, FILES, {})
    (tmp_path / "models/keras/commits/00000001.json").write_bytes(record)
    with pytest.raises(IntegrityError, match=r"^keras@1: expected a commit record, got"):
        find(objects, "keras", 1)
    assert numbers(objects, "keras") == [1, 2]
    assert find(objects, "keras", 2) is not None


def test_a_record_of_a_newer_program_is_told_as_such(objects: LocalObjects, tmp_path: Path) -> None:
    publish(objects, "keras", "r", FILES, {})
    path = tmp_path / "models/keras/commits/00000001.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema": 2, "unknown": 1}))
    with pytest.raises(SchemaError, match="schema 2, this program knows 1"):
        find(objects, "keras", 1)


@pytest.mark.parametrize("last", [0, 1, 2, 3, 4, 7, 8, 100, 10_000])
def test_the_highest_number_is_found_with_few_questions(last: int) -> None:
    asked: list[int] = []

    def exists(number: int) -> bool:
        asked.append(number)
        return number <= last

    assert highest(exists) == last
    assert len(asked) <= 2 * max(1, last.bit_length()) + 2
