"""What folds tell: who predicts which image, and how accurate the models are."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mnist_lib.data.dataset import Dataset
from mnist_lib.data.table import Table
from mnist_lib.objects.local import LocalObjects
from mnist_lib.report.aggregation import folds_summary, out_of_fold
from mnist_lib.results import Accuracy
from mnist_lib.spec import TrialSpec
from mnist_lib.store.runs import RunFolder
from tests.support.recorded import recorded
from tests.support.results import trial_result
from tests.support.simulation.trials import epoch_of

FOLDS, CLASSES = 3, ("a", "b", "c")


def dataset_of(images: int) -> Dataset:
    rng = np.random.default_rng(0)
    train, test = (
        Table.of(rng.integers(0, 256, (n, 2, 2, 1), np.uint8), rng.integers(0, 3, n).astype(np.uint8))
        for n in (images, 5)
    )
    return Dataset.of("x", "1", train, test, CLASSES)


def trials_of(dataset: Dataset, *seeds: int, model: str = "keras") -> dict[TrialSpec, NDArray[np.float32]]:
    """Return predictions of the trials of all folds: row i of image i is [seed, fold, i]."""
    folds, found = dataset.folds(FOLDS), {}
    for spec in (spec for seed in seeds for spec in TrialSpec.of(model, seed=seed).in_folds(FOLDS)):
        rows = np.flatnonzero(folds == spec.fold)
        found[spec] = np.stack([np.full(len(rows), spec.seed), folds[rows], rows], axis=1).astype(np.float32)
    return found


def test_each_image_is_predicted_once_for_each_seed_by_the_trial_that_was_not_trained_on_it() -> None:
    dataset = dataset_of(50)
    together = out_of_fold(trials_of(dataset, 4, 7), dataset)["keras"]
    assert together.shape == (2, 50, 3)
    for row, seed in zip(together, (4, 7), strict=True):
        assert np.array_equal(row, np.stack([np.full(50, seed), dataset.folds(FOLDS), np.arange(50)], axis=1))
        for spec in TrialSpec.of("keras", seed=seed).in_folds(FOLDS):
            seen, _ = dataset.train_and_fold(spec.fold or 0, FOLDS)
            predicted = row[:, 1] == spec.fold
            assert not {*map(bytes, seen.images)} & {*map(bytes, dataset.train.images[predicted])}


def test_a_seed_of_which_a_fold_failed_is_left_out_and_a_model_without_seeds_too() -> None:
    dataset = dataset_of(50)
    of_folds = trials_of(dataset, 0, 1) | trials_of(dataset, 0, model="scratch")
    del of_folds[TrialSpec.of("keras", seed=1).in_folds(FOLDS)[2]]
    del of_folds[TrialSpec.of("scratch", seed=0).in_folds(FOLDS)[0]]
    summary = folds_summary(of_folds, dataset)
    assert {name: model.seeds for name, model in summary.models.items()} == {"keras": 1}
    del of_folds[TrialSpec.of("keras", seed=0).in_folds(FOLDS)[0]]
    summary = folds_summary(of_folds, dataset)
    assert summary.models == {}


def test_the_accuracy_of_folds_is_that_on_images_outside_of_training() -> None:
    """The probabilities are those of a model that is right and sure; 3 of 60 labels are wrong."""
    dataset = dataset_of(60)
    truth, wrong = dataset.train.labels.copy(), [5, 20, 41]
    dataset.train.labels[wrong] = (truth[wrong] + 1) % 3
    sure = np.where(np.arange(3) == truth[:, None], 0.9, 0.05).astype(np.float32)
    folds = dataset.folds(FOLDS)
    summary = folds_summary({spec: sure[folds == spec.fold] for spec in TrialSpec.of("keras").in_folds(FOLDS)}, dataset)
    assert (summary.folds, summary.images, summary.models["keras"].accuracy) == (3, 60, 57 / 60)


def test_a_resumed_run_says_the_same_and_stores_the_trial_that_is_in_no_fold(tmp_path: Path) -> None:
    dataset = dataset_of(50)
    folds, (one,) = trials_of(dataset, 0), [TrialSpec.of("keras", validation_percent=0)]
    results = [
        trial_result(
            spec,
            test=Accuracy(1, 5),
            validation=None if of_fold is None else Accuracy(1, len(of_fold)),
            history=(epoch_of(spec, 1, 1.0),),
            probabilities=np.eye(3, dtype=np.float32)[[0, 1, 2, 0, 1]],
            of_fold=of_fold,
            files={"model.keras": spec.id.encode()},
        )
        for spec, of_fold in [*folds.items(), (one, None)]
    ]
    trials = [*folds, one]
    with recorded(RunFolder(LocalObjects(tmp_path), "r"), trials) as training:
        for result in results[:2] + results[3:]:
            training.record(result)
    with recorded(RunFolder(LocalObjects(tmp_path), "r", resumed=True), trials) as resumed:
        assert [spec.id for spec in resumed.unfinished] == ["keras-s0-f2"]
        resumed.record(results[2])
    assert folds_summary(resumed.of_folds, dataset) == folds_summary(folds, dataset)
    assert resumed.tallies["keras"].chosen.files == {"model.keras": b"keras-s0"}
    assert resumed.tallies["keras"].accuracies == [1 / 5]


def test_without_a_trial_on_all_images_that_of_the_first_fold_is_stored(tmp_path: Path) -> None:
    """Whatever its accuracy on its fold, since each is measured on other images, and in whatever order they end."""
    specs = TrialSpec.of("keras").in_folds(FOLDS)
    with recorded(RunFolder(LocalObjects(tmp_path), "r"), specs) as training:
        for spec in reversed(specs):
            assert spec.fold is not None
            fold = np.eye(3, dtype=np.float32)
            result = trial_result(
                spec,
                test=Accuracy(spec.fold, 5),
                validation=Accuracy(spec.fold, 3),
                history=(epoch_of(spec, 1, 1.0),),
                probabilities=np.eye(3, dtype=np.float32)[[0, 1, 2, 0, 1]],
                of_fold=fold,
            )
            training.record(result)
    assert training.tallies["keras"].chosen.trial == training.tallies["keras"].best_trial == "keras-s0-f0"
    assert len(training.tallies["keras"].accuracies) == FOLDS
