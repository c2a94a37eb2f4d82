"""The chain of the log of champions: what was deleted, replaced or left by a crash is noticed or is harmless."""

import hashlib
import shutil
from pathlib import Path

import pytest

from mnist_lib.errors import IntegrityError
from mnist_lib.objects.local import LocalObjects
from mnist_lib.objects.records import seal
from mnist_lib.store.champions.appointment import champion, rollback
from mnist_lib.store.champions.challenge import promote
from mnist_lib.store.champions.log import ChampionLog
from mnist_lib.store.champions.promotion import Rule
from tests.support.store.faulty import Faulty, KilledError
from tests.support.store.scenarios import published
from tests.support.store.sealed import fields_of, reseal


@pytest.fixture
def objects(tmp_path: Path) -> LocalObjects:
    """Return a storage with three records: two promotions and a refusal."""
    objects = LocalObjects(tmp_path / "store")
    for right in (50, 100, 101):
        promote(objects, published(objects, right), Rule())
    assert damage(objects) == []
    return objects


@pytest.fixture
def log(objects: LocalObjects) -> Path:
    return Path(objects.where("models/keras/champions/mnist"))


def damage(objects: LocalObjects) -> list[str]:
    return [str(error) for error in ChampionLog(objects, "keras", "mnist").damage()]


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_deleted_record_is_noticed_also_the_newest(objects: LocalObjects, log: Path, number: int) -> None:
    (log / f"{number:08}.json").unlink()
    assert any(f"champions/mnist/{number:08}.json: expected a record, got no file" in text for text in damage(objects))


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_replaced_record_is_noticed_also_the_newest(objects: LocalObjects, log: Path, number: int) -> None:
    reseal(log / f"{number:08}.json", {"why": "another reason"})
    assert any(
        f"{number:08}.json: expected the record that was written, got another" in text for text in damage(objects)
    )


def test_after_the_newest_record_is_lost_no_version_is_promoted_until_a_roll_back(
    objects: LocalObjects, log: Path
) -> None:
    kept = (log / "00000003.json").read_bytes()
    (log / "00000003.json").unlink()
    with pytest.raises(IntegrityError, match=r"00000003.json: expected a record, got no file"):
        champion(objects, "keras", "mnist")
    decision = promote(objects, published(objects, 150), Rule())
    assert not decision.promote
    assert "the champion is damaged; roll it back first" in decision.why
    assert rollback(objects, "keras", "mnist").number == 4
    assert promote(objects, published(objects, 160), Rule()).promote
    (log / "00000003.json").write_bytes(kept)
    assert damage(objects) == []  # the chain goes through the record that was restored


def test_a_process_that_dies_between_a_record_and_its_head_does_no_harm(objects: LocalObjects, tmp_path: Path) -> None:
    better = published(objects, 150)
    for at in range(1, 200):
        copy = LocalObjects(shutil.copytree(tmp_path / "store", tmp_path / str(at)))
        faulty = Faulty(copy, at, KilledError, late=True)
        try:
            promote(faulty, better, Rule())
        except KilledError:
            assert damage(copy) == []
            promote(copy, better, Rule())
            assert damage(copy) == []
            assert promote(copy, published(copy, 199), Rule()).promote
            assert damage(copy) == []
        else:
            break
    assert 3 < at < 199


def test_a_log_from_before_there_were_shadows_is_read_and_continued(objects: LocalObjects, log: Path) -> None:
    (newest,) = sorted(log.glob("0*.json"))[-1:]
    old = {name: value for name, value in fields_of(newest).items() if name not in ("shadow", "shadows")}
    newest.write_bytes(seal({**old, "total": 0.05, "period": 1, "spent": 0.0005, "used": "0" * 64}))
    reseal(log / "head.json", {"record_sha256": hashlib.sha256(newest.read_bytes()).hexdigest()})
    assert damage(objects) == []
    assert promote(objects, published(objects, 150), Rule()).promote
    assert damage(objects) == []


def test_a_lost_or_damaged_head_is_noticed_and_blocks_nothing(objects: LocalObjects, log: Path) -> None:
    for change in (lambda: (log / "head.json").write_bytes(b"{}"), lambda: (log / "head.json").unlink()):
        change()
        assert any("champions/mnist/head.json: expected a record" in text for text in damage(objects))
        current = champion(objects, "keras", "mnist")
        assert current is not None
        assert current.version == 2
    assert promote(objects, published(objects, 150), Rule()).promote
    assert damage(objects) == []


def test_a_replaced_commit_record_of_a_champion_is_noticed(objects: LocalObjects, log: Path) -> None:
    for path in ("commits/00000002.json", "versions/2/record.json"):
        reseal(Path(objects.where(f"models/keras/{path}")), {"run": "another"})
    assert any("keras@2: expected the commit record with sha256" in text for text in damage(objects))
    decision = promote(objects, published(objects, 150), Rule())
    assert "the champion is damaged; roll it back first (keras@2: expected the commit record" in decision.why
