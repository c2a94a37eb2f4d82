"""The tally of a model's trials, and what is reported of it."""

from typing import Any

import numpy as np
import pytest
from rich.console import Console

from mnist_lib.report.summary import Stored, summarize, trial_row
from mnist_lib.report.table import render
from mnist_lib.results import Accuracy, Tally, TrialFailure, TrialResult
from mnist_lib.spec import TrialSpec

LABELS = np.array([0, 1, 2, 3], np.uint8)


def result(seed: int, *, predicted: list[int], sure: float = 0.9, validation: int | None = 5) -> TrialResult:
    probabilities = np.full((4, 10), (1 - sure) / 9, np.float32)
    probabilities[np.arange(4), predicted] = sure
    return TrialResult(
        trial=f"keras-s{seed}",
        spec=TrialSpec.of("keras", seed=seed),
        test=Accuracy(int((np.array(predicted) == LABELS).sum()), 4),
        validation=None if validation is None else Accuracy(validation, 10),
        best_epoch=1,
        history=(),
        train_seconds=1.0,
        images_per_second=1.0,
        setup_seconds=1.0,
        replicas=1,
        devices=("CPU:0",),
        gpus=(),
        node="here",
        weights_sha256="",
        probabilities=probabilities,
        files={},
        versions={"numpy": "2.4.6"},
    )


def tally_of(first: TrialResult, *others: TrialResult) -> Tally:
    tally = Tally(first)
    for each in others:
        tally.add(each)
    return tally


def test_the_chosen_trial_is_the_best_on_validation_not_on_test() -> None:
    tally = tally_of(
        result(0, predicted=[0, 1, 2, 3], validation=4),
        result(1, predicted=[0, 0, 0, 0], validation=6),
    )
    assert tally.chosen.trial == "keras-s1"
    assert tally.highest == 1.0


@pytest.mark.parametrize("validation", [5, None])
def test_of_equals_the_lowest_seed_is_chosen_in_whatever_order_they_come(validation: int | None) -> None:
    first, second = (result(seed, predicted=[0, 1, 2, 3], validation=validation) for seed in (0, 1))
    for order in ((first, second), (second, first)):
        assert tally_of(*order).chosen.trial == "keras-s0"


def test_the_ensemble_is_of_mean_probabilities_not_of_votes() -> None:
    """Two hesitant mistakes are outvoted by one sure trial."""
    wrong, right = [1, 1, 1, 1], [0, 1, 2, 3]
    tally = tally_of(
        *(result(seed, predicted=wrong, sure=0.3) for seed in (0, 1)), result(2, predicted=right, sure=0.9)
    )
    assert tally.ensemble(LABELS) == Accuracy(4, 4)
    assert tally.statistics.count == 3


def summary_of(*predicted: list[int], failed: int = 0) -> dict[str, Any]:
    """Of trials of keras, the seeds counted up, that predicted these classes for the labels 0, 1, 2, 3."""
    results = [result(seed, predicted=classes) for seed, classes in enumerate(predicted)]
    tallies = {"keras": tally_of(*results)} if results else {}
    rows = [trial_row({"model": "keras", "seed": r.spec.seed, "epochs": 5}, r, attempts=1) for r in results]
    for seed in range(len(results), len(results) + failed):
        failure = TrialFailure(trial=f"keras-s{seed}", code="E-NAN", message="loss is not a number")
        rows.append(trial_row({"model": "keras", "seed": seed, "epochs": 5}, failure, attempts=1))
    return summarize(
        run="r",
        dataset={"name": "few", "test": 4},
        tallies=tallies,
        stored={"keras": Stored(7, True, "better")} if results else {},
        labels=LABELS,
        trials=rows,
        timing={},
        ended="2026-11-25T03:00:00Z",
    )


def text_of(summary: dict[str, Any], width: int = 110) -> str:
    console = Console(width=width)
    with console.capture() as capture:
        render(summary, console)
    return capture.get()


RIGHT, HALF, WRONG = [0, 1, 2, 3], [0, 1, 0, 0], [9, 9, 9, 9]


def test_the_summary_has_the_promised_core() -> None:
    summary = summary_of(RIGHT, HALF)
    model = summary["models"]["keras"]
    assert (model["trials"], model["mean_test_accuracy"], model["best_trial"], model["version"]) == (
        2,
        0.75,
        "keras-s0",
        7,
    )
    assert summary["trials"][1]["test"] == {"correct": 2, "total": 4}
    assert summary["versions"] == {"numpy": "2.4.6"}  # of the workers, not of this process


def test_the_interval_of_one_trial_is_over_its_images_of_several_over_seeds() -> None:
    one, two = (summary_of(*[RIGHT] * n)["models"]["keras"] for n in (1, 2))
    assert (one["ci95_over"], tuple(one["ci95"])) == ("test images", Accuracy(4, 4).interval())
    assert (two["ci95_over"], two["ci95"]) == ("seeds", [1.0, 1.0])
    assert "over test images" in text_of(summary_of(RIGHT))
    assert "over test images" not in text_of(summary_of(RIGHT, RIGHT))


@pytest.mark.parametrize(
    ("predicted", "guessing"), [([WRONG, WRONG], True), ([RIGHT, HALF], False), ([WRONG, RIGHT], False)]
)
def test_only_a_model_that_may_be_guessing_is_said_to_be(predicted: list[list[int]], guessing: bool) -> None:
    """Judged by all trials' counts; the interval over two seeds is wide enough to hold chance nearly always."""
    assert ("no better than guessing" in text_of(summary_of(*predicted))) == guessing


def test_a_failed_trial_is_a_row_with_its_reason_below() -> None:
    text = text_of(summary_of(RIGHT, failed=1))
    assert "keras-s1 failed: E-NAN loss is not a number" in " ".join(text.split())


def test_when_every_trial_failed_there_is_no_empty_table_of_models() -> None:
    assert "95% interval" not in text_of(summary_of(failed=2))
