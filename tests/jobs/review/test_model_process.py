"""A model in a process of its own: it fails without the process that people use."""

from contextlib import closing

import numpy as np
import pytest

from jobs.review.model_process import ModelProcess
from mnist_lib.errors import ModelError
from mnist_lib.store.contents import StoredModel
from tests.support.linear import load_linear

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 28, 28, 1)).astype(np.uint8)


def test_the_process_predicts_what_the_model_does(model: ModelProcess, stored: StoredModel) -> None:
    got, expected = model.predict(IMAGES), load_linear(stored)(IMAGES)
    assert np.array_equal(got.probabilities, expected.probabilities)
    assert np.array_equal(got.likeness, expected.likeness)


def test_a_model_that_cannot_be_loaded_is_an_error_for_each_caller(stored: StoredModel) -> None:
    damaged = StoredModel(**{**vars(stored), "files": {"model.keras": b"damaged"}})
    with closing(ModelProcess(damaged, load_linear)) as model:
        for _ in range(2):
            with pytest.raises(ModelError, match="keras@1: expected the linear model, got another"):
                model.predict(IMAGES)
        assert model.state == "failed"


def test_a_process_that_ends_is_reported_and_predicts_no_more(stored: StoredModel) -> None:
    with closing(ModelProcess(stored, load_linear)) as model:
        model.predict(IMAGES)
        model._process.kill()
        model._process.wait()
        for _ in range(2):
            with pytest.raises(
                ModelError, match=r"expected a process that predicts, got one that ended \(exit code -9"
            ):
                model.predict(IMAGES)
        assert model.state == "failed"
