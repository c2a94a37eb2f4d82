"""The log of champions: gaps and damaged records are named, and logs of earlier versions go on."""

from pathlib import Path

import pytest

from mnist_lib.errors import IntegrityError
from mnist_lib.objects.local import LocalObjects
from mnist_lib.objects.records import seal
from mnist_lib.store.champions.appointment import champion, history
from mnist_lib.store.champions.challenge import promote
from mnist_lib.store.champions.log import Champion
from mnist_lib.store.champions.promotion import Rule
from tests.support.store.invariants import champions
from tests.support.store.scenarios import published
from tests.support.store.sealed import fields_of

RULE = Rule()
SHADOW = {"version": 3, "commit_sha256": "0" * 64, "number": 1, "nights": 2, "weights": {"0": 0.5}, "classes": {}}


@pytest.fixture
def objects(tmp_path: Path) -> LocalObjects:
    """Return a storage with three records: two promotions and a refusal."""
    objects = LocalObjects(tmp_path / "store")
    for right in (50, 100, 101):
        promote(objects, published(objects, right), RULE)
    assert len(champions(objects)) == 3
    return objects


@pytest.fixture
def log(objects: LocalObjects) -> Path:
    return Path(objects.where("models/keras/champions/mnist"))


@pytest.mark.parametrize("number", [1, 2])
def test_a_gap_in_the_numbers_is_named_and_the_champion_stays(objects: LocalObjects, log: Path, number: int) -> None:
    (log / f"{number:08}.json").unlink()
    records = history(objects, "keras", "mnist")
    assert f"champions/mnist/{number:08}.json: expected a record, got no file" in str(records[number - 1])
    assert [isinstance(record, Champion) for record in records].count(False) == 1
    assert champion(objects, "keras", "mnist").version == 2  # type: ignore[union-attr]


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_flipped_bit_in_a_record_is_named(objects: LocalObjects, log: Path, number: int) -> None:
    path = log / f"{number:08}.json"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    record = history(objects, "keras", "mnist")[number - 1]
    assert isinstance(record, IntegrityError)
    assert f"champions/mnist/{number:08}.json" in str(record)


def test_a_log_with_the_fields_of_earlier_versions_is_read_and_continued(objects: LocalObjects, log: Path) -> None:
    newest = log / "00000003.json"
    hashes = dict.fromkeys(("commit_sha256", "previous_sha256", "hold_out", "used"), "0" * 64)
    shadow = {"shadow": SHADOW, "shadows": 1}
    newest.write_bytes(seal({**fields_of(newest), **hashes, **shadow, "total": 0.05, "period": 1, "spent": 0.0005}))
    (log / "head.json").write_bytes(seal({"number": 3, "record_sha256": "0" * 64}))
    assert [record.version for record in champions(objects)] == [1, 2, 2]
    assert promote(objects, published(objects, 150), RULE).promote
    assert [record.number for record in champions(objects)] == [1, 2, 3, 4]
    assert (champions(objects)[-1].total, champions(objects)[-1].comparisons) == (RULE.alpha, 3)
