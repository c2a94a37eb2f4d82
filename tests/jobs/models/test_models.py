"""The store's command line, over small fake versions."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from jobs.models import __main__ as models
from mnist_lib.errors import StoreError
from mnist_lib.store.local import LocalObjects
from mnist_lib.store.log import seal, unseal
from mnist_lib.store.publishing import publish
from mnist_lib.store.versions import version_folder
from tests.support.store.faulty import Faulty
from tests.support.store.versions_of import about, files

RIGHT = (100, 150, 151)


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three versions of keras, in the folder that is the default."""
    monkeypatch.chdir(tmp_path)
    for right in RIGHT:
        publish(LocalObjects(tmp_path / "results"), "keras", f"run-{right}", files(right), about(right=right))
    return tmp_path / "results"


class Told:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*arguments: str) -> Told:
        code = models.main(arguments)
        return Told(code, *capsys.readouterr())

    return run


@pytest.mark.usefixtures("storage")
def test_a_champion_is_promoted_defended_rolled_back_and_its_history_told(told: Any) -> None:
    assert told("champion").out == "There is no champion.\n"
    assert told("promote", "keras@1").out.startswith(
        "keras@1 is the champion now: keras@1 is the first champion, with 50.00%"
    )
    assert told("promote", "keras@2").out.startswith("keras@2 is the champion now: keras@2 has 75.00%, keras@1 50.00%")
    not_better = told("promote", "keras")
    assert not_better.code == 0
    assert not_better.out == (
        "keras@3 is not promoted: keras@3 has 75.50%, keras@2 75.00%: images gained 1, lost 0, p = 1\n"
    )
    assert told("promote", "keras", "--always").out.startswith("keras@3 is the champion now")
    assert told("rollback", "keras").out == "keras@2 is the champion: rolled back from keras@3\n"
    assert told("champion", "keras").out.startswith("keras@2 since ")
    history = told("history", "keras").out.splitlines()
    assert [line.split("  ")[1] for line in history] == ["keras@1", "keras@2", "keras@3", "keras@2"]
    documents = json.loads(told("history", "--json").out)
    assert [record["kind"] for record in documents["keras"]] == ["promote"] * 3 + ["rollback"]
    assert told("champion", "--at", "2000-01-01").out == "There was no champion.\n"
    assert told("champion", "--at", "2999-01-01T00:00:00+01:00").out.startswith("keras@2 since ")


def test_an_index_that_runs_have_begun_tells_of_a_rollback_at_once(told: Any, storage: Path) -> None:
    for version in ("keras@1", "keras@2"):
        told("promote", version)
    assert not (storage / "index.html").exists()
    (storage / "index.html").write_text("as a run has written it")
    assert told("rollback", "keras").code == 0
    champions = (storage / "index.html").read_text().partition("<h2>Champions</h2>")[2]
    assert "<td>rollback</td>" in champions
    assert champions.count("keras@1</th>") == 2


@pytest.mark.usefixtures("storage")
def test_the_list_shows_accuracies_and_the_champion(told: Any) -> None:
    told("promote", "keras@2")
    lines = told("list").out.splitlines()
    assert lines[0].split() == ["version", "test", "accuracy", "trial", "run", "stored", "(UTC)"]
    assert lines[1].split()[:3] == ["keras@1", "50.00%", "keras-s0"]
    assert lines[2].split()[:3] == ["keras@2", "champion", "75.00%"]
    assert [row["champion"] for row in json.loads(told("list", "--json").out)] == [False, True, False]
    assert json.loads(told("show", "keras@2", "--json").out)["run"] == "run-150"
    shown = told("show", "keras@2").out.splitlines()
    assert shown[0] == "keras@2"
    assert shown[2] == "  test     150 of 200 images right: 75.00% (68.57% to 80.49%)"
    assert shown[6] == "  report   none"  # its run wrote none
    assert shown[9].split()[:2] == ["model.keras", "9"]
    assert told("list", "scratch").out == "No version is stored in results.\n"


@pytest.mark.usefixtures("storage")
def test_two_versions_are_compared_in_how_they_were_made_and_in_their_answers(told: Any) -> None:
    lines = told("diff", "keras@2", "keras@3").out.splitlines()
    assert lines[0] == "keras@2 has 75.00%, keras@3 75.50% of the test images right."
    assert lines[1] == "  spec.seed: 150 -> 151"
    assert lines[2] == "Their answers differ on 1 of 200 test images; right in keras@3 only: 1, in keras@2 only: 0."
    assert lines[4].split() == ["150", "0", "1", "0"]
    (document,) = json.loads(told("diff", "keras@1", "keras@3", "--json").out)
    assert len(document["differing"]) == 51
    assert document["differing"][0] == {"image": 100, "label": 0, "one": 1, "other": 0}
    assert told("diff", "keras@1", "keras@3").out.endswith("... and 41 more; --json has all.\n")
    assert "made alike" in told("diff", "keras@1", "keras@1").out


