"""What gc deletes and what it never deletes, even during a promotion or a roll-back."""

import contextlib
import re
import shutil
from pathlib import Path

import pytest

from mnist_lib.errors import BusyError, ConflictError, SpecError
from mnist_lib.objects.local import LocalObjects
from mnist_lib.objects.protocol import Objects
from mnist_lib.store.champions.appointment import FORMER, rollback
from mnist_lib.store.champions.challenge import promote
from mnist_lib.store.champions.promotion import Rule
from mnist_lib.store.opening import collecting, promoting
from mnist_lib.store.publishing import collect, publish
from mnist_lib.store.versions import Version, chain, find, version_folder
from tests.support.store.fake_versions import about, files
from tests.support.store.faulty import Faulty, Interrupted, KilledError
from tests.support.store.invariants import all_verified, champion_verified
from tests.support.store.scenarios import published

ALWAYS = Rule(promote="always")


def five(objects: Objects) -> list[Version]:
    """Publish five versions, each better than the one before; promote the second and then the fourth."""
    versions = [published(objects, right) for right in (40, 80, 120, 160, 199)]
    for version in (versions[1], versions[3]):
        promote(objects, version, Rule())
    return versions


@pytest.mark.parametrize("keeps", [(99, 5, 3, 2), (1,)])
@pytest.mark.slow
def test_gc_keeps_the_newest_versions_the_champion_and_its_roll_back_targets(
    objects: Objects, keeps: tuple[int, ...]
) -> None:
    five(objects)
    before = [1, 2, 3, 4, 5]
    for keep in keeps:
        left = {3: [2, 3, 4, 5], 2: [2, 4, 5], 1: [2, 4, 5]}.get(keep, before)
        would = collect(objects, "keras", keep, dry_run=True)
        assert all_verified(objects) == before
        done = collect(objects, "keras", keep)
        assert done == would
        assert all_verified(objects) == left
        assert list(done.kept) == [f"keras@{number}" for number in left]
        assert champion_verified(objects) == 4
        assert collect(objects, "keras", keep).deleted == []
        before = left
    assert rollback(objects, "keras", "mnist").version == 2


def test_gc_says_why_it_keeps_a_version_and_a_dry_run_says_the_same(objects: Objects) -> None:
    five(objects)
    published(objects, 198)
    would = collect(objects, "keras", 1, dry_run=True)
    assert collect(objects, "keras", 1) == would
    assert list(would.deleted) == ["keras@1", "keras@3", "keras@5"]
    assert list(would.reasons.items()) == [
        ("keras@2", FORMER),
        ("keras@4", "the champion of mnist"),
        ("keras@6", "the newest version"),
    ]


def test_gc_keeps_the_whole_chain_that_a_kept_version_starts_from_and_says_why(objects: Objects) -> None:
    starts = {3: "keras@1", 4: "keras@3", 6: "keras@4", 5: "keras@2"}
    for number in range(1, 7):
        origin = {"init_from": starts.get(number)}
        publish(objects, "keras", f"run-{number}", files(number), {**about(), **origin})
    assert [version.name for version in chain(objects, "keras@6")] == ["keras@6", "keras@4", "keras@3", "keras@1"]
    would = collect(objects, "keras", 1, dry_run=True)
    assert collect(objects, "keras", 1) == would
    assert list(would.deleted) == ["keras@2", "keras@5"]
    assert would.reasons == {
        "keras@1": "keras@3 starts from it",
        "keras@3": "keras@4 starts from it",
        "keras@4": "keras@6 starts from it",
        "keras@6": "the newest version",
    }
    assert [version.name for version in chain(objects, "keras@5")] == ["keras@5", "keras@2"]  # their records remain
    assert chain(objects, "keras@9") == []


def test_gc_deletes_files_and_keeps_the_record_so_that_the_number_is_not_reused(objects: Objects) -> None:
    first, *_ = five(objects)
    collect(objects, "keras", 1)
    assert find(objects, "keras", 1) is None
    assert not list(objects.names(version_folder("keras", 1)))
    assert published(objects, 150).number == 6
    with pytest.raises(ConflictError, match=r"run run-40: its version keras@1 was deleted by gc; start another run"):
        published(objects, 40)
    with pytest.raises(ConflictError, match="keras@1 was deleted by gc; name another version"):
        promote(objects, first, ALWAYS)
    with pytest.raises(SpecError, match="keras@1: there is no such version"):
        rollback(objects, "keras", "mnist", to=1)


def test_s9_gc_reports_a_damaged_record_and_deletes_none_of_its_files(tmp_path: Path) -> None:
    objects = LocalObjects(tmp_path)
    five(objects)
    (tmp_path / "models/keras/commits/00000001.json").write_bytes(b"damaged")
    assert collect(objects, "keras", 1).damaged == ["keras@1"]
    assert list(objects.names(version_folder("keras", 1)))


