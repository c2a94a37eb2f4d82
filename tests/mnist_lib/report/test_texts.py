"""The summary as text for a terminal."""

import re
import sys
from typing import Any

import numpy as np
import pytest
from msgspec import structs

from jobs.console.output import as_text
from mnist_lib.catalog import MODELS
from mnist_lib.data.dataset import Dataset
from mnist_lib.report.texts import result_tables
from mnist_lib.results import Accuracy
from mnist_lib.run_documents import FoldsSummary, LabelErrors, Summary
from mnist_lib.spec import TrialSpec
from mnist_lib.wording import counted
from tests.support.made_run import made_run, small_result, small_summary, summary_of_results
from tests.support.results import with_fields

CORRECT, HALF, WRONG = [0, 1, 2, 3], [0, 1, 0, 0], [9, 9, 9, 9]


def text_of(summary: Summary) -> str:
    return as_text(*result_tables(summary))


def test_the_table_says_that_the_interval_of_several_trials_allows_for_other_seeds() -> None:
    size = "another test set of this size."
    assert f"The 95% interval of keras allows for {size}" in text_of(small_summary(CORRECT))
    assert f"The 95% interval of keras allows for another seed and {size}" in text_of(small_summary(CORRECT, CORRECT))


@pytest.mark.parametrize(("predicted", "guessing"), [([WRONG, WRONG], True), ([CORRECT, CORRECT], False)])
def test_the_table_says_not_better_than_guessing_only_if_the_model_may_be(
    predicted: list[list[int]], guessing: bool
) -> None:
    text = " ".join(text_of(small_summary(*predicted)).split())
    assert ("not clearly better than guessing" in text) == guessing
    assert "needs more steps" not in text  # nobody knows: it may have nothing to train


@pytest.mark.parametrize(
    ("dataset", "model", "advice"),
    [
        ("letters", "keras", "train a network that suits pictures: --models keras-resnet"),
        ("letters", "keras-resnet", "try more --epochs"),
        ("letters", "my_model", "try more --epochs"),
        ("mnist", "keras", "try more --epochs"),
    ],
)
def test_a_dense_network_that_guesses_on_pictures_is_to_be_replaced(dataset: str, model: str, advice: str) -> None:
    summary = small_summary(WRONG)
    spec = TrialSpec.of(model, source_sha256=None if model in MODELS else "0" * 64)
    trials = [structs.replace(trial, spec=spec) for trial in summary.successful]
    facts = structs.replace(summary.dataset, name=dataset)
    models = {model: summary.models["keras"]}
    text = " ".join(text_of(structs.replace(summary, dataset=facts, trials=trials, models=models)).split())
    guessing = "is not clearly better than guessing, which is correct for 25.00%"
    assert f"{model} always answers 9 and {guessing}; {advice}" in text


@pytest.mark.parametrize(
    ("devices", "deterministic", "exact"),
    [(("CPU:0",), False, True), (("0/GPU:0", "1/GPU:0"), False, False), (("GPU:0",), True, True)],
)
def test_the_table_says_if_training_again_gives_other_weights(
    devices: tuple[str, ...], deterministic: bool, exact: bool
) -> None:
    summary = small_summary(CORRECT)
    trials = [with_fields(trial, devices=devices, deterministic=deterministic) for trial in summary.successful]
    text = text_of(structs.replace(summary, trials=trials))
    assert ("The weights are not exact" in text) != exact


@pytest.mark.parametrize(("correct", "guessing"), [(950, True), (960, True), (970, False)])
def test_guessing_is_to_answer_always_the_largest_class(correct: int, guessing: bool) -> None:
    summary = small_summary(CORRECT)
    dataset = structs.replace(summary.dataset, classes=("no", "yes"), test=1_000, largest_class=950)
    models = {"keras": structs.replace(summary.models["keras"], ci95=Accuracy(correct, 1_000).interval())}
    summary = structs.replace(summary, dataset=dataset, models=models)
    text = " ".join(text_of(summary).split())
    assert ("not clearly better than guessing, which is correct for 95.00%" in text) == guessing