def test_two_numbers_compare_the_versions_of_every_model_that_has_both(storage: Path, told: Any) -> None:
    for right in (60, 70):
        publish(LocalObjects(storage), "scratch", f"run-{right}", files(right), about(right=right))
    document = json.loads(told("diff", "1", "2", "--json").out)
    assert [(pair["one"], pair["other"]) for pair in document] == [("keras@1", "keras@2"), ("scratch@1", "scratch@2")]
    assert len(json.loads(told("diff", "2", "3", "--json").out)) == 1


def test_what_is_damaged_is_found_told_and_hides_nothing_else(storage: Path, told: Any) -> None:
    assert told("verify", "--all").out == "3 versions are as they were committed; damaged: 0.\n"
    told("promote", "keras@3")
    assert told("verify").out == (
        "1 version is as it was committed; damaged: 0.\n"
        "Only the champions were looked at; --all looks at every version.\n"
    )
    path = storage / version_folder("keras", 2) / "model.keras"
    path.write_bytes(b"m" + path.read_bytes()[1:-1] + b"?")
    (storage / "models/keras/commits/00000001.json").write_bytes(b"{}")
    assert told("verify").code == 0  # the champion is another
    assert told("verify", "keras@3").code == 0
    assert told("verify", "keras@2").code == 7
    verified = told("verify", "keras")
    assert verified.code == 7
    assert "keras@2: model.keras: expected sha256" in verified.out
    assert "1 version is as it was committed; damaged: 2." in verified.out
    listed = told("list")
    assert listed.code == 7
    assert [line.split()[0] for line in listed.out.splitlines()[1:4]] == ["keras@1", "keras@2", "keras@3"]
    refused = told("promote", "keras@2")
    assert refused.code == 7
    assert refused.err.startswith("error[E-INTEGRITY] keras@2: model.keras: expected sha256")


def test_a_champion_that_is_damaged_or_gone_is_found_and_can_be_rolled_back(storage: Path, told: Any) -> None:
    for name in ("keras@1", "keras@2"):
        told("promote", name)
    (storage / "models/keras/commits/00000002.json").unlink()
    verified = told("verify")
    assert verified.code == 7
    assert verified.out.startswith("keras@2: expected a commit record, got none; roll back to another version\n")
    assert told("rollback", "keras").out == "keras@1 is the champion: rolled back from keras@2\n"
    assert told("verify").code == 0


def test_a_damaged_record_of_a_champion_is_told_hides_nothing_and_can_be_rolled_back(storage: Path, told: Any) -> None:
    for name in ("keras@1", "keras@2"):
        told("promote", name)
    record = storage / "models/keras/champion/00000002.json"
    record.write_bytes(record.read_bytes().replace(b'"version": 2', b'"version": 3'))
    for command in ("list", "verify"):
        found = told(command)
        assert found.code == 7
        assert "models/keras/champion/00000002.json: expected a record whose sha256" in found.out
    assert told("champion").code == 7  # it does not say that there is none, or that it is another
    assert "keras@3" in told("list").out
    assert told("rollback", "keras").out == (
        "keras@1 is the champion: rolled back from champion record 2, which is damaged\n"
    )
    assert told("champion").out.startswith("keras@1 since")
    assert told("rollback", "keras", "--to", "3").out.startswith("keras@3 is the champion")


def test_a_copy_of_a_version_is_verified_where_it_is(storage: Path, tmp_path: Path, told: Any) -> None:
    copy = shutil.copytree(storage / version_folder("keras", 2), tmp_path / "copy")
    assert told("verify", str(copy)).out == "1 version is as it was committed; damaged: 0.\n"
    (copy / "model.keras").write_bytes(b"other")
    damaged = told("verify", str(copy))
    assert damaged.code == 7
    assert damaged.out.startswith("keras@2: model.keras: expected")


@pytest.mark.usefixtures("storage")
def test_old_versions_are_deleted_when_that_is_asked_for(told: Any) -> None:
    assert told("gc", "--keep", "1", "--dry-run").out == (
        "keras@1 would be deleted: old\nkeras@2 would be deleted: old\n1 version would stay.\n"
    )
    assert told("gc", "keras", "--keep", "2").out == "keras@1 deleted: old\n2 versions kept.\n"
    assert [row["number"] for row in json.loads(told("list", "--json").out)] == [2, 3]
    assert json.loads(told("gc", "--keep", "2", "--json").out)["keras"]["kept"] == ["keras@2", "keras@3"]


