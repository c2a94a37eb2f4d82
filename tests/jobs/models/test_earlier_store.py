"""A store that the version before logs per data set has written, through every command.

`tests/support/store/before` was made by three runs on sklearn-digits and a roll-back, at commit 35c64f9; only the
folders of TensorBoard were left out, and the names of the machine were replaced.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.models import __main__ as models
from jobs.predict import __main__ as predict
from jobs.train.reporting import write_index
from mnist_lib.errors import IntegrityError
from mnist_lib.objects.local import LocalObjects
from mnist_lib.store.champions.log import ChampionLog
from mnist_lib.store.champions.reigns import champion
from tests.support.job import ROOT, train
from tests.support.store.invariants import all_verified

BEFORE = ROOT / "tests/support/store/before"


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    return Path(shutil.copytree(BEFORE, tmp_path / "results"))


@pytest.fixture
def command(storage: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, list[str]]]:
    """Return a function that runs jobs.models on the storage, and returns the exit code and the lines it prints."""

    def run(*arguments: str) -> tuple[int, list[str]]:
        code = models.main([*arguments, "--storage", str(storage)])
        return code, capsys.readouterr().out.splitlines()

    return run


def damage(storage: Path) -> list[IntegrityError]:
    return ChampionLog(LocalObjects(storage), "scratch", "sklearn-digits").damage()


def test_it_is_listed_shown_compared_and_verified(command: Callable[..., tuple[int, list[str]]], storage: Path) -> None:
    code, lines = command("list")
    assert (code, [line.split()[:3] for line in lines[1:]]) == (
        0,
        [
            ["scratch@1", "champion", "sklearn-digits"],
            ["scratch@2", "sklearn-digits", "28.06%"],
            ["scratch@3", "sklearn-digits", "39.17%"],
        ],
    )
    for arguments in (["show", "scratch"], ["champion"], ["diff", "scratch@1", "scratch@3"], ["verify", "--all"]):
        code, lines = command(*arguments)
        assert code == 0, lines
    code, lines = command("history", "scratch")
    kinds = [line.split("  ")[3].split(":")[0] for line in lines]
    assert (code, kinds) == (0, ["promote", "promote", "rollback"])
    assert damage(storage) == []


def test_its_champion_is_rolled_back_and_replaced_in_a_new_log_that_continues_the_old_one(
    command: Callable[..., tuple[int, list[str]]], storage: Path
) -> None:
    code, lines = command("promote", "scratch@2")  # has no hashes, but was tested on the same data
    assert code == 10
    assert "scratch@2 has 28.06%, scratch@1 25.28%; 82 images gained, 72 lost" in lines[0]
    assert command("promote", "scratch@3", "--max-class-drop=1")[0] == 0
    code, lines = command("rollback", "scratch")
    assert lines == ["scratch@1 is the champion of sklearn-digits: rolled back from scratch@3"]
    assert command("rollback", "scratch", "--to", "3")[0] == 0
    code, lines = command("history", "scratch", "--json")
    records = json.loads("\n".join(lines))["scratch"]
    assert [(record["version"], record["kind"]) for record in records] == [
        *((1, "promote"), (3, "promote"), (1, "rollback")),
        *((1, "keep"), (3, "promote"), (1, "rollback"), (3, "rollback")),
    ]
    assert command("verify")[0] == 0
    assert damage(storage) == []
    (storage / "models/scratch/champion/00000003.json").unlink()  # the newest record of the old log
    code, lines = command("verify")
    assert code == 7
    assert any("champion/00000002.json: expected the record that was written" in line for line in lines)


def test_gc_and_the_index_know_its_champions(command: Callable[..., tuple[int, list[str]]], storage: Path) -> None:
    code, _ = command("gc", "--keep", "1")
    assert (code, all_verified(LocalObjects(storage), "scratch")) == (0, [1, 3])
    write_index(LocalObjects(storage))
    page = (storage / "index.html").read_text()
    assert page.count("scratch@1</th>") == 3  # the current champion, and two changes
    assert "Left out" not in page


@pytest.mark.slow
@pytest.mark.usefixtures("tensorflow")
def test_it_predicts(storage: Path, data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--from-test=5", "--storage", str(storage), "--data-dir", str(data_dir)]
    assert predict.main(arguments) == 0
    captured = capsys.readouterr()
    expected = (
        "scratch@1, whose test accuracy on sklearn-digits is 25.28%: the champion of sklearn-digits, the data set"
    )
    assert expected in captured.err
    code = models.main(["evaluate", "scratch", "--storage", str(storage), "--data-dir", str(data_dir)])
    assert code == 0, capsys.readouterr()


@pytest.mark.slow
def test_a_run_into_it_replaces_its_champion(ray_address: str, storage: Path, data_dir: Path, tmp_path: Path) -> None:
    code, stdout, stderr = train(
        *("--address", ray_address, "--data-dir", data_dir, "--storage", storage, "--dataset=sklearn-digits"),
        *("--models=scratch", "--epochs=60", "--max-class-drop=1", "--gpus-per-trial=0", "--no-report", "--json"),
        home=tmp_path,
    )
    assert code == 0, stderr
    row = json.loads(stdout)["models"]["scratch"]
    assert (row["version"], row["champion"]) == (4, True), row
    current = champion(LocalObjects(storage), "scratch", "sklearn-digits")
    assert current is not None
    assert (current.version, current.replaced, current.number) == (4, 1, 1)
    assert damage(storage) == []
