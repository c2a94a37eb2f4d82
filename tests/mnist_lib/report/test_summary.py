"""The summary of a run."""

from mnist_lib.report.summary import settings_of
from mnist_lib.results import Accuracy
from tests.support.made_run import small_summary

CORRECT, HALF = [0, 1, 2, 3], [0, 1, 0, 0]


def test_the_summary_has_the_main_figures() -> None:
    summary = small_summary(CORRECT, HALF)
    model = summary["models"]["keras"]
    figures = (model["trials"], model["mean_test_accuracy"], model["best_trial"], model["version"])
    assert figures == (2, 0.75, "keras-s0", 7)
    assert summary["trials"][1]["test"] == {"correct": 2, "total": 4}
    assert summary["versions"] == {"numpy": "2.4.6"}  # of the workers, not of this process


def test_the_interval_is_over_images_for_one_trial_and_over_seeds_for_several() -> None:
    one, two = (small_summary(*[CORRECT] * n)["models"]["keras"] for n in (1, 2))
    assert (one["ci95_over"], tuple(one["ci95"])) == ("test images", Accuracy(4, 4).interval())
    assert (two["ci95_over"], two["ci95"]) == ("seeds", [1.0, 1.0])


def test_settings_are_text_for_each_name_and_model_even_without_results() -> None:
    trials = [{"model": "keras", "epochs": 5, "learning_rate": 1e-3}, {"model": "scratch", "epochs": 5, "seed": 1}]
    settings = settings_of({"trials": trials})
    assert {name: by_model for name, by_model in settings.items() if by_model} == {
        "epochs": {"keras": "5", "scratch": "5"},
        "learning rate": {"keras": "0.001"},
    }