def test_one_can_roll_back_to_what_was_in_use_at_a_time(storage: Path, told: Any) -> None:
    with mock.patch("mnist_lib.store.champions.now_text", side_effect=["2026-11-01T03:00:00Z", "2026-11-02T03:00:00Z"]):
        for name in ("keras@1", "keras@2"):
            told("promote", name)
    assert told("rollback", "keras", "--to", "2026-11-01 12:00").out.startswith("keras@1 is the champion")
    assert told("rollback", "keras", "--to", "2").out.startswith("keras@2 is the champion")
    assert "keras had no champion at 2026-10-01" in told("rollback", "keras", "--to", "2026-10-01").err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lst"], "command: 'lst' is not known; did you mean list?"),
        (["list", "kers"], "model: 'kers' is not known; did you mean keras?"),
        (["show", "keras@9"], "there is no keras@9 in "),
        (["show", "keras@x"], "expected a model and a number, as in keras@3"),
        (["show", "../keras"], "is not known"),
        (["show"], "expected one, as in keras@3"),
        (["show", "keras@"], "expected a model and a number"),
        (["show", "keras@\u0663"], "expected a model and a number"),
        (["promote", "keras@1", "--alpha", "7"], "alpha: expected a number from 0 to 1, got 7.0"),
        (["rollback"], "expected one to roll back"),
        (["rollback", "keras"], "no champion to roll back"),
        (["rollback", "keras", "--to", "x"], "to: expected a version's number, or a time as in 2026-11-25T03:00:00Z"),
        (["champion", "--at", "yesterday"], "at: expected a time, as in 2026-11-25T03:00:00Z, got 'yesterday'"),
        (["diff", "keras@1"], "expected two, as in: jobs.models diff keras@1 keras@2"),
        (["diff", "3", "4"], "no model has both 3 and 4"),
        (["gc"], "keep: expected how many versions to keep"),
        (["gc", "--keep", "0"], "keep: expected how many versions to keep, 1 or more, got 0"),
        (["verify", "keras-x"], "is not known"),
        (["list", "--storage", "s4://x"], "expected a folder, or a URL with s3://"),
        (["list", "--storge", "x"], "did you mean --storage?"),
    ],
)
@pytest.mark.usefixtures("storage")
def test_what_cannot_be_understood_is_one_line(arguments: list[str], message: str, told: Any) -> None:
    refused = told(*arguments)
    assert refused.code == 2
    assert refused.err.startswith("error[E-USAGE] ")
    assert len(refused.err.splitlines()) == 1
    assert message in refused.err


@pytest.mark.slow
def test_ten_thousand_versions_are_listed_in_seconds_and_slow_no_publisher(tmp_path: Path) -> None:
    folders = [tmp_path / "few", tmp_path / "many"]
    for storage in folders:
        publish(LocalObjects(storage), "keras", "run", files(150), about(right=150))
        assert models.main(["promote", "keras@1", "--storage", str(storage)]) == 0
    keras = tmp_path / "many/models/keras"
    record = unseal((keras / "commits/00000001.json").read_bytes(), "record")
    for number in range(2, 10_001):
        (keras / f"claims/{number:08d}.json").touch()
        (keras / f"commits/{number:08d}.json").write_bytes(seal({**record, "number": number}))
    for command in ("list", "champion"):
        begin = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "jobs.models", command, "--storage", str(tmp_path / "many")],
            cwd=Path(models.__file__).parents[2],
            stdout=subprocess.DEVNULL,
            check=True,
        )
        assert time.perf_counter() - begin < 2
    operations = []
    for storage in folders:
        counted = Faulty(LocalObjects(storage), at=0, error=StoreError, late=False)
        publish(counted, "keras", "another", files(150), about(right=150))
        operations.append(counted.operations)
    assert operations[1] - operations[0] < 30  # log n questions more


@pytest.mark.slow
def test_a_roll_back_and_back_again_take_under_a_second_each(storage: Path) -> None:
    command = [sys.executable, "-m", "jobs.models"]
    root = Path(models.__file__).parents[2]
    for arguments in (["promote", "keras@1"], ["promote", "keras@2"]):
        subprocess.run([*command, *arguments, "--storage", str(storage)], check=True, cwd=root)
    for arguments in (["rollback", "keras"], ["rollback", "keras", "--to", "2"]):
        begin = time.perf_counter()
        subprocess.run([*command, *arguments, "--storage", str(storage)], check=True, cwd=root)
        assert time.perf_counter() - begin < 1
