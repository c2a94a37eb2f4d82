"""The commands of `jobs.models` that need no TensorFlow, with small fake versions."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from jobs.models import __main__ as models
from mnist_lib.errors import StoreError
from mnist_lib.objects.local import LocalObjects
from mnist_lib.objects.records import seal
from mnist_lib.store.publishing import publish
from mnist_lib.store.versions import version_folder
from tests.support.bounds import at_most_processor_seconds
from tests.support.store.fake_versions import about, files
from tests.support.store.faulty import Faulty
from tests.support.store.sealed import fields_of

RIGHT = (100, 150, 151)


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three versions of keras, in the default folder."""
    monkeypatch.chdir(tmp_path)
    for right in RIGHT:
        publish(LocalObjects(tmp_path / "results"), "keras", f"run-{right}", files(right), about(right=right))
    return tmp_path / "results"


class Output(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., Output]:
    def run(*arguments: str) -> Output:
        return Output(models.main(arguments), *capsys.readouterr())

    return run


@pytest.mark.usefixtures("storage")
def test_promotions_and_a_rollback_change_the_champion_and_are_in_its_history(command: Callable[..., Output]) -> None:
    assert command("champion").out == "There is no champion.\n"
    first = command("promote", "keras@1").out
    assert first.startswith("keras@1 is now the champion of mnist: keras@1 is the first champion, with 50.00%")
    better = command("promote", "keras@2").out
    assert better.startswith("keras@2 is now the champion of mnist: keras@2 has 75.00%, keras@1 50.00%")
    not_better = command("promote", "keras@latest")
    assert not_better.code == 10
    assert not_better.out == (
        "keras@3 is not promoted: keras@3 has 75.50%, keras@2 75.00%; 1 image gained, 0 lost, p = 0.5: may be chance,"
        " since p is not below 0.0033; at these rates, about 1,500 test images would decide: label random new pictures,"
        " or use jobs.models promote keras@3 --always\n"
        "Chance: 0.94% is left of the 2.5% that chance may decide (2 comparisons so far).\n"
    )
    assert command("promote", "keras@latest").out == not_better.out  # the same comparison is not paid for twice
    assert command("promote", "keras@3", "--always").out.startswith("keras@3 is now the champion of mnist: promoted")
    assert command("rollback", "keras").out == "keras@2 is the champion of mnist: rolled back from keras@3\n"
    assert command("champion", "keras").out.startswith("keras@2, champion of mnist since ")
    history = command("history", "keras").out.splitlines()
    assert [line.split("  ")[1] for line in history[:-1]] == [f"keras@{number}" for number in (1, 2, 2, 3, 2)]
    assert history[-1] == "  keras on mnist: 0.94% is left of the 2.5% that chance may decide (2 comparisons so far)"
    documents = json.loads(command("history", "--json").out)
    assert [record["kind"] for record in documents["keras"]] == ["promote", "promote", "keep", "promote", "rollback"]


def test_a_rollback_updates_the_index_at_once_if_there_is_one(command: Callable[..., Output], storage: Path) -> None:
    pytest.importorskip("mnist_lib.report.index")
    for version in ("keras@1", "keras@2"):
        command("promote", version)
    assert not (storage / "index.html").exists()
    (storage / "index.html").write_text("an index that a run has written")
    assert command("rollback", "keras").code == 0
    page = (storage / "index.html").read_text()
    current, _, history = page.partition("Champion history")
    assert (current.count("keras@1</th>"), current.count("keras@2</th>")) == (1, 0)
    assert (history.count("keras@1</th>"), history.count(">rollback</td>")) == (2, 1)


