"""What is refused before anything heavy is loaded, and which model is asked; over small fake versions."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from jobs.predict import __main__ as predict
from mnist_lib.api import version_to_ask
from mnist_lib.errors import IntegrityError, SpecError
from mnist_lib.store.champions import promote
from mnist_lib.store.local import LocalObjects
from mnist_lib.store.promotion import Rule
from mnist_lib.store.publishing import publish
from tests.support.job import ROOT
from tests.support.store.versions_of import about, files


@pytest.fixture
def objects(tmp_path: Path) -> LocalObjects:
    return LocalObjects(tmp_path / "results")


def store(objects: LocalObjects, model: str, right: int, *, champion: bool = True) -> None:
    version = publish(objects, model, f"run-{right}", files(right), about(right=right))
    if champion:
        promote(objects, version, Rule(when="always"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected pictures, or --from-test N"),
        (["a.png", "--from-test", "3"], "expected pictures, or --from-test N"),
        (["--from-test", "0"], "from_test: expected a whole number from 1, got 0"),
        (["--from-test", "3", "--address", "host:6379"], "from_test: expected no --address with it"),
        (["--from-test", "3", "--seed", "-1"], "seed: expected a whole number from 0"),
        (["a.png", "--json", "--csv"], "expected --csv or --json, got both"),
        (["a.png", "--picture", "seen.txt"], "picture: expected a name with .png"),
        (["a.png", "--picture", "/no/such/folder/seen.png"], "picture: expected a file in a folder that is there"),
        (["a.png", "--wait-for-resources", "nan"], "wait_for_resources: expected seconds"),
        (["a.png", "--storge", "x"], "did you mean --storage?"),
        (["a.png", "--storage", "s4://x"], "expected a folder, or a URL with s3://"),
        (["a.png", "--model", "kears"], "model: 'kears' is not known; did you mean keras?"),
        (["a.png", "--model", "keras@x"], "expected a model and a number, as in keras@3"),
        (["a.png", "--model", "keras@3"], "there is no keras@3 in "),
        (["a.png", "--model", "scratch"], "scratch has no champion in "),
        (["a.png"], "there is no champion in "),
    ],
)
def test_what_cannot_be_understood_is_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "results").mkdir()
    monkeypatch.chdir(tmp_path)
    assert predict.main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error[E-USAGE] ")
    assert message in line


def test_a_wrong_option_is_refused_before_tensorflow_ray_or_rich_is_loaded() -> None:
    code = (
        "import sys; from jobs.predict.__main__ import main; assert main(['a.png', '--modle', 'x']) == 2;"
        "assert not {'tensorflow', 'keras', 'ray', 'rich'} & set(sys.modules)"
    )
    begin = time.monotonic()
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, stderr=subprocess.DEVNULL)
    assert time.monotonic() - begin < 2


def test_of_all_champions_the_most_accurate_one_is_asked(objects: LocalObjects) -> None:
    store(objects, "keras", 150)
    store(objects, "scratch", 160)
    store(objects, "keras", 190, champion=False)
    assert version_to_ask(objects, None).name == "scratch@1"
    assert version_to_ask(objects, "keras").name == "keras@1"
    assert version_to_ask(objects, "keras@2").name == "keras@2"
    store(objects, "keras", 160)
    assert version_to_ask(objects, None).name == "keras@3"  # of two alike, the first of the catalog


def test_a_champion_that_is_not_known_is_not_replaced_by_another(objects: LocalObjects, tmp_path: Path) -> None:
    store(objects, "keras", 150)
    store(objects, "scratch", 160)
    record = tmp_path / "results/models/keras/champion/00000001.json"
    record.write_bytes(record.read_bytes().replace(b'"version": 1', b'"version": 2'))
    with pytest.raises(IntegrityError):
        version_to_ask(objects, None)
    assert version_to_ask(objects, "scratch").name == "scratch@1"
    with pytest.raises(SpecError, match="keras-cnn has no champion"):
        version_to_ask(objects, "keras-cnn")


def test_a_damaged_version_answers_nothing(
    objects: LocalObjects, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store(objects, "keras", 150)
    path = tmp_path / "results/models/keras/versions/1/model.keras"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert predict.main(["a.png", "--storage", str(tmp_path / "results")]) == 7
    assert "error[E-INTEGRITY] keras@1: model.keras: expected sha256" in capsys.readouterr().err