@pytest.mark.parametrize(
    ("small", "known", "score", "neglected"),  # images of the small class, and how many of them are recognised
    [
        *((5, 0, "accuracy", True), (5, 2, "accuracy", True), (5, 3, "accuracy", False), (40, 10, "accuracy", False)),
        *((1, 0, "accuracy", True), (5, 0, "balanced-accuracy", False)),  # one image says little
    ],
)
def test_the_table_warns_of_a_small_class_that_is_neglected_and_says_what_to_do(
    small: int, known: int, score: str, neglected: bool
) -> None:
    labels = np.repeat(np.array([0, 1], np.uint8), [100 - small, small])
    answers = np.where(np.arange(100) < 100 - small + known, labels, 0)
    answers[0] = 1  # so that no class is the answer to every image
    result = small_result(0, predicted=answers.tolist(), labels=labels)
    result = with_fields(result, score=score)
    text = " ".join(text_of(summary_of_results([result], labels=labels)).split())
    low, high = Accuracy(known, small).interval()
    warning = (
        f"neglects 1: it recognises {known} of {counted(small, 'test image')} ({low:.2%} to {high:.2%}), but"
        f" {99 - small + known}.00% of all; to let every class count the same, train with --score balanced-accuracy"
        " --class-weights balanced."
    )
    assert (warning in text) == neglected
    assert ("neglects" in text) == neglected
    balanced = ((99 - small) / (100 - small) + known / small) / 2
    assert (f"{balanced:.2%}" in text) == (score == "balanced-accuracy")


@pytest.mark.parametrize("augment", ["photos", "photos,flip=horizontal"])
def test_classes_that_are_confused_by_a_model_whose_images_are_mirrored_are_named(augment: str) -> None:
    labels = np.repeat(np.array([0, 1, 2, 3], np.uint8), 8)
    answers = [0] * 4 + [1] * 4 + [1] * 8 + [2] * 8 + [3] * 7 + [2]  # a quarter of 0 and 1, a sixteenth of 2 and 3
    result = small_result(0, predicted=answers, labels=labels)
    result = with_fields(result, augment=augment)
    summary = summary_of_results([result], labels=labels)
    mirrored = (("0", "1"),) if "flip" in augment else ()
    assert summary.models["keras"].mirrored == mirrored
    text = " ".join(text_of(summary).split())
    advice = "leave out flip in --augment if one of them looks like the other in a mirror"
    assert (f"keras confuses 0 and 1, and its training images are mirrored; {advice}." in text) == bool(mirrored)


def test_mirrored_images_are_not_blamed_for_a_model_that_has_learned_nothing() -> None:
    labels = np.repeat(np.array([0, 1], np.uint8), 8)
    result = with_fields(small_result(0, predicted=[0] * 16, labels=labels), augment="photos,flip=horizontal")
    summary = summary_of_results([result], labels=labels)
    assert summary.models["keras"].mirrored == (("0", "1"),)
    text = " ".join(text_of(summary).split())
    assert "keras always answers 0" in text
    assert "mirror" not in text


@pytest.mark.parametrize("score", ["accuracy", "balanced-accuracy"])
def test_a_model_that_is_compared_by_balanced_accuracy_is_not_measured_by_the_largest_class(score: str) -> None:
    """It recognises 75 of 85 images and 15 of 15: 90% of all, where always answering the large class has 85%."""
    labels = np.repeat(np.array([0, 1], np.uint8), [85, 15])
    answers = np.where(np.arange(100) < 10, 1, labels)
    result = small_result(0, predicted=answers.tolist(), labels=labels)
    result = with_fields(result, score=score)
    text = text_of(summary_of_results([result], labels=labels))
    assert ("is not clearly better than guessing" in text) == (score == "accuracy")