@pytest.mark.usefixtures("storage")
def test_the_list_shows_accuracies_and_the_champion(command: Callable[..., Output]) -> None:
    command("promote", "keras@2")
    lines = command("list").out.splitlines()
    assert lines[0].split() == ["version", "dataset", "test", "accuracy", "stored", "run"]
    assert re.fullmatch(r"keras@1 +mnist +50\.00% +\d{4}-\d\d-\d\d +run-100", lines[1])
    assert lines[2].split()[:3] == ["keras@2", "champion", "mnist"]
    assert [row["champion"] for row in json.loads(command("list", "--json").out)] == [False, True, False]
    assert json.loads(command("show", "keras@2", "--json").out)["run"] == "run-150"
    shown = command("show", "keras@2").out.splitlines()
    assert shown[0] == "keras@2"
    assert " ".join(shown[2].split()) == "test 150 of 200 images right: 75.00% (68.57% to 80.49%)"
    assert "report none" in [" ".join(line.split()) for line in shown]
    assert ["model.keras", "9"] in [line.split()[:2] for line in shown]
    assert command("list", "scratch").out == "No version is stored in results.\n"


def test_the_balanced_accuracy_is_shown_beside_the_accuracy_if_trials_were_compared_by_it(
    storage: Path, command: Callable[..., Output]
) -> None:
    balanced = {**about(right=150), "test_balanced_accuracy": 0.6125, "init_from": "keras@2"}
    publish(LocalObjects(storage), "keras", "run-4", files(150), balanced)
    assert "75.00%, balanced 61.25%" in command("list").out.splitlines()[4]
    assert json.loads(command("list", "--json").out)[3]["test_balanced_accuracy"] == 0.6125
    assert "right: 75.00% (68.57% to 80.49%), balanced 61.25%" in " ".join(command("show", "keras@4").out.split())
    assert "start from the weights of keras@2" in " ".join(command("show", "keras@4").out.split())


@pytest.mark.usefixtures("storage")
def test_a_bare_name_means_the_champion_in_show_and_diff(command: Callable[..., Output]) -> None:
    command("promote", "keras@2")
    assert command("show", "keras").out.startswith("keras@2\n")
    assert command("show", "keras@latest").out.startswith("keras@3\n")
    assert command("diff", "keras", "keras@latest").out.startswith("keras@2 predicts 75.00% of the test images ")


@pytest.mark.usefixtures("storage")
def test_diff_compares_settings_accuracies_and_answers(command: Callable[..., Output]) -> None:
    lines = command("diff", "keras@2", "keras@3").out.splitlines()
    assert lines[0] == "keras@2 predicts 75.00% of the test images correctly, keras@3 75.50%."
    assert lines[1] == "  seed: 150 -> 151"
    assert lines[2] == (
        "They predict 1 of 200 test images differently; on 1 only keras@3 is correct, on 0 only keras@2."
    )
    assert lines[4].split() == ["150", "0", "1", "0"]
    document = json.loads(command("diff", "keras@1", "keras@3", "--json").out)
    assert len(document["differing"]) == 51
    assert document["differing"][0] == {"image": 100, "label": 0, "one": 1, "other": 0}
    assert command("diff", "keras@1", "keras@3").out.endswith("... and 41 more; --json prints all.\n")
    assert "Their settings are equal." in command("diff", "keras@1", "keras@1").out


def test_damage_is_reported_and_does_not_hide_other_versions(storage: Path, command: Callable[..., Output]) -> None:
    assert command("verify", "--all").out == "3 versions intact, 0 damaged.\n"
    command("promote", "keras@3")
    assert command("verify").out == (
        "1 version intact, 0 damaged.\nOnly champions were checked; --all checks every version.\n"
    )
    path = storage / version_folder("keras", 2) / "model.keras"
    path.write_bytes(b"m" + path.read_bytes()[1:-1] + b"?")
    (storage / "models/keras/commits/00000001.json").write_bytes(b"{}")
    assert command("verify").code == 0  # the champion is not damaged
    assert command("verify", "keras").out == (
        "1 version intact, 0 damaged.\nOnly champions were checked; --all checks every version.\n"
    )
    assert command("verify", "keras@3").code == 0
    assert command("verify", "keras@2").code == 7
    verified = command("verify", "keras", "--all")
    assert verified.code == 7
    assert "keras@2: model.keras: expected sha256" in verified.out
    assert "1 version intact, 2 damaged." in verified.out
    listed = command("list")
    assert listed.code == 7
    assert [line.split()[0] for line in listed.out.splitlines()[1:4]] == ["keras@1", "keras@2", "keras@3"]
    refused = command("promote", "keras@2")
    assert refused.code == 7
    assert refused.err.startswith("error[E-INTEGRITY] keras@2: model.keras: expected sha256")


