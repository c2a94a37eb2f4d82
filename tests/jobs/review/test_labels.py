"""What people decide is stored once, whoever else writes at the same time, and however often a browser sends it."""

import contextlib
import sys
import threading
from pathlib import Path

import pytest

from jobs.review.labels import Decision, DecisionError, Labels, Tally
from mnist_lib.data.corrections import NONE, LabelsFile, Reason, UsedLabels, parse_corrections
from mnist_lib.errors import DataError
from mnist_lib.objects.local import LocalObjects
from tests.support.store.faulty import KilledError, writes_that_end

A, B = "a" * 32, "b" * 32


def decision(image: str, label: str, *, replaced: str | None, why: Reason = "random", seen: int = 0) -> Decision:
    return Decision(image=image, label=label, why=why, replaced=replaced, seen=seen)


@pytest.fixture
def file(tmp_path: Path) -> LabelsFile:
    return LabelsFile(LocalObjects(tmp_path))


@pytest.fixture
def labels(file: LabelsFile) -> Labels:
    return Labels(file, "ada")


def test_a_decision_that_is_sent_again_is_stored_once(labels: Labels, file: LabelsFile) -> None:
    for _ in range(2):
        labels.decide(decision(A, "3", replaced="5"))
    after_a_restart = Labels(file, "ada")
    after_a_restart.refresh()
    after_a_restart.decide(decision(A, "3", replaced="5"))
    assert [(line.label, line.replaced, line.by) for line in file.read()] == [("3", "5", "ada")]


def test_another_decision_about_the_same_picture_replaces_the_one_before(labels: Labels, file: LabelsFile) -> None:
    labels.decide(decision(A, "3", replaced="5"))
    labels.decide(decision(A, "3", replaced="5", seen=1))  # seen again, and confirmed
    labels.decide(decision(A, "8", replaced="5"))
    assert [(line.label, line.replaced) for line in file.read()] == [("3", "5"), ("3", "3"), ("8", "3")]
    assert labels.label(A) == "8"


def test_an_undone_decision_restores_the_label_and_is_to_be_reviewed_again(labels: Labels, file: LabelsFile) -> None:
    labels.decide(decision(A, "3", replaced="5"))
    assert labels.is_reviewed(A)
    assert labels.undo(A, seen=1) == "5"
    assert labels.undo(A, seen=1) == "5"  # sent again
    assert (labels.is_reviewed(A), labels.label(A), labels.tally()) == (False, "5", Tally())
    labels.decide(decision(A, "3", replaced="5", seen=2))
    assert labels.is_reviewed(A)
    lines = [(line.label, line.replaced, line.undone) for line in file.read()]
    assert lines == [("3", "5", False), ("5", "3", True), ("3", "5", False)]


def test_a_random_review_that_confirms_a_disputed_label_is_stored_too(labels: Labels, file: LabelsFile) -> None:
    labels.decide(decision(A, "3", replaced="5", why="disputed"))
    assert (labels.is_reviewed(A), labels.is_reviewed(A, at_random=True)) == (True, False)
    labels.decide(decision(A, "3", replaced="5", why="random"))
    assert [line.why for line in file.read()] == ["disputed", "random"]
    assert labels.is_reviewed(A, at_random=True)


def test_undoing_the_label_of_a_new_picture_removes_it_until_it_has_another(labels: Labels) -> None:
    labels.decide(decision(A, "3", replaced=None, why="uncertain"))
    assert labels.undo(A, seen=1) is None
    assert labels.label(A) == NONE
    labels.decide(decision(A, "4", replaced=None, why="uncertain", seen=2))
    assert labels.tally() == Tally(reviewed=1, added=1)


def test_only_a_persons_own_last_decision_can_be_undone(labels: Labels, file: LabelsFile) -> None:
    with pytest.raises(DecisionError, match="expected a decision to undo, got none"):
        labels.undo(A, seen=0)
    Labels(file, "bob").decide(decision(A, "3", replaced="5"))
    labels.refresh()
    with pytest.raises(DecisionError, match="to undo, expected a decision of ada, got one of bob"):
        labels.undo(A, seen=1)


def test_what_others_store_is_read_and_own_lines_are_not_counted_twice(labels: Labels, file: LabelsFile) -> None:
    labels.decide(decision(A, "3", replaced="5"))
    Labels(file, "bob").decide(decision(B, "1", replaced=None))
    assert labels.refresh() == {B}
    assert labels.refresh() == set()
    assert (labels.count(A), labels.count(B), labels.label(B)) == (1, 1, "1")


