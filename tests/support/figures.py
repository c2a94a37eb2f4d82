"""The numbers in a report, read from its page."""

import re
from collections.abc import Mapping
from typing import Any

from mnist_lib.report.page import NUMBER_FORMATS

FIGURE = re.compile(r'<data value="([^"]*)" data-path="([^"]*)">([^<]*)</data>')


def assert_says_what_the_summary_says(page: str, summary: Mapping[str, Any]) -> None:
    """Check that each number on the page is as in the summary, and that none of the main accuracies is missing."""
    figures = FIGURE.findall(page)
    for value, path, text in figures:
        expected = _at(summary, path)
        assert value == str(expected), path
        assert text in {shown(expected) for shown in NUMBER_FORMATS.values()}, path
    shown = {path for _, path, _ in figures}
    for name in summary["models"]:
        assert {f"models/{name}/{key}" for key in ("mean_test_accuracy", "ci95/0", "ci95/1", "trials")} <= shown
    for number, trial in enumerate(summary["trials"]):
        assert (f"trials/{number}/test_accuracy" in shown) == (trial["status"] == "ok")


def _at(part: Any, path: str) -> Any:
    for key in path.split("/"):
        part = part[key if isinstance(part, dict) else int(key)]
    return part
