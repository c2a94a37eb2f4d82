"""What `jobs.predict` refuses before it loads TensorFlow, and the table that it prints, with small fake versions."""

import csv
import io
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.predict import __main__ as predict
from jobs.predict.answers import COLUMNS, Answer, as_csv, as_document, as_lines
from jobs.predict.options import PredictOptions
from mnist_lib.catalog import DIGITS
from mnist_lib.objects.local import LocalObjects
from mnist_lib.pictures.reading import Picture
from mnist_lib.pictures.rejecting import MIN_LIKENESS, MIN_SURE_LIKENESS
from mnist_lib.pictures.sandbox import BATCH_SIZE, in_batches
from mnist_lib.store.champions.challenge import promote
from mnist_lib.store.champions.promotion import Rule
from mnist_lib.store.contents import StoredModel
from mnist_lib.store.publishing import publish
from mnist_lib.store.versions import Version
from mnist_lib.wording import printable
from tests.support.bounds import at_most_processor_seconds
from tests.support.hostile import ANY_TEXT, is_harmless
from tests.support.job import ROOT
from tests.support.store.fake_versions import about, files


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "pictures: expected a value (picture files, or folders of picture files), got none"),
        (["a.png", "--json", "--csv"], "expected --csv or --json, got both"),
        (["a.png", "--wait-for-resources", "nan"], "wait_for_resources: expected seconds"),
        (["a.png", "--storge", "x"], "did you mean --storage?"),
        (["a.png", "--storage", "s4://x"], "expected a folder, or a URL with s3://"),
        (["a.png", "--model", "kears"], "model: 'kears' is not known; did you mean keras?"),
        (["a.png", "--model", "keras@x"], "expected a number or latest after the @, as in keras@3"),
        (["a.png", "--model", "keras@3"], "there is no keras@3 in "),
        (["a.png", "--model", "scratch"], "scratch has no champion in "),
        (["a.png"], "there is no champion in "),
    ],
)
def test_a_wrong_command_line_gives_one_error_line(
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
    with at_most_processor_seconds(2):
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, stderr=subprocess.DEVNULL)


def test_a_damaged_version_predicts_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    objects = LocalObjects(tmp_path / "results")
    promote(objects, publish(objects, "keras", "run", files(150), about(right=150)), Rule(promote="always"))
    path = tmp_path / "results/models/keras/versions/1/model.keras"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert predict.main(["a.png", "--storage", str(tmp_path / "results")]) == 7
    assert "error[E-INTEGRITY] keras@1: model.keras: expected sha256" in capsys.readouterr().err


def test_a_picture_with_a_long_name_takes_one_line_in_a_pipe() -> None:
    name = " ".join(40 * ["name"]) + ".png"
    picture = Picture(np.zeros((28, 28, 1), np.uint8), (28, 28))
    (text,) = as_lines([Answer(name, picture, np.eye(10, dtype=np.float32)[7], DIGITS)])
    _, line = text.splitlines()
    assert line.split("  ")[:2] == [name, "7"]


def csv_rows(name: str, classes: Sequence[str]) -> list[dict[str, str]]:
    picture = Picture(np.zeros((28, 28, 1), np.uint8), (28, 28))
    text = as_csv([Answer(name, picture, np.asarray([0.25, 0.75], np.float32), classes)]) + "\n"
    assert is_harmless(text.replace("\r\n", "\n"))
    return list(csv.DictReader(io.StringIO(text, newline="")))


@pytest.mark.parametrize(
    ("name", "predicted", "cells"),
    [
        ("-1.png", "-1", ("-1.png", "-1")),
        ('a, "b"\n.png', "@x", ('a, "b"\n.png', "@x")),
        ("\x1b[2J\udcff.png", "\t1", (r"\x1b[2J\udcff.png", r"\t1")),
    ],
)
def test_no_cell_of_csv_acts_on_a_terminal(name: str, predicted: str, cells: tuple[str, str]) -> None:
    (row,) = csv_rows(name, ["other", predicted])
    assert (row["picture"], row["class"]) == cells
    assert (row["probability"], row["next"], row["unsure"]) == ("0.75", "other", "False")


