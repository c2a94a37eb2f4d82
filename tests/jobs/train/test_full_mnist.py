"""Three trials of each model on the full MNIST, from the four original files."""

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.figures import assert_says_what_the_summary_says
from tests.support.job import summary_of
from tests.support.stored import correct_of_stored, counts_of_summary

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.mnist]


@pytest.fixture(scope="module")
def full_run(
    data_dir: Path, mnist_source: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], Path]:
    home = tmp_path_factory.mktemp("full")
    options = ("--dataset=mnist", "--data-source", mnist_source, "--data-dir", data_dir, "--seeds=3")
    return summary_of(*options, home=home), home / "results"


def test_models_reach_a_minimum_accuracy_and_stored_ones_match_the_summary(
    full_run: tuple[dict[str, Any], Path], mnist_source: Path
) -> None:
    summary, storage = full_run
    assert_says_what_the_summary_says((storage / "runs" / summary["run"] / "report.html").read_text(), summary)
    assert [trial["test"]["total"] for trial in summary["trials"]] == [10_000] * 6
    assert summary["models"]["keras"]["mean_test_accuracy"] >= 0.975
    assert summary["models"]["scratch"]["mean_test_accuracy"] >= 0.88
    raw = (
        gzip.decompress((mnist_source / f"t10k-{name}-ubyte.gz").read_bytes())
        for name in ("images-idx3", "labels-idx1")
    )
    images, labels = (np.frombuffer(data, np.uint8, offset=offset) for data, offset in zip(raw, (16, 8), strict=True))
    assert correct_of_stored(summary, storage, images.reshape(-1, 28, 28, 1), labels) == counts_of_summary(summary)