def killed_at(place: str, objects: Objects, monkeypatch: pytest.MonkeyPatch) -> None:
    """Publish a version, and simulate a kill at that failpoint."""
    with monkeypatch.context() as patched:

        def failpoint(name: str) -> None:
            if name == place:
                raise KilledError(name)

        patched.setattr("mnist_lib.store.publishing.failpoint", failpoint)
        with pytest.raises(KilledError):
            published(objects, 150)


def test_s2_a_publisher_that_died_just_before_its_commit_is_completed_by_the_next_attempt(
    objects: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects.create("runs/run-150/run.json", b"{}")
    killed_at("publish.before_commit", objects, monkeypatch)
    assert all_verified(objects) == []
    assert collect(objects, "keras", 1).pending == ["keras@1"]
    assert published(objects, 150).number == 1
    assert all_verified(objects) == [1]


@pytest.mark.parametrize("place", ["publish.before_run", "publish.before_commit"])
def test_p10_a_publisher_whose_number_gc_has_given_up_cannot_commit(
    place: str, objects: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached: list[str] = []

    def failpoint(name: str) -> None:
        if name == place and not reached:
            reached.append(name)  # it sleeps here, and has lost its lock
            assert collect(objects, "keras", 1, dry_run=True).swept == ["keras@1"]
            assert list(objects.names(version_folder("keras", 1)))
            assert collect(objects, "keras", 1).swept == ["keras@1"]
            assert not list(objects.names(version_folder("keras", 1)))

    monkeypatch.setattr("mnist_lib.store.publishing.failpoint", failpoint)
    with pytest.raises(ConflictError, match="run run-150: its version keras@1 was deleted by gc; start another run"):
        published(objects, 150)
    assert collect(objects, "keras", 1).swept == []
    assert published(objects, 160).number == 2
    assert all_verified(objects) == [2]


def test_a_number_that_gc_gives_up_is_committed_as_deleted_before_its_files_are_deleted(
    objects: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_at("publish.before_run", objects, monkeypatch)
    for at in range(1, 100):
        faulty = Faulty(objects, at, KilledError, late=True)
        with contextlib.suppress(KilledError):
            collect(faulty, "keras", 1)
        is_given_up = find(objects, "keras", 1, deleted=True) is not None
        assert is_given_up or len([*objects.names(version_folder("keras", 1))]) == len(files(150)) + 1
        if faulty.operations < at:
            break
    assert is_given_up
    assert not list(objects.names(version_folder("keras", 1)))


def test_s2_gc_deletes_the_files_of_a_killed_attempt_whose_run_has_published_since(
    objects: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_at("publish.before_run", objects, monkeypatch)
    assert published(objects, 150).number == 2
    assert collect(objects, "keras", 1).swept == ["keras@1"]
    assert not list(objects.names(version_folder("keras", 1)))
    assert all_verified(objects) == [2]


def act(kind: str, objects: Objects) -> None:
    try:
        if kind == "gc":
            with collecting(objects):
                collect(objects, "keras", 1)
        else:
            with promoting(objects):
                version = find(objects, "keras", 1)
                if kind == "promote" and version is not None:
                    promote(objects, version, ALWAYS)
                elif kind == "rollback":
                    rollback(objects, "keras", "mnist", to=1)
    except (BusyError, ConflictError, SpecError) as error:
        assert re.search("expected no|deleted by gc|no such version", str(error))  # noqa: PT017


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("promote", "gc"),
        *(
            pytest.param(*pair, marks=pytest.mark.slow)
            for pair in (("gc", "promote"), ("rollback", "gc"), ("gc", "rollback"), ("gc", "gc"))
        ),
    ],
)
def test_p5_the_champion_is_complete_if_gc_runs_between_any_two_steps(tmp_path: Path, one: str, other: str) -> None:
    ends = set()
    five(LocalObjects(tmp_path / "five"))
    for at in range(1, 200):
        objects = LocalObjects(Path(shutil.copytree(tmp_path / "five", tmp_path / str(at))))
        interrupted = Interrupted(objects, at, lambda objects: act(other, objects))
        act(one, interrupted)
        assert champion_verified(objects) in (1, 4)
        found = all_verified(objects)
        assert {4, 5} <= {*found}
        ends.add((champion_verified(objects), 1 in found))
        if interrupted.operations < at:
            break
    assert 10 < at < 199
    if one != other:
        assert ends == {(4, False) if one == "gc" else (1, True)}  # the second one was refused


def test_gc_of_one_model_deletes_nothing_of_another(objects: Objects) -> None:
    five(objects)
    publish(objects, "scratch", "r", files(10), about())
    collect(objects, "scratch", 1)
    assert all_verified(objects) == [1, 2, 3, 4, 5]
    assert all_verified(objects, "scratch") == [1]
