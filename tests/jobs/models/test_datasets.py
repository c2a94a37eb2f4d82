"""Champions of several datasets: which one a command means, and what it says about them."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from jobs.models import __main__ as models
from mnist_lib.api import choose_version
from mnist_lib.errors import SpecError
from mnist_lib.objects.local import LocalObjects
from mnist_lib.results import Accuracy
from mnist_lib.store.champions.challenge import promote
from mnist_lib.store.champions.promotion import Rule
from mnist_lib.store.images import dataset_request
from tests.support.store.answering import answering, first

RUN = "nightly-2026-11-2{}T03-00-00Z"


@pytest.fixture
def objects(tmp_path: Path) -> LocalObjects:
    """Return a storage with two versions of keras on letters, then two on mnist, and one of scratch on letters."""
    (tmp_path / "results").mkdir()
    objects = LocalObjects(tmp_path / "results")
    images = range(5_000, 6_000)
    for number, right in enumerate((900, 950)):
        promote(objects, answering(objects, first(right), dataset="letters", run=RUN.format(number)), Rule())
    scratch = answering(objects, first(960), dataset="letters", model="scratch", run=RUN.format(2))
    promote(objects, scratch, Rule())
    for number, right in enumerate((940, 941), 3):
        version = answering(objects, first(right), dataset="mnist", images=images, run=RUN.format(number))
        promote(objects, version, Rule())
    return objects


@pytest.fixture
def command(objects: LocalObjects, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, list[str]]]:
    """Return a function that runs jobs.models, and returns the exit code and the lines of both outputs."""

    def run(*arguments: str) -> tuple[int, list[str]]:
        code = models.main([*arguments, "--storage", objects.where("models").removesuffix("/models")])
        captured = capsys.readouterr()
        return code, (captured.out + captured.err).splitlines()

    return run


def test_without_a_name_the_best_champion_of_the_data_set_trained_last_is_chosen(objects: LocalObjects) -> None:
    choice = choose_version(objects)
    assert (choice.version.name, choice.why) == (
        "keras@3",
        "the champion of mnist, the dataset trained last; there are also champions of letters (--dataset chooses)",
    )
    for dataset in ("letters", "./letters", "s3://bucket/letters/"):
        assert choose_version(objects, dataset=dataset).version.name == "scratch@1"
    assert choose_version(objects, "keras", "letters").version.name == "keras@2"
    assert choose_version(objects, "scratch").version.name == "scratch@1"  # it was never trained on mnist
    for name, dataset in ((None, "kmnist"), ("scratch", "mnist")):
        with pytest.raises(SpecError, match=r"dataset: expected one with a champion of .*; there are champions of"):
            choose_version(objects, name, dataset)
    with pytest.raises(SpecError, match="expected the name of a model, whose champion it chooses, got keras@1"):
        choose_version(objects, "keras@1", "letters")


@pytest.mark.parametrize("group_by", ["folder", r"([0-9]+)\.png"])
def test_a_version_keeps_its_groups_unless_others_are_named(group_by: str, objects: LocalObjects) -> None:
    version = choose_version(objects, dataset="letters").version
    about = {**version.about, "dataset": {**version.about["dataset"], "group_by": group_by}}
    version = replace(version, about=about)
    assert dataset_request(version, "./letters").group_by == group_by
    assert dataset_request(version, "./letters", group_by="groups.csv").group_by == "groups.csv"


def test_the_list_marks_the_champion_of_each_data_set(command: Callable[..., tuple[int, list[str]]]) -> None:
    _, lines = command("list", "keras")
    assert [line.split()[:3] for line in lines[-4:]] == [
        ["keras@1", "letters", "90.00%"],
        ["keras@2", "champion", "letters"],
        ["keras@3", "champion", "mnist"],
        ["keras@4", "mnist", "94.10%"],
    ]
    _, lines = command("list", "--dataset", "./letters", "--json")
    rows = json.loads("\n".join(lines))
    assert [(row["model"], row["number"], row["champion_of"]) for row in rows] == [
        *(("keras", 1, []), ("keras", 2, ["letters"]), ("scratch", 1, ["letters"]))
    ]


def test_show_champion_and_history_say_what_is_left_to_chance(command: Callable[..., tuple[int, list[str]]]) -> None:
    _, lines = command("champion", "keras")
    assert lines[0].startswith("keras@2, champion of letters since ")
    assert lines[1] == (
        "  950 of the 1,000 images of the newest hold-out right: 95.00% (93.22% to 96.19%, as the best of 2)"
    )
    assert lines[2] == "  1.27% is left of the 2.5% that chance may decide (1 comparison so far)"
    assert lines[3].startswith("keras@3, champion of mnist since ")
    assert lines[4] == "  940 of the 1,000 images of the newest hold-out right: 94.00% (92.35% to 95.31%)"
    _, lines = command("show", "keras", "--dataset", "letters")
    assert lines[0].startswith("keras@2")
    assert any(line.startswith("champion  of letters: 950 of the 1,000 images") for line in lines)
    _, lines = command("history", "keras", "--dataset", "mnist")
    assert [line.split("  ")[1:4:2] for line in lines[:2]] == [
        ["keras@3", "promote: keras@3 is the first champion, with 94.00% (run nightly-2026-11-23T03-00-00Z)"],
        ["keras@3", lines[1].split("  ")[3]],
    ]
    assert lines[1].split("  ")[3].startswith("keep: keras@4 has 94.10%, keras@3 94.00%; 1 image gained, 0 lost")
    code, lines = command("history", "keras", "--dataset", "kmnist")
    assert (code, lines) == (
        2,
        ["error[E-USAGE] dataset: expected a dataset for which keras has a champion (letters, mnist), got kmnist"],
    )


def test_a_roll_back_concerns_one_data_set(command: Callable[..., tuple[int, list[str]]]) -> None:
    code, lines = command("rollback", "keras")
    assert (code, lines) == (
        2,
        ["error[E-USAGE] keras@3 is the first champion, so there is none to roll back to; name a version with --to"],
    )
    _, lines = command("rollback", "keras", "--dataset", "letters")
    assert lines == ["keras@1 is the champion of letters: rolled back from keras@2"]
    code, lines = command("verify")
    assert (code, lines[0]) == (0, "3 versions intact, 0 damaged.")


def test_the_index_shows_the_champion_of_each_data_set_with_its_interval(objects: LocalObjects) -> None:
    pytest.importorskip("mnist_lib.report.index").write_index(objects)
    page = Path(objects.where("index.html")).read_text()
    current, _, history = page.partition("Champion history")
    assert current.count('</th>\n<td data-label="test accuracy">') == 3
    assert "94.00% (92.35% to 95.31%)" in current
    assert "Chance: 1.27% is left of the 2.5% that chance may decide (1 comparison so far)" in current
    assert history.count("keras@4") == 0  # a refusal changes no champion


def test_the_index_shows_the_interval_of_a_champion_on_the_newest_hold_out(tmp_path: Path) -> None:
    objects = LocalObjects(tmp_path)
    promote(objects, answering(objects, first(180, of=200)), Rule())
    promote(objects, answering(objects, first(90, of=100)), Rule())  # refused
    pytest.importorskip("mnist_lib.report.index").write_index(objects)
    current, _, _ = Path(objects.where("index.html")).read_text().partition("Champion history")
    low, high = Accuracy(100, 100).interval()  # keras@1 is right about these 100
    assert f"100.00% ({100 * low:.2f}% to {100 * high:.2f}%)" in current
