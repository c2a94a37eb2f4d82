"""A run with folds: every picture is predicted by a model that was not trained on it, and wrong labels are named."""

import json
import re
from pathlib import Path

import pytest

from mnist_lib.data.dataset import Dataset
from mnist_lib.wording import counted
from tests.support.digits import add_digits
from tests.support.figures import assert_says_what_the_summary_says
from tests.support.job import train

pytestmark = pytest.mark.slow


@pytest.mark.long
def test_a_run_with_folds_stores_a_model_of_all_pictures_and_names_wrong_labels(
    digits: Dataset, data_dir: Path, tmp_path: Path
) -> None:
    folder = add_digits(tmp_path / "digits", digits, 0, 200)
    pictures = sorted(folder.glob("[1-4]/*.png"))
    for path in (wrong := pictures[::13]):
        path.rename(folder / f"{9 - int(path.parent.name)}" / path.name)
    code, stdout, stderr = train(
        *("--dataset", folder, "--data-dir", data_dir, "--storage", tmp_path / "results", "--run-name=r"),
        *("--models=keras-cnn", "--epochs=30", "--batch-size=16", "--folds=3", "--refit"),
        home=tmp_path,
    )
    assert code == 0, stderr
    summary = json.loads((tmp_path / "results/runs/r/summary.json").read_text())
    dataset, folds = summary["dataset"], summary["folds"]
    assert (folds["folds"], dataset["validation"]) == (3, 0)
    assert folds["images"] == dataset["train"] == 200 - dataset["test"]
    trials = {trial["id"]: trial for trial in summary["trials"]}
    assert [*trials] == ["keras-cnn-s0", "keras-cnn-s0-f0", "keras-cnn-s0-f1", "keras-cnn-s0-f2"]
    held_out = [trials[f"keras-cnn-s0-f{fold}"]["validation"] for fold in range(3)]
    assert sum(fold["total"] for fold in held_out) == folds["images"]
    accuracy = sum(fold["correct"] for fold in held_out) / folds["images"]
    assert folds["models"]["keras-cnn"]["accuracy"] == pytest.approx(accuracy)
    assert trials["keras-cnn-s0"]["validation"] is None
    model = summary["models"]["keras-cnn"]
    assert (model["best_trial"], model["trials"]) == ("keras-cnn-s0", 1)

    errors, first = summary["label_errors"]["count"], summary["label_errors"]["first"]
    named = {Path(error["file"]).name for error in first}
    assert len(named) == errors
    assert len(named & {path.name for path in wrong}) > errors / 2
    assert f"{counted(errors, 'label')} may be wrong; python -m jobs.review shows the images first." in stdout
    (line,) = [line for line in stdout.splitlines() if line.startswith("Folds: ")]
    assert re.fullmatch(
        rf"Folds: keras-cnn {accuracy:.2%} \(\S+% to \S+%\) on {folds['images']} images, by models trained on 2/3 of"
        " them.",
        line,
    )
    page = (tmp_path / "results/runs/r/report.html").read_text()
    assert_says_what_the_summary_says(page, summary)
    section = page.partition('id="label-errors"')[2].partition("</details>")[0]
    assert counted(errors, "image") in section
    assert f"{first[0]['label']}/{Path(first[0]['file']).name}" in section
    assert f"label {first[0]['label']}" in section