def test_a_class_of_which_chance_missed_one_image_is_not_neglected() -> None:
    """Eight classes have one image, and 97% of all are recognised: that one of the eight is not says nothing."""
    labels = np.array([0] * 92 + [*range(1, 9)], np.uint8)
    answers = np.where(np.arange(100) < 2, 1, labels)
    answers[-1] = 0
    text = text_of(summary_of_results([small_result(0, predicted=answers.tolist(), labels=labels)], labels=labels))
    assert "97.00%" in text
    assert "neglects" not in text


@pytest.mark.parametrize(("batch_size", "epochs", "few"), [(128, 20, True), (128, 400, False), (4, 2, False)])
def test_the_table_recommends_a_smaller_batch_size_if_few_images_made_few_steps(
    batch_size: int, epochs: int, few: bool
) -> None:
    summary = small_summary(CORRECT, CORRECT)
    fields: dict[str, Any] = {"global_batch_size": batch_size, "epochs": epochs, "trained_epochs": epochs}
    trials = [with_fields(trial, **fields) for trial in summary.trials]
    dataset = structs.replace(summary.dataset, train=181)
    text = " ".join(text_of(structs.replace(summary, dataset=dataset, trials=trials)).split())
    assert ("keras took only 40 steps, 2 in each epoch; try a smaller --batch-size or more --epochs." in text) == few
    assert ("took only" in text) == few


def test_a_failed_trial_is_a_row_with_its_reason_below() -> None:
    text = text_of(small_summary(CORRECT, failed=1))
    assert "keras-s1 failed: E-NAN loss is not a number" in " ".join(text.split())


def test_when_every_trial_failed_there_is_no_empty_table_of_models() -> None:
    assert "95% interval" not in text_of(small_summary(failed=2))


def test_the_time_is_the_total_and_its_parts() -> None:
    assert text_of(small_summary(CORRECT)).splitlines()[-1] == (
        "Time: 36.0 s in total: 5.0 s start, 6.0 s data, 24.5 s training, 0.5 s storing and report"
    )


@pytest.mark.parametrize("columns", [60, 80])
def test_tables_fit_into_a_narrow_terminal_without_breaking_a_word(
    columns: int, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = made_run(digits, seeds=2, models=("keras-cnn", "scratch"), failed=1).summary
    words = set(text_of(summary).split())  # in a pipe, which has no width
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = re.sub(r"\x1b\[\d*m", "", text_of(summary)).splitlines()
    assert set(" ".join(lines).split()) == words
    assert max(map(len, lines)) <= columns
    assert [line for line in lines if line != line.rstrip()] == []


@pytest.mark.parametrize(
    ("dataset", "interval", "folds", "advised"),
    [
        ("letters", (0.85, 0.97), None, True),
        ("letters", (0.93, 0.97), None, False),
        ("letters", (0.85, 0.97), FoldsSummary(folds=5, images=181, models={}), False),
        ("mnist", (0.85, 0.97), None, False),
    ],
)
def test_folds_are_recommended_where_few_test_images_leave_a_wide_interval(
    dataset: str, interval: tuple[float, float], folds: FoldsSummary | None, advised: bool
) -> None:
    summary = small_summary(CORRECT)
    models = {"keras": structs.replace(summary.models["keras"], ci95=interval)}
    facts = structs.replace(summary.dataset, name=dataset)
    text = " ".join(text_of(structs.replace(summary, dataset=facts, models=models, folds=folds)).split())
    advice = "With 4 test images, the 95% interval is 12 points wide; to measure the accuracy on the training images"
    assert (advice in text) == ("--folds 5" in text) == advised


@pytest.mark.parametrize(("count", "shown"), [(0, ""), (1, "1 label may be wrong; "), (12, "12 labels may be wrong; ")])
def test_the_number_of_labels_that_may_be_wrong_is_printed_with_what_to_do(count: int, shown: str) -> None:
    text = text_of(structs.replace(small_summary(CORRECT), label_errors=LabelErrors(count=count, first=())))
    assert (f"{shown}python -m jobs.review shows the images first." in text) == bool(shown)
