"""The command: what it refuses, the review in a table, and the disputed images of a run."""

import csv
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from msgspec import structs

from jobs.console.exit_codes import UsageError
from jobs.console.options import parse
from jobs.review.data import ReviewedData, read_data
from jobs.review.labels import Decision, Labels
from jobs.review.options import ReviewOptions
from jobs.review.pictures import MIN_PROBABILITY, disputed_items, run_versions
from mnist_lib.data.corrections import LabelsFile
from mnist_lib.data.dataset import Dataset
from mnist_lib.data.request import DataRequest
from mnist_lib.data.table import text_of
from mnist_lib.errors import DataError, SpecError
from mnist_lib.margins import MARGINS, Margins
from mnist_lib.objects.local import LocalObjects
from mnist_lib.store.contents import contents_of
from mnist_lib.store.predictions import Predictions
from mnist_lib.store.publishing import publish
from mnist_lib.store.runs import RunFolder
from tests.support.bounds import JOB_SECONDS
from tests.support.job import DRIVER, ROOT
from tests.support.linear import LINEAR, publish_linear
from tests.support.made_run import made_run
from tests.support.reviewing import Command, data_of, free_port, lines_of
from tests.support.stored import publish_untrained


@pytest.fixture(scope="module")
def untrained(tensorflow: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage with the version keras@1, which has initial weights."""
    storage = tmp_path_factory.mktemp("untrained")
    publish_untrained(LocalObjects(storage), "keras")
    return storage


def review(*arguments: str | Path, home: Path, prelude: str = "") -> tuple[int, str, str]:
    """Run the command in a process that must not load TensorFlow."""
    command = [
        sys.executable,
        "-c",
        DRIVER.format(prelude=prelude, module="jobs.review.__main__"),
        *map(str, arguments),
    ]
    environment = {**os.environ, "HOME": str(home)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=JOB_SECONDS)
    return done.returncode, done.stdout, done.stderr


def fill_in(path: Path, labels: dict[int, str]) -> list[dict[str, str]]:
    """Write labels into rows of a table, given by index; return all rows."""
    with path.open(newline="") as file:
        rows = [*csv.DictReader(file)]
    for number, label in labels.items():
        rows[number]["label"] = label
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return rows


@pytest.mark.slow
@pytest.mark.long
def test_a_table_is_written_edited_and_applied_unless_a_row_is_bad(
    folder: Path, new: Path, untrained: Path, tmp_path: Path
) -> None:
    table = tmp_path / "review.csv"
    options = (f"--dataset={folder}/", f"--storage={untrained}", "--model=keras@1", f"--to={table}", "--count=30")
    code, stdout, stderr = review(new, *options, home=tmp_path)
    assert (code, stderr) == (0, "")
    assert stdout.startswith(f"30 pictures are in {table}.")
    rows = fill_in(table, {0: "3", 1: "eleven", 2: "none"})
    assert [row["why"] for row in rows] == ["random", "uncertain"] * 15
    assert "hold-out" not in {row["split"] for row in rows if row["why"] == "uncertain"}
    assert {(row["split"] == "training", row["answer"] != "", row["probability"] != "") for row in rows} == {
        *[(True, True, True), (False, False, False)]
    }

    code, stdout, stderr = review("apply", table, "--user=ada", home=tmp_path)
    assert (code, stdout) == (3, "")
    assert "row 3: expected one of 0, 1, " in stderr
    fill_in(table, {1: "4"})
    listed = Path(rows[1]["file"]).read_bytes()
    Path(rows[1]["file"]).write_bytes(Path(rows[0]["file"]).read_bytes())
    code, _, stderr = review("apply", table, "--user=ada", home=tmp_path)
    assert code == 3
    assert f"row 3: {rows[1]['file']}: expected the picture that was shown, got another; omit it" in stderr
    assert lines_of(folder) == []

    Path(rows[1]["file"]).write_bytes(listed)
    code, stdout, stderr = review("apply", table, "--user=ada", home=tmp_path)
    assert (code, stderr) == (0, "")
    assert stdout == f"Reviewed 3 pictures: 1 removed, 2 added to the dataset. Labels: {folder}/labels.jsonl\n"
    assert [(line.image, line.label, line.why, line.by, line.replaced) for line in lines_of(folder)] == [
        (rows[0]["hash"], "3", "random", "ada", None),
        (rows[1]["hash"], "4", "uncertain", "ada", None),
        (rows[2]["hash"], "none", "random", "ada", None),
    ]
    assert (folder / f"3/{rows[0]['hash']}.png").read_bytes() == Path(rows[0]["file"]).read_bytes()
    code, stdout, _ = review("apply", table, "--user=ada", home=tmp_path)
    assert (code, stdout) == (0, "Reviewed 0 pictures.\n3 labels of the table were already stored.\n")
    assert len(lines_of(folder)) == 3
    known = data_of(folder).known
    assert known[rows[0]["hash"]].split == rows[0]["split"]
    assert known[rows[1]["hash"]].label == "4"


@pytest.mark.slow
def test_without_a_champion_all_pictures_are_random(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "storage").mkdir()
    table = tmp_path / "review.csv"
    options = (f"--dataset={folder}/", f"--storage={tmp_path}/storage", f"--to={table}", "--count=30")
    code, stdout, stderr = review(*options, home=tmp_path)
    assert (code, stdout[:31]) == (0, f"30 pictures are in {table}."[:31])
    assert "there is no champion yet; to have pictures chosen by a model, train one with" in stderr
    rows = fill_in(table, {})
    assert ({row["why"] for row in rows}, {row["answer"] for row in rows}) == ({"random"}, {""})
    code, _, stderr = review(*options, "--model=keras@1", home=tmp_path)
    assert code == 2, stderr


@pytest.mark.slow
def test_the_labels_of_a_dataset_are_reviewed_and_those_that_are_learned_late_come_first(
    folder: Path, tmp_path: Path
) -> None:
    table, objects, train = tmp_path / "review.csv", LocalObjects(tmp_path / "storage"), data_of(folder).dataset.train
    late = np.arange(40, 20, -2)
    means = np.arange(-50, -40, dtype=np.float32)  # of the logits, so that all other labels are more probable
    margins = Margins(train.hashes[late], train.labels[late], means, np.zeros(3, np.float32))
    publish_linear(objects, **{MARGINS: margins.file()})
    errors = [text_of(row) for row in train.hashes[late]]
    options = (f"--storage={tmp_path / 'storage'}", "--model=keras@1", f"--to={table}", "--count=500")
    assert review(*options, f"--dataset={folder}/", home=tmp_path, prelude=LINEAR)[0] == 0
    rows = fill_in(table, {})
    assert len(rows) == 120
    assert {row["current"] for row in rows} == {*"0123456789"}
    assert [row["why"] for row in rows[:40]] == ["random", "disputed"] * 20
    assert {Path(row["file"]).parent.name == row["current"] for row in rows} == {True}
    drawn, chosen = ([row["hash"] for row in rows if row["why"] == why] for why in ("random", "disputed"))
    listed = [image for image in errors if image in chosen]
    assert len(listed) >= 5  # fewer than 10, since some of them are drawn at random
    assert chosen[: len(listed)] == listed
    assert {*errors} <= {*drawn[: len(errors) + 1], *listed}


@pytest.mark.slow
def test_the_labels_of_a_dataset_of_the_catalog_are_stored_in_the_storage(
    tensorflow: None, storage: Path, data_dir: Path, tmp_path: Path
) -> None:
    table, data = tmp_path / "review.csv", f"--data-dir={data_dir}"
    options = (f"--storage={storage}", "--model=keras@1", f"--to={table}", "--count=10", data)
    request = DataRequest(dataset="mnist-mini", data_dir=data_dir)
    prepared = read_data(request, LocalObjects(storage))  # so that no TensorFlow is needed
    assert review(*options, home=tmp_path, prelude=LINEAR)[0] == 0
    rows = fill_in(table, {0: "3"})
    code, _, stderr = review("apply", table, f"--storage={storage}", data, home=tmp_path)
    assert (code, stderr) == (0, "")
    (line,) = LabelsFile(LocalObjects(storage), "datasets/mnist-mini/labels.jsonl").read()
    assert (line.image, line.label, line.replaced) == (rows[0]["hash"], "3", prepared.known[rows[0]["hash"]].label)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.png", "--run=r"], "expected pictures or --run NAME, got both"),
        (["--count=0"], "count: expected a whole number, 1 or more, got 0"),
        (["--seed=-1"], "seed: expected"),
        (["--port=70000"], "port: expected .*65536, got 70000"),
        (["--user="], "user: expected 1 to 200 printable characters"),
        (["--to=/nonexistent/x.csv"], "to: expected a file in an existing folder"),
    ],
)
def test_options_that_make_no_sense_are_refused(arguments: list[str], message: str) -> None:
    with pytest.raises((UsageError, SpecError), match=message):
        parse("jobs.review", ReviewOptions, arguments).check()


@pytest.mark.parametrize("dataset", ["mnist-mini", "tfds:digits"])
def test_a_dataset_without_a_folder_refuses_new_pictures_in_one_line(dataset: str) -> None:
    options: ReviewOptions = parse("jobs.review", ReviewOptions, ["a.png", f"--dataset={dataset}"])
    with pytest.raises(SpecError, match=f"expected a folder of pictures as --dataset, got {dataset}, which takes"):
        options.check()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])  # the browser's tests send SIGTERM
def test_a_signal_ends_the_review_with_a_summary(
    number: signal.Signals, folder: Path, new: Path, storage: Path, tmp_path: Path
) -> None:
    options = (f"--dataset={folder}/", f"--storage={storage}", "--model=keras@1")
    command = Command(new, *options, home=tmp_path, port=free_port())
    address = command.start()
    code, stdout, stderr = command.end(number)
    assert (code, stdout, stderr) == (0, "Reviewed 0 pictures.\n", "")
    assert address not in stdout + stderr


def store_run(storage: Path, digits: Dataset) -> str:
    """Store a run of two models, as the job does."""
    made, objects = made_run(digits, seeds=1), LocalObjects(storage)
    run = made.summary.run
    models = {name: structs.replace(row, version=1) for name, row in made.summary.models.items()}
    summary = structs.replace(made.summary, models=models)
    for name, tally in made.tallies.items():
        files, about = contents_of(tally.chosen, digits, run, {"sha256": "0" * 64})
        publish(objects, name, run, {**files, "model.keras": name.encode()}, about)
    RunFolder(objects, run).complete(summary)
    return run


def test_the_disputed_images_of_a_run_are_its_confident_mistakes_and_differing_answers(
    digits: Dataset, tmp_path: Path
) -> None:
    objects, run = LocalObjects(tmp_path), store_run(tmp_path, digits)
    data = ReviewedData(DataRequest(dataset="mnist-mini"), digits)
    versions = run_versions(objects, run)
    labels = Labels(LabelsFile(objects), "ada")
    items = disputed_items(objects, versions, data, labels)
    found = [Predictions.read(objects, version) for version in versions]
    wrong = np.max([np.where(each.correct, 0, each.probabilities.max(axis=1)) for each in found], axis=0)
    expected = np.flatnonzero((wrong >= MIN_PROBABILITY) | (found[0].answers != found[1].answers))
    assert 0 < len(expected) < 500
    hashes = [text_of(row) for row in digits.test.hashes]
    assert {item.image for item in items} == {hashes[index] for index in expected}
    scores = [wrong[hashes.index(item.image)] for item in items]
    assert scores == sorted(scores, reverse=True)
    assert all(item.is_disputed and item.answer is None for item in items)

    answer = found[0].classes[found[0].answers[hashes.index(items[0].image)]]
    labels.decide(Decision(image=items[0].image, label=answer, why="disputed"))
    again = disputed_items(objects, versions, data, labels)
    assert items[0].image not in {item.image for item in again[: len(again) // 2]}  # one model is right now


def test_a_run_without_the_images_of_the_dataset_is_refused(digits: Dataset, folder: Path, tmp_path: Path) -> None:
    objects, run = LocalObjects(tmp_path / "storage"), store_run(tmp_path / "storage", digits)
    with pytest.raises(DataError, match="with the images that its models were tested on, got others"):
        disputed_items(objects, run_versions(objects, run), data_of(folder), Labels(LabelsFile(objects), "ada"))
    with pytest.raises(SpecError, match=r"run: expected a complete run with a model in .*runs, got 'other'"):
        run_versions(objects, "other")