def test_a_line_that_another_process_is_writing_is_read_once_it_is_complete(labels: Labels, tmp_path: Path) -> None:
    Labels(LabelsFile(LocalObjects(tmp_path / "other")), "bob").decide(decision(A, "1", replaced=None))
    line = (tmp_path / "other/labels.jsonl").read_bytes()
    (tmp_path / "labels.jsonl").write_bytes(line[:50])
    assert labels.refresh() == set()
    (tmp_path / "labels.jsonl").write_bytes(line)
    assert labels.refresh() == {A}


@pytest.mark.parametrize("rest", [b'{"image": "' + b"c" * 32, b"\0" * 100])
def test_p19_an_incomplete_last_line_fails_no_reader_and_joins_no_label(
    labels: Labels, file: LabelsFile, tmp_path: Path, rest: bytes
) -> None:
    labels.decide(decision(A, "3", replaced="5"))
    with (tmp_path / "labels.jsonl").open("ab") as opened:
        opened.write(rest)
    assert [line.image for line in file.read()] == [A]
    used = UsedLabels.of(file.content())
    later = Labels(file, "ada")
    assert later.refresh() == {A}
    later.decide(decision(B, "1", replaced=None))
    assert [(line.image, line.label) for line in file.read()] == [(A, "3"), (B, "1")]
    assert len(parse_corrections(used.part_of(file.content(), file.where), file.where)) == 1  # a run began meanwhile


def test_p19_decisions_that_are_sent_again_after_a_kill_are_stored_once(file: LabelsFile) -> None:
    decisions = [decision(f"{number:032x}", "3", replaced="5") for number in range(5)]
    for killed_after in (130, 500, 10_000):  # bytes
        labels = Labels(file, "ada")
        labels.refresh()
        with contextlib.suppress(KilledError), writes_that_end(killed_after, KilledError()):
            for each in decisions:
                labels.decide(each)
    assert [(line.image, line.label) for line in file.read()] == [(each.image, "3") for each in decisions]


def test_a_last_line_that_an_editor_left_without_an_end_is_read_once(labels: Labels, tmp_path: Path) -> None:
    labels.decide(decision(A, "3", replaced="5"))
    path = tmp_path / "labels.jsonl"
    path.write_bytes(path.read_bytes().rstrip())
    later = Labels(LabelsFile(LocalObjects(tmp_path)), "bob")
    assert later.refresh() == {A}
    later.decide(decision(B, "1", replaced=None))
    assert labels.refresh() == {B}
    assert (later.refresh(), later.count(A), labels.count(A)) == (set(), 1, 1)


def test_a_damaged_line_is_refused(labels: Labels, tmp_path: Path) -> None:
    (tmp_path / "labels.jsonl").write_bytes(b"damaged\n")
    with pytest.raises(DataError, match="line 1"):
        labels.refresh()


def test_two_people_at_once_lose_no_label(file: LabelsFile) -> None:
    def work(user: str) -> None:
        own = Labels(file, user)
        for number in range(50):
            own.decide(decision(f"{number:032x}", "1", replaced="7"))

    threads = [threading.Thread(target=work, args=(user,)) for user in ("ada", "bob", "eve")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted((line.by, line.image) for line in file.read()) == sorted(
        (user, f"{number:032x}") for user in ("ada", "bob", "eve") for number in range(50)
    )


def test_the_tally_counts_each_picture_once(labels: Labels) -> None:
    labels.decide(decision("1" * 32, "3", replaced="3"))
    labels.decide(decision("2" * 32, "3", replaced="5"))
    labels.decide(decision("2" * 32, "4", replaced="5", seen=1))
    labels.decide(decision("3" * 32, NONE, replaced="5"))
    labels.decide(decision("4" * 32, NONE, replaced=None))
    labels.decide(decision("5" * 32, "5", replaced=None))
    assert labels.tally() == Tally(reviewed=5, corrected=1, removed=2, added=1)


def test_decisions_are_counted_while_others_are_stored(labels: Labels) -> None:
    images = [f"{number:032x}" for number in range(300)]

    def decide() -> None:
        for image in images:
            labels.decide(decision(image, "3", replaced="5"))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        thread = threading.Thread(target=decide)
        thread.start()
        while thread.is_alive():
            labels.tally()
        thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert labels.tally() == Tally(300, corrected=300, removed=0, added=0)
