"""Publishing: versions get consecutive numbers, and a run publishes each model once, even with concurrent attempts."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mnist_lib.errors import IntegrityError, SpecError
from mnist_lib.objects.local import LocalObjects
from mnist_lib.store.publishing import publish
from mnist_lib.store.versions import find, read_file, version_folder
from tests.support.store.invariants import all_verified

FILES = {"model.keras": b"model", "saved_model/variables/index": b"index"}


@pytest.fixture
def objects(tmp_path: Path) -> LocalObjects:
    return LocalObjects(tmp_path)


def test_versions_are_numbered_from_1_and_contain_their_files(objects: LocalObjects, tmp_path: Path) -> None:
    for number in (1, 2):
        version = publish(objects, "keras", f"run-{number}", FILES, {"test": 3})
        assert (version.number, version.name) == (number, f"keras@{number}")
        assert find(objects, "keras", number) == version
        assert version.about == {"test": 3}
    for name, content in FILES.items():
        assert read_file(objects, version, name) == content
        assert (tmp_path / version_folder("keras", 2) / name).read_bytes() == content
    assert find(objects, "keras", 3) is None


def test_a_run_publishes_each_model_once(objects: LocalObjects) -> None:
    first = publish(objects, "keras", "r", FILES, {})
    again = publish(objects, "keras", "r", {"model.keras": b"another"}, {})
    other = publish(objects, "scratch", "r", FILES, {})
    assert again == first
    assert (other.model, other.number) == ("scratch", 1)
    assert all_verified(objects) == [1]


def test_p3_concurrent_attempts_of_one_run_publish_one_version(objects: LocalObjects) -> None:
    with ThreadPoolExecutor(8) as pool:
        published = list(pool.map(lambda n: publish(objects, "keras", "r", {"model.keras": bytes([n])}, {}), range(8)))
    assert len({version.number for version in published}) == 1
    assert all_verified(objects) == [published[0].number]
    folders = {name.split("/")[3] for name in objects.names("models/keras/versions")}
    assert folders == {str(published[0].number)}


def test_a_version_without_a_file_of_weights_is_refused_and_takes_no_number(objects: LocalObjects) -> None:
    with pytest.raises(IntegrityError, match=r"expected a file model.keras or weights.npz, got manifest.json; train"):
        publish(objects, "keras", "r", {"manifest.json": b"{}"}, {})
    assert publish(objects, "keras", "r", FILES, {}).number == 1


@pytest.mark.parametrize("name", ["../../x", "/x", "", "a\0b", "x" * 300, "-x", "\uff41", ".."])
def test_s10_publishing_under_a_dangerous_name_is_refused_and_writes_nothing(tmp_path: Path, name: str) -> None:
    objects = LocalObjects(tmp_path / "root")
    for model, run, file in ((name, "r", "x"), ("keras", name, "x"), ("keras", "r", f"a/{name}/b")):
        with pytest.raises(SpecError, match="expected up to"):
            publish(objects, model, run, {file: b""}, {})
    assert not list(tmp_path.iterdir())
