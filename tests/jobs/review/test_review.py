"""The command: what it refuses, which pictures it shows, and the disputed images of a run."""

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from msgspec import structs

from jobs.console.exit_codes import UsageError
from jobs.console.options import parse
from jobs.review.__main__ import open_session
from jobs.review.data import ReviewedData
from jobs.review.labels import Decision, Labels
from jobs.review.model_process import ModelProcess
from jobs.review.options import ReviewOptions
from jobs.review.pictures import MIN_PROBABILITY, disputed_items, run_versions
from jobs.review.session import Session
from mnist_lib.data.corrections import NONE, LabelsFile
from mnist_lib.data.dataset import Dataset
from mnist_lib.data.request import DataRequest
from mnist_lib.data.table import text_of
from mnist_lib.errors import DataError, SpecError
from mnist_lib.objects.local import LocalObjects
from mnist_lib.store.contents import contents_of
from mnist_lib.store.margins import MARGINS, Margins
from mnist_lib.store.predictions import Predictions
from mnist_lib.store.publishing import publish
from mnist_lib.store.runs import RunFolder
from tests.support.linear import load_linear, publish_linear
from tests.support.made_run import made_run
from tests.support.reviewing import Command, data_of, free_port, lines_of


@contextlib.contextmanager
def review(*arguments: str | Path) -> Iterator[Session]:
    """Open a review, and wait until its pictures are read and predicted by the linear model."""
    options: ReviewOptions = parse("jobs.review", ReviewOptions, [*map(str, arguments)])
    with mock.patch.object(ModelProcess.__init__, "__defaults__", (load_linear,)), open_session(options) as session:
        session.wait()
        yield session


@pytest.mark.slow
def test_half_of_the_new_pictures_are_random_and_no_other_one_is_of_the_hold_out(
    folder: Path, new: Path, storage: Path
) -> None:
    with review(new, f"--dataset={folder}/", f"--storage={storage}", "--model=keras@1", "--user=ada") as session:
        first, second, third, *others = session.order.take(30)
        for (item, why), label in ((first, "3"), (second, "4"), (third, NONE)):
            session.decide(Decision(image=item.image, label=label, why=why))
    chosen = [first, second, third, *others]
    assert [why for _, why in chosen] == ["random", "uncertain"] * 15
    assert "hold-out" not in {item.split for item, why in chosen if why == "uncertain"}
    assert {item.split for item, _ in chosen} == {"training", "hold-out"}
    assert all((item.split == "training") == (item.answer is not None) for item, _ in chosen)
    assert [(line.image, line.label, line.why, line.by, line.replaced) for line in lines_of(folder)] == [
        (first.item.image, "3", "random", "ada", None),
        (second.item.image, "4", "uncertain", "ada", None),
        (third.item.image, "none", "random", "ada", None),
    ]
    assert (folder / f"3/{first.item.image}.png").read_bytes() == Path(first.item.name).read_bytes()
    known = data_of(folder).known
    assert known[first.item.image].split == first.item.split
    assert known[second.item.image].label == "4"
    assert third.item.image not in known


@pytest.mark.slow
def test_without_a_champion_all_pictures_are_random(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "storage").mkdir()
    options = (f"--dataset={folder}/", f"--storage={tmp_path}/storage")
    with review(*options) as session:
        assert {(why, item.answer is None) for item, why in session.order.take(30)} == {("random", True)}
    assert "there is no champion yet; to have pictures chosen by a model, train one with" in caplog.text
    with pytest.raises(SpecError), review(*options, "--model=keras@1"):
        pass


@pytest.mark.slow
def test_the_labels_of_a_dataset_are_reviewed_and_those_that_are_learned_late_come_first(
    folder: Path, tmp_path: Path
) -> None:
    objects = LocalObjects(tmp_path / "storage")
    train = data_of(folder).dataset.train
    late = np.arange(40, 20, -2)
    means = np.arange(-50, -40, dtype=np.float32)  # of the logits, so that all other labels are more probable
    margins = Margins(train.hashes[late], train.labels[late], means, np.zeros(3, np.float32))
    publish_linear(objects, **{MARGINS: margins.file()})
    errors = [text_of(row) for row in train.hashes[late]]
    with review(f"--storage={tmp_path / 'storage'}", "--model=keras@1", f"--dataset={folder}/") as session:
        shown = session.order.take(500)
    assert len(shown) == 120
    assert {item.label for item, _ in shown} == {*"0123456789"}
    assert [why for _, why in shown[:40]] == ["random", "disputed"] * 20
    assert all(Path(item.name).parent.name == item.label for item, _ in shown)
    drawn, chosen = ([item.image for item, why in shown if why == reason] for reason in ("random", "disputed"))
    listed = [image for image in errors if image in chosen]
    assert len(listed) >= 5  # fewer than 10, since some of them are drawn at random
    assert chosen[: len(listed)] == listed
    assert {*errors} <= {*drawn[: len(errors) + 1], *listed}


@pytest.mark.slow
def test_the_labels_of_a_dataset_of_the_catalog_are_stored_in_the_storage(
    tensorflow: None, storage: Path, data_dir: Path
) -> None:
    with review(f"--storage={storage}", "--model=keras@1", f"--data-dir={data_dir}") as session:
        ((item, why),) = session.order.take(1)
        before = item.label
        session.decide(Decision(image=item.image, label="3", why=why))
    (line,) = LabelsFile(LocalObjects(storage), "datasets/mnist-mini/labels.jsonl").read()
    assert (line.image, line.label, line.replaced) == (item.image, "3", before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.png", "--run=r"], "expected pictures or --run NAME, got both"),
        (["--seed=-1"], "seed: expected"),
        (["--port=70000"], "port: expected .*65536, got 70000"),
        (["--user="], "user: expected 1 to 200 printable characters"),
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