def test_a_rejected_picture_has_the_reason_as_its_answer_and_its_probabilities_in_json_alone() -> None:
    image, probabilities = np.zeros((28, 28, 1), np.uint8), np.eye(10, dtype=np.float32)[4]
    results = [
        Answer(name, Picture(image, (28, 28), likeness=likeness), probabilities, DIGITS)
        for name, likeness in (("a.png", 0.0), ("b.png", (MIN_LIKENESS + MIN_SURE_LIKENESS) / 2), ("c.png", 0.5))
    ]
    results.append(Answer("d.png", Picture(image, (28, 28)), probabilities, DIGITS, likeness=0.02))
    text, unsure, others, none = as_lines(results)
    _, *lines = text.splitlines()
    assert [line.split() for line in lines] == [
        ["a.png", "not", "one", "digit"],
        ["b.png", "4", "100.0%", "0", "0.0%", "unsure"],
        ["c.png", "4", "100.0%", "0", "0.0%"],
        ["d.png", "none", "of", "these"],
    ]
    assert unsure == "unsure: 1 of 4 pictures."
    assert others == "not one digit: 1 of 4 pictures; --accept-all predicts all."
    assert none == "none of these: 1 of 4 pictures; --accept-all predicts all."
    rows = list(csv.DictReader(io.StringIO(as_csv(results), newline="")))
    assert [row["class"] for row in rows] == ["not one digit", "4", "4", "none of these"]
    assert [row["probability"] for row in rows] == ["", "1.0", "1.0", ""]
    assert [row["unsure"] for row in rows] == ["False", "True", "False", "False"]
    version = SimpleNamespace(name="keras@1", about={"dataset": "mnist"})
    pictures = as_document(results, [], cast(Version, version), DIGITS)["pictures"]
    assert [row["class"] for row in pictures] == [None, "4", "4", None]
    assert [row["not_one_digit"] for row in pictures] == [True, False, False, False]
    assert [row["none_of_these"] for row in pictures] == [False, False, False, True]
    assert [row["unsure"] for row in pictures] == [False, True, False, False]
    assert all(row["probabilities"] == probabilities.tolist() for row in pictures)


@pytest.mark.fuzz
@given(name=ANY_TEXT, classes=st.lists(ANY_TEXT, min_size=2, max_size=2))
def test_any_names_are_read_back_from_csv_as_texts(name: str, classes: list[str]) -> None:
    (row,) = csv_rows(name, classes)
    assert row.keys() == {*COLUMNS}
    for cell, text in ((row["picture"], name), (row["class"], classes[1]), (row["next"], classes[0])):
        assert cell == printable(text, keep="\n")


def test_a_missing_path_is_reported_before_the_model_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    not_loaded = cast(StoredModel, None)
    options = PredictOptions(pictures=(tmp_path / "gone.png", tmp_path))
    gone, empty = predict._predict_files(options, not_loaded, [])
    assert (gone.name, empty.name) == (str(tmp_path / "gone.png"), str(tmp_path))
    errors = capsys.readouterr().err.splitlines()
    assert errors[0].startswith(
        f"error[E-IMAGE] {tmp_path}/gone.png: expected a file or a folder, got a path that does"
    )
    assert "got a folder without any" in errors[1]
    (tmp_path / "here.png").write_bytes(b"x")
    with pytest.raises(AttributeError):  # now it is loaded
        predict._predict_files(options, not_loaded, [])
    assert "gone.png" in capsys.readouterr().err


@pytest.mark.parametrize("count", [0, 1, BATCH_SIZE, BATCH_SIZE + 1])
def test_each_picture_is_in_one_batch_of_limited_size(count: int) -> None:
    batches = [*in_batches(range(count))]
    assert [item for batch in batches for item in batch] == [*range(count)]
    assert all(0 < len(batch) <= BATCH_SIZE for batch in batches)