def test_a_champion_whose_version_is_missing_is_reported_and_can_be_rolled_back(
    storage: Path, command: Callable[..., Output]
) -> None:
    for name in ("keras@1", "keras@2"):
        command("promote", name)
    (storage / "models/keras/commits/00000002.json").unlink()
    verified = command("verify")
    assert verified.code == 7
    assert verified.out.startswith("keras@2: expected a commit record, got none; roll back to another version\n")
    assert command("rollback", "keras").out == "keras@1 is the champion of mnist: rolled back from keras@2\n"


def test_a_damaged_champion_record_is_reported_and_can_be_rolled_back(
    storage: Path, command: Callable[..., Output]
) -> None:
    for name in ("keras@1", "keras@2"):
        command("promote", name)
    record = storage / "models/keras/champions/mnist/00000002.json"
    record.write_bytes(record.read_bytes().replace(b'"version": 2', b'"version": 3'))
    for name in ("list", "verify"):
        found = command(name)
        assert found.code == 7
        assert "models/keras/champions/mnist/00000002.json: expected a record whose sha256" in found.out
    assert command("champion").code == 7  # an error, not "There is no champion" or another version
    assert "keras@3" in command("list").out
    assert command("rollback", "keras").out == (
        "keras@1 is the champion of mnist: rolled back from champion record 2, which is damaged\n"
    )
    assert command("champion").out.startswith("keras@1, champion of mnist since")
    assert command("rollback", "keras", "--to", "3").out.startswith("keras@3 is the champion of mnist")


def test_a_copy_of_a_version_folder_can_be_verified(
    storage: Path, tmp_path: Path, command: Callable[..., Output]
) -> None:
    copy = shutil.copytree(storage / version_folder("keras", 2), tmp_path / "copy")
    assert command("verify", str(copy)).out == "1 version intact, 0 damaged.\n"
    (copy / "model.keras").write_bytes(b"other")
    damaged = command("verify", str(copy))
    assert damaged.code == 7
    assert damaged.out.startswith("keras@2: model.keras: expected")


@pytest.mark.usefixtures("storage")
def test_gc_deletes_old_versions_and_with_dry_run_only_lists_them(command: Callable[..., Output]) -> None:
    assert command("gc", "--keep", "1", "--dry-run").out == (
        "keras@1 would be deleted: old version\nkeras@2 would be deleted: old version\n"
        "keras@3 would be kept: the newest version\n1 version would be kept.\n"
    )
    assert command("gc", "keras", "--keep", "2").out == (
        "keras@1 deleted: old version\nkeras@2 kept: one of the 2 newest versions\n"
        "keras@3 kept: one of the 2 newest versions\n2 versions kept.\n"
    )
    assert [row["number"] for row in json.loads(command("list", "--json").out)] == [2, 3]
    assert json.loads(command("gc", "--keep", "2", "--json").out)["keras"]["kept"] == ["keras@2", "keras@3"]


def test_w9_gc_reports_a_version_whose_record_cannot_be_read_and_does_the_rest(
    storage: Path, command: Callable[..., Output]
) -> None:
    record = storage / "models/keras/commits/00000003.json"
    record.write_bytes(seal({**fields_of(record), "about": {}}))
    assert command("gc", "--keep", "1") == Output(
        0,
        "keras@1 deleted: old version\nkeras@3 not changed: its record cannot be read\n"
        "keras@2 kept: the newest version\n1 version kept.\n",
        "",
    )
    assert [*(storage / version_folder("keras", 3)).iterdir()]


