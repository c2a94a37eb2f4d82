"""What gc deletes and what it never does, also when a promotion comes in between."""

import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from unittest import mock

import pytest

from mnist_lib.errors import ConflictError, SpecError
from mnist_lib.store import collection, holds
from mnist_lib.store.champions import promote, rollback
from mnist_lib.store.collection import collect
from mnist_lib.store.local import LocalObjects
from mnist_lib.store.objects import Objects
from mnist_lib.store.promotion import Rule
from mnist_lib.store.publishing import publish
from mnist_lib.store.versions import Version, find, find_all, version_folder
from tests.support.store.faulty import Faulty, KilledError
from tests.support.store.invariants import all_verified, champion_verified
from tests.support.store.scenarios import published
from tests.support.store.versions_of import about, files

ALWAYS = Rule(when="always")


def five(objects: Objects) -> list[Version]:
    """Versions, each better; the second and the fourth were champions, the fourth is."""
    versions = [published(objects, right) for right in (40, 80, 120, 160, 199)]
    with mock.patch.object(holds, "now_text", return_value="2026-01-01T00:00:00Z"):  # holds of just now keep gc away
        for version in (versions[1], versions[3]):
            promote(objects, version, Rule())
    return versions


@pytest.mark.parametrize(
    ("keep", "left"), [(1, [2, 4, 5]), (2, [2, 4, 5]), (3, [2, 3, 4, 5]), (5, [1, 2, 3, 4, 5]), (99, [1, 2, 3, 4, 5])]
)
def test_the_newest_the_champion_and_those_it_could_be_rolled_back_to_stay(
    objects: Objects, keep: int, left: list[int]
) -> None:
    five(objects)
    would = collect(objects, "keras", keep, dry_run=True)
    assert all_verified(objects) == [1, 2, 3, 4, 5]
    done = collect(objects, "keras", keep)
    assert done == would
    assert all_verified(objects) == left
    assert list(done.kept) == [f"keras@{number}" for number in left]
    assert champion_verified(objects) == 4
    assert collect(objects, "keras", keep).deleted == []
    assert rollback(objects, "keras").version == 2


def test_of_what_was_collected_the_number_and_the_record_stay_and_the_files_go(objects: Objects) -> None:
    first, *_ = five(objects)
    collect(objects, "keras", 1)
    assert find(objects, "keras", 1) is None
    assert not list(objects.names(version_folder("keras", 1)))
    assert published(objects, 150).number == 6
    with pytest.raises(ConflictError, match=r"run run-40: its version keras@1 was collected by gc; start another run"):
        published(objects, 40)
    with pytest.raises(ConflictError, match="keras@1 was collected by gc: name another version"):
        promote(objects, first, ALWAYS)
    with pytest.raises(SpecError, match="keras@1: there is no such version"):
        rollback(objects, "keras", to=1)


def test_a_damaged_record_is_told_and_not_touched(tmp_path: Path) -> None:
    objects = LocalObjects(tmp_path)
    five(objects)
    (tmp_path / "models/keras/commits/00000001.json").write_bytes(b"damaged")
    assert collect(objects, "keras", 1).damaged == ["keras@1"]
    assert list(objects.names(version_folder("keras", 1)))


def killed_at(place: str, objects: Objects, monkeypatch: pytest.MonkeyPatch) -> None:
    """A publisher that dies there."""
    with monkeypatch.context() as patched:

        def failpoint(name: str) -> None:
            if name == place:
                raise KilledError(name)

        patched.setattr("mnist_lib.store.publishing.failpoint", failpoint)
        with pytest.raises(KilledError):
            published(objects, 150)


def test_what_a_publisher_left_that_died_before_its_commit_is_committed(
    objects: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_at("publish.before_commit", objects, monkeypatch)
    assert all_verified(objects) == []
    assert collect(objects, "keras", 1, dry_run=True).completed == ["keras@1"]
    assert all_verified(objects) == []
    assert collect(objects, "keras", 1).completed == ["keras@1"]
    assert all_verified(objects) == [1]
    assert published(objects, 150).number == 1


def test_what_a_publisher_left_that_died_before_is_deleted_after_a_day_and_its_run_cannot_publish_any_more(
    objects: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_at("publish.before_run", objects, monkeypatch)
    assert collect(objects, "keras", 1) == collection.Collected([], [], [], [], [])  # it may be at it still
    monkeypatch.setattr(collection, "UNFINISHED_FOR", timedelta(0))
    assert collect(objects, "keras", 1, dry_run=True).swept == ["keras@1"]
    assert list(objects.names(version_folder("keras", 1)))
    assert collect(objects, "keras", 1).swept == ["keras@1"]
    assert not list(objects.names(version_folder("keras", 1)))
    with pytest.raises(ConflictError, match="run run-150: it was abandoned while it stored keras; start another run"):
        published(objects, 150)
    assert collect(objects, "keras", 1).swept == []


def test_a_run_that_publishes_again_removes_what_its_killed_attempt_left(
    objects: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_at("publish.before_run", objects, monkeypatch)
    assert published(objects, 150).number == 2
    assert not list(objects.names(version_folder("keras", 1)))


class Interrupted(Faulty):
    """Lets another act just before operation number `at`."""

    def __init__(self, objects: Objects, at: int, other: Callable[[Objects], None]) -> None:
        super().__init__(objects, at=0, error=KilledError, late=False)
        self._interrupted_at, self._other = at, other

    def _run(self, operation: str, *arguments: object):  # type: ignore[no-untyped-def]
        if self.operations + 1 == self._interrupted_at:
            self._other(self._objects)
        return super()._run(operation, *arguments)


@pytest.mark.parametrize(
    ("one", "other"), [("promote", "gc"), ("gc", "promote"), ("rollback", "gc"), ("gc", "rollback"), ("gc", "gc")]
)
def test_whatever_comes_between_two_steps_the_champion_is_whole(tmp_path: Path, one: str, other: str) -> None:
    def act(kind: str, objects: Objects) -> None:
        version = find(objects, "keras", 1)
        try:
            if kind == "promote" and version is not None:
                promote(objects, version, ALWAYS)
            elif kind == "rollback":
                rollback(objects, "keras", to=1)
        except (ConflictError, SpecError) as error:
            assert re.search("collected|no such version", str(error))  # noqa: PT017
        if kind == "gc":
            collect(objects, "keras", 1)

    ends = set()
    for at in range(1, 200):
        objects = LocalObjects(tmp_path / str(at))
        five(objects)
        interrupted = Interrupted(objects, at, lambda objects: act(other, objects))
        act(one, interrupted)
        assert champion_verified(objects) in (1, 4)
        found = all_verified(objects)
        assert {4, 5} <= {*found}
        ends.add((champion_verified(objects), 1 in found))
        if interrupted.operations < at:
            break
    assert 10 < at < 199
    if {one, other} != {"gc"}:
        assert ends == {(1, True), (4, False)}  # one of the two was first, and the other saw it


def test_a_version_that_was_just_looked_at_is_kept(objects: Objects) -> None:
    first, *_ = five(objects)
    promote(objects, first, Rule())  # not better, but it might have been
    assert collect(objects, "keras", 1).deleted == ["keras@3"]
    assert 1 in dict(find_all(objects, "keras"))


def test_another_model_is_not_touched(objects: Objects) -> None:
    five(objects)
    publish(objects, "scratch", "r", files(10), about())
    collect(objects, "scratch", 1)
    assert all_verified(objects) == [1, 2, 3, 4, 5]
    assert all_verified(objects, "scratch") == [1]
