"""`jobs.models evaluate --on`: another test of a version, on labelled pictures of the user."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mnist_lib
from jobs.models import __main__ as models
from mnist_lib.data.changes import DatasetState
from mnist_lib.data.dataset import Dataset
from mnist_lib.data.prepare import prepare
from mnist_lib.data.request import DataRequest
from mnist_lib.intervals import accuracy_interval
from mnist_lib.objects.local import LocalObjects
from mnist_lib.spec import TrialSpec
from mnist_lib.store.datasets import store_state
from tests.support.digits import add_digits
from tests.support.stored import publish_trained

pytestmark = [pytest.mark.usefixtures("tensorflow"), pytest.mark.slow]

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def trained(tensorflow: None, digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the pictures `digits`, and a storage with a version that was trained on them."""
    home = tmp_path_factory.mktemp("home")
    add_digits(home / "digits", digits, 0, 300)
    dataset = prepare(DataRequest(dataset=f"{home}/digits", data_dir=home / "data"))
    spec = TrialSpec.of("keras", hidden_units=32, epochs=10, dataset="digits", global_batch_size=32)
    (home / "store").mkdir()
    publish_trained(LocalObjects(home / "store"), dataset, "a", spec)
    state = DatasetState.of(dataset).content()
    store_state(LocalObjects(home / "store"), "digits", dataset.fingerprint, state)
    return home


@pytest.fixture
def evaluate(trained: Path, capfd: pytest.CaptureFixture[str]) -> Command:
    def run(*arguments: str | Path) -> tuple[int, str, str]:
        capfd.readouterr()
        where = (f"--storage={trained}/store", f"--data-dir={trained}/data")
        return models.main(["evaluate", "keras@1", *map(str, arguments), *where]), *capfd.readouterr()

    return run


def test_pictures_on_which_the_version_was_trained_and_unknown_classes_are_counted_apart(
    trained: Path, digits: Dataset, evaluate: Command, tmp_path: Path
) -> None:
    others = add_digits(tmp_path / "others", digits, 250, 400)  # 50 of them are in the dataset of the version
    (others / "8/damaged.png").write_bytes(b"no picture")
    (others / "8/link.png").symlink_to("/etc/hostname")
    (others / "9").rename(others / "nine")
    nines = len([*(others / "nine").iterdir()])
    code, stdout, stderr = evaluate("--on", others, "--json")
    assert code == 0, stderr
    found = json.loads(stdout)
    for name in ("8/damaged.png", "8/link.png"):
        assert any(text.startswith("left out") and name in text for text in found["left_out"]), found["left_out"]
    assert found["unknown"] == {"nine": nines}
    assert found["test"]["total"] + found["trained_on"]["total"] == 150 - nines
    assert 20 < found["trained_on"]["total"] < 50  # the others were in the hold-out
    confusion = np.array(found["confusion"])
    assert (confusion.sum(), confusion.trace()) == (found["test"]["total"], found["test"]["correct"])
    recall = dict(zip(found["classes"], found["recall"], strict=True))
    assert recall.pop("9")["total"] == 0
    assert sum(each["correct"] for each in recall.values()) == found["test"]["correct"]
    of_classes = [each["correct"] / each["total"] for each in recall.values()]
    assert found["balanced_accuracy"] == pytest.approx(np.mean(of_classes))
    assert found["groups"] is None
    assert 0.5 < found["accuracy"] < 0.97
    for mistake in found["mistakes"]:
        assert mistake["file"].startswith(f"{mistake['label']}/")
        assert mistake["answer"] != mistake["label"]
    correct = np.arange(found["test"]["total"]) < found["test"]["correct"]
    assert found["interval"] == pytest.approx(accuracy_interval(correct))


def test_the_table_names_classes_and_mistakes(
    trained: Path, digits: Dataset, evaluate: Command, tmp_path: Path
) -> None:
    others = add_digits(tmp_path / "others", digits, 300, 400)
    code, stdout, stderr = evaluate("--on", others)
    assert code == 0, stderr
    assert stdout.startswith("keras@1 on others: ")
    assert " of 100 images correct, " in stdout.splitlines()[0]
    assert "The most confident mistakes:" in stdout


def test_the_python_api_gives_the_same_numbers_also_with_groups(
    trained: Path, digits: Dataset, evaluate: Command, tmp_path: Path
) -> None:
    others = add_digits(tmp_path / "others", digits, 300, 400)
    code, stdout, stderr = evaluate("--on", others, "--group-by=([0-9])[0-9]*.png", "--json")
    assert code == 0, stderr
    model = mnist_lib.load("keras@1", trained / "store")
    found = model.evaluate(others, data_dir=trained / "data", group_by="([0-9])[0-9]*.png")
    printed = json.loads(stdout)
    assert (found.accuracy, list(found.interval)) == (printed["accuracy"], printed["interval"])
    assert found.groups == printed["groups"]
    assert found.groups is not None
    assert found.groups < 100


def test_pictures_of_other_classes_and_those_that_it_was_trained_on_alone_are_no_test(
    trained: Path, digits: Dataset, evaluate: Command, tmp_path: Path
) -> None:
    others = add_digits(tmp_path / "letters", digits, 0, 40)
    for folder in sorted(others.iterdir()):
        folder.rename(others / f"letter {folder.name}")
    code, _, stderr = evaluate("--on", others)
    assert code == 3
    assert "letters: expected classes of keras@1, such as 0, got letter 0, letter 1" in stderr
    dataset = prepare(DataRequest(dataset=f"{trained}/digits", data_dir=trained / "data"))
    known = [dataset.train.file(index) for index in range(0, len(dataset.train), 5)]
    for name in known:
        assert name is not None
        (tmp_path / "known" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "known" / name).write_bytes((trained / "digits" / name).read_bytes())
    code, stdout, stderr = evaluate("--on", tmp_path / "known")
    assert code == 0, stderr
    assert stdout.splitlines()[0] == "keras@1 on known: no image that it was not trained on"
    assert f"{len(known)} images on which it was trained, counted apart: " in stdout


def test_a_dataset_of_the_catalog_is_tested_on_its_test_split(evaluate: Command) -> None:
    code, stdout, stderr = evaluate("--on=mnist-mini")
    assert code == 0, stderr
    assert " of 1,000 images correct, " in stdout.splitlines()[0]


def test_pictures_of_digits_are_read_as_jobs_predict_reads_them(
    digits: Dataset, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """As digits on paper: large, dark on light, and not in the middle."""
    objects = LocalObjects(tmp_path / "store")
    for name in ("store", "data"):
        (tmp_path / name).mkdir()
    mini = Dataset.of("mnist-mini", "1", digits.train, digits.test)
    publish_trained(objects, mini, "a", TrialSpec.of("keras", hidden_units=64, epochs=5, dataset="mnist-mini"))
    for index in range(0, 1_000, 10):
        paper = np.full((120, 160), 250, np.uint8)
        paper[10:94, 5:89] -= np.kron(digits.test.images[index, ..., 0] // 2, np.ones((3, 3), np.uint8))
        path = tmp_path / "paper" / str(digits.test.labels[index]) / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(paper).save(path)
    Image.fromarray(np.full((50, 50), 200, np.uint8)).save(tmp_path / "paper/0/blank.png")
    where = (f"--storage={tmp_path}/store", f"--data-dir={tmp_path}/data")
    assert models.main(["evaluate", "keras@1", "--on", f"{tmp_path}/paper", *where, "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert found["test"]["total"] + found["unread"] in (100, 101)  # a blank picture may be left out before
    assert found["accuracy"] > 0.85