def test_w9_gc_reports_a_model_whose_champion_is_unknown_and_collects_the_others(
    storage: Path, command: Callable[..., Output]
) -> None:
    objects = LocalObjects(storage)
    for right in RIGHT:
        publish(objects, "scratch", f"run-{right}", files(right), about(right=right))
    assert command("promote", "scratch@1").code == 0
    (storage / "models/scratch/champions/mnist/00000001.json").write_bytes(b"damaged")
    done = command("gc", "--keep", "2")
    assert done.code == 7
    assert "keras@1 deleted: old version\n" in done.out
    assert re.search(r"^scratch not changed: models/.*; the champion is unknown: roll back first$", done.out, re.M)
    assert (storage / version_folder("scratch", 1)).exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lst"], "command: 'lst' is not known; did you mean list?"),
        (["list", "kers"], "model: 'kers' is not known; did you mean keras?"),
        (["show", "keras@9"], "there is no keras@9 in "),
        (["show", "keras@x"], "expected a number or latest after the @, as in keras@3"),
        (["show", "keras"], "keras has no champion in "),
        (["show", "../keras"], "is not known"),
        (["show"], "version: expected a value (version, such as keras (the champion), "),
        (["promote"], "version: expected a value (version, such as keras@latest or keras@3), got none"),
        (
            ["promote", "keras"],
            "expected keras@latest or a number such as keras@3, got keras, which is already the champion",
        ),
        (["promote", "keras@1", "--alpha", "7"], "alpha: expected a number from 0 to 1, got 7.0"),
        (["rollback"], "model: expected a value (model: keras, scratch, "),
        (["rollback", "keras"], "expected a champion to roll back"),
        (["rollback", "keras", "--to", "x"], "to: expected a whole number, got 'x'"),
        (["diff", "keras@1"], "other: expected a value (second version, in the same form), got none; see --help"),
        (["gc"], "keep: expected a value (number of versions: "),
        (["gc", "--keep", "0"], "keep: expected a whole number, 1 or more, got 0"),
        (["verify", "keras-x"], "is not known"),
        (["list", "--storage", "s4://x"], "expected a folder, or a URL with s3://"),
        (["list", "--storge", "x"], "did you mean --storage?"),
    ],
)
@pytest.mark.usefixtures("storage")
def test_a_wrong_command_line_gives_one_error_line(
    arguments: list[str], message: str, command: Callable[..., Output]
) -> None:
    refused = command(*arguments)
    assert refused.code == 2
    assert refused.err.startswith("error[E-USAGE] ")
    assert len(refused.err.splitlines()) == 1
    assert message in refused.err


@pytest.mark.slow
@pytest.mark.long
def test_ten_thousand_versions_are_listed_in_two_seconds_and_barely_slow_down_publishing(tmp_path: Path) -> None:
    folders = [tmp_path / "few", tmp_path / "many"]
    for storage in folders:
        publish(LocalObjects(storage), "keras", "run", files(150), about(right=150))
        assert models.main(["promote", "keras@1", "--storage", str(storage)]) == 0
    keras = tmp_path / "many/models/keras"
    record = fields_of(keras / "commits/00000001.json")
    for number in range(2, 10_001):
        (keras / f"claims/{number:08d}.json").touch()
        (keras / f"commits/{number:08d}.json").write_bytes(seal({**record, "number": number}))
    for name in ("list", "champion"):
        command = [sys.executable, "-m", "jobs.models", name, "--storage", str(tmp_path / "many")]
        with at_most_processor_seconds(2):
            subprocess.run(command, cwd=Path(models.__file__).parents[2], stdout=subprocess.DEVNULL, check=True)
    operations = []
    for storage in folders:
        counting = Faulty(LocalObjects(storage), at=0, error=StoreError, late=False)
        publish(counting, "keras", "another", files(150), about(right=150))
        operations.append(counting.operations)
    assert operations[1] - operations[0] < 30  # finding the newest number takes O(log n) requests


@pytest.mark.slow
def test_a_rollback_and_its_reversal_take_under_a_second_each(storage: Path) -> None:
    program = [sys.executable, "-m", "jobs.models"]
    root = Path(models.__file__).parents[2]
    for arguments in (["promote", "keras@1"], ["promote", "keras@2"]):
        subprocess.run([*program, *arguments, "--storage", str(storage)], check=True, cwd=root)
    for arguments in (["rollback", "keras"], ["rollback", "keras", "--to", "2"]):
        with at_most_processor_seconds(1):
            subprocess.run([*program, *arguments, "--storage", str(storage)], check=True, cwd=root)
