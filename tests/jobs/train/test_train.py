"""The whole job, with real processes, clusters and digits."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from jobs.models import __main__ as models
from mnist_lib.data.dataset import Dataset
from tests.support.figures import assert_says_what_the_summary_says
from tests.support.job import history_of, summary_of
from tests.support.stored import correct_of_stored, counts_of_summary

pytestmark = pytest.mark.slow


def test_a_run_over_two_nodes_counts_every_test_image_of_every_trial(gpu_run: tuple[dict[str, Any], Path]) -> None:
    summary, _ = gpu_run
    assert [trial["id"] for trial in summary["trials"]] == ["keras-s0", "keras-s1", "scratch-s0", "scratch-s1"]
    assert all(trial["status"] == "ok" and trial["test"]["total"] == 1_000 for trial in summary["trials"])
    assert len({trial["node"] for trial in summary["trials"]}) == 2
    for name, floor in (("keras", 0.9), ("scratch", 0.3)):
        model = summary["models"][name]
        accuracies = [trial["test_accuracy"] for trial in summary["trials"] if trial["spec"]["model"] == name]
        assert model["mean_test_accuracy"] == pytest.approx(np.mean(accuracies))
        assert model["std_test_accuracy"] == pytest.approx(np.std(accuracies, ddof=1))
        assert model["highest_test_accuracy"] == max(accuracies)
        assert model["mean_test_accuracy"] > floor
        assert model["ensemble_test"]["total"] == 1_000


def test_each_trial_sees_only_the_gpu_that_ray_granted(gpu_run: tuple[dict[str, Any], Path]) -> None:
    """Three lanes ran at once, so their (node, GPU) pairs are distinct; a lane's trials share its pair."""
    summary, _ = gpu_run
    assert all(len(trial["gpus"]) == 1 and trial["replicas"] == 1 for trial in summary["trials"])
    assert len({(trial["node"], trial["gpus"][0]) for trial in summary["trials"]}) == 3


@pytest.mark.long
def test_two_gpus_per_trial_are_two_replicas(ray_address: str, data_dir: Path, tmp_path: Path) -> None:
    summary = summary_of(
        *("--address", ray_address, "--data-dir", data_dir, "--models=keras", "--gpus-per-trial=2", "--allow-cpu"),
        *("--epochs=1", "--no-report"),
        home=tmp_path,
    )
    (trial,) = summary["trials"]
    assert (trial["replicas"], trial["devices"], sorted(trial["gpus"])) == (2, ["CPU:0", "CPU:1"], ["0", "1"])


def test_a_run_stores_its_configuration_its_history_and_a_result_for_each_trial(
    gpu_run: tuple[dict[str, Any], Path],
) -> None:
    summary, home = gpu_run
    folder = home / "results/runs" / summary["run"]
    assert yaml.safe_load((folder / "config.yaml").read_text())["epochs"] == 20
    history = history_of(folder)
    for trial in summary["trials"]:
        own = [entry["event"] for entry in history if entry["trial"] == trial["id"]]
        assert own == ["started", *["epoch"] * 20, "ended"]
        assert json.loads((folder / "trials" / trial["id"] / "result.json").read_text()) == trial


def test_a_run_stores_a_report_that_matches_its_summary_and_is_in_the_index(
    gpu_run: tuple[dict[str, Any], Path],
) -> None:
    summary, home = gpu_run
    report = home / "results/runs" / summary["run"] / "report.html"
    assert_says_what_the_summary_says(report.read_text(), summary)
    assert sorted(path.name for path in (report.parent / "plots").iterdir()) == ["accuracy.png", "learning-curves.png"]
    assert f'href="runs/{summary["run"]}/report.html"' in (home / "results/index.html").read_text()


@pytest.mark.usefixtures("tensorflow")
def test_tensorboard_shows_the_epochs_of_the_history(gpu_run: tuple[dict[str, Any], Path]) -> None:
    summary, home = gpu_run
    folder = home / "results/runs" / summary["run"]
    for trial in summary["trials"]:
        epochs = [e for e in history_of(folder) if (e["event"], e["trial"]) == ("epoch", trial["id"])]
        (path,) = (folder / "trials" / trial["id"] / "tb").iterdir()
        seen = EventAccumulator(str(path)).Reload()
        losses = [(loss.step, loss.value) for loss in seen.Scalars("loss")]
        assert losses == [(epoch["epoch"], np.float32(epoch["loss"])) for epoch in epochs]
        validated = [epoch["validation"]["correct"] / epoch["validation"]["total"] for epoch in epochs]
        assert [a.value for a in seen.Scalars("accuracy/validation")] == np.asarray(validated, np.float32).tolist()
        assert len(seen.Tags()["images"]) == 10


@pytest.mark.long
def test_stored_models_reproduce_the_summary_without_this_project(
    gpu_run: tuple[dict[str, Any], Path], digits: Dataset
) -> None:
    summary, home = gpu_run
    storage, expected = home / "results", counts_of_summary(summary)
    assert correct_of_stored(summary, storage, np.asarray(digits.test.images), digits.test.labels) == expected
    for name, model in summary["models"].items():
        predicted = np.load(storage / "models" / name / "versions" / str(model["version"]) / "predictions.npz")
        assert (predicted["predictions"] == predicted["labels"]).sum() == expected[name]


@pytest.mark.usefixtures("tensorflow")
@pytest.mark.parametrize("name", ["keras", "scratch"])
def test_stored_weights_evaluate_to_the_stored_result(
    gpu_run: tuple[dict[str, Any], Path],
    data_dir: Path,
    name: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    summary, home = gpu_run
    test = next(t["test"] for t in summary["trials"] if t["id"] == summary["models"][name]["best_trial"])
    assert models.main(["evaluate", name, "--json", f"--storage={home}/results", f"--data-dir={data_dir}"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["test"], found["matching"]) == (test, test["total"])
    assert found["max_difference"] < 1e-4
