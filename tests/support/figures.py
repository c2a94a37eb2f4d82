"""The main accuracies in a report, read from its page."""

import re
from collections.abc import Mapping
from typing import Any

from mnist_lib.wording import counted, interval_text, percent, rounded


def text_of(page: str) -> str:
    return " ".join(re.sub("<[^>]*>", "", page).split())


def assert_says_what_the_summary_says(page: str, summary: Mapping[str, Any]) -> None:
    """Check that the accuracies of each model and of each trial on the page are as in the summary."""
    text = text_of(page)
    means = [f"{name} {percent(model['mean_test_accuracy'])}" for name, model in summary["models"].items()]
    assert (f"Test accuracy: {', '.join(means)}" if means else "No trial succeeded") in text
    for model in summary["models"].values():
        trials = counted(model["trials"], "trial")
        assert f"{percent(model['mean_test_accuracy'])} 95% interval {interval_text(model['ci95'])}, {trials}" in text
        assert f"{percent(model['best_trial_test_accuracy'])} on test" in text
    assert [cells.get("test") for cells in trial_rows(page).values()] == [
        percent(trial["test_accuracy"]) if trial["status"] == "ok" else None for trial in summary["trials"]
    ]
    for trial, cells in zip(summary["trials"], trial_rows(page).values(), strict=True):
        assert cells["attempts"] == str(trial["attempts"])
        if trial["status"] == "ok":
            assert cells["correct"] == f"{trial['test']['correct']:,}"
            assert cells["chosen epoch"] == f"{trial['best_epoch']} of {rounded(trial['trained_epochs'])}"


def trial_rows(page: str) -> dict[str, dict[str, str]]:
    """Return the table of trials: by trial, its cells by heading."""
    (table,) = re.findall(r'aria-label="Trials">(.*?)</table>', page, re.DOTALL)
    rows = re.findall(r'<tr><th scope="row">([^<]*)</th>(.*?)</tr>', table, re.DOTALL)
    return {trial: dict(re.findall(r'data-label="([^"]*)">([^<]*)</td>', cells)) for trial, cells in rows}
