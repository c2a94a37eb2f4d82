"""Which stored versions the trials of a run start from, and that a resumed run starts from the same ones."""

import logging
from pathlib import Path

import numpy as np
import pytest

from jobs.console.options import parse
from jobs.train import worker
from jobs.train.options import TrainOptions
from jobs.train.plan import Plan
from jobs.train.planning import models_to_check, with_versions, with_warm_starts
from mnist_lib.data.corrections import UsedLabels
from mnist_lib.data.dataset import Dataset
from mnist_lib.errors import ModelError, SpecError
from mnist_lib.models.pretrained import Pretrained
from mnist_lib.objects.protocol import Objects
from mnist_lib.report.summary import dataset_summary
from mnist_lib.store.champions.challenge import promote
from mnist_lib.store.champions.promotion import Rule
from mnist_lib.store.contents import stored_weights
from mnist_lib.store.datasets import RunData, begin_with
from mnist_lib.store.opening import open_run
from mnist_lib.store.publishing import publish
from mnist_lib.store.runs import RunFolder
from tests.support.simulation.memory import MemoryObjects
from tests.support.store.fake_versions import DATASET, about, files
from tests.support.store.scenarios import published
from tests.support.stored import publish_untrained

MNIST = ("--models=keras", "--dataset=mnist")


@pytest.fixture
def objects() -> Objects:
    """A storage in which keras@2 is the champion of mnist, and keras@3 the newest version."""
    objects = MemoryObjects()
    versions = [published(objects, right) for right in (80, 150, 100)]
    for version in versions[:2]:
        promote(objects, version, Rule(promote="always"))
    return objects


def plan(*arguments: str) -> Plan:
    parsed = Plan.of(parse("jobs.train", TrainOptions, arguments))
    parsed.check()
    return parsed


def started(objects: Objects, *arguments: str, run: str = "r") -> Plan:
    """Return the plan of a run that has found the versions from which it starts."""
    return with_versions(plan(*arguments), RunFolder(objects, run))


def starts(objects: Objects, *arguments: str) -> dict[str, str | None]:
    return {trial.model: trial.init_from for trial in started(objects, *arguments).trials}


@pytest.mark.parametrize(
    ("name", "version"),
    [("keras@1", 1), ("keras@latest", 3), ("keras@champion", 2), ("keras", 2), ("@champion", 2), ("@latest", 3)],
)
def test_a_name_stands_for_a_version(objects: Objects, name: str, version: int) -> None:
    assert starts(objects, *MNIST, f"--init-from={name}") == {"keras": f"keras@{version}"}


@pytest.mark.parametrize(
    ("arguments", "rate"),
    [
        (["--dataset=mnist"], 0.0003),
        (["--dataset=mnist", "--learning-rate=0.001"], 0.001),
        (["--dataset=digits/"], 0.001),  # other pictures, and perhaps other classes
    ],
)
def test_the_default_learning_rate_is_lower_from_a_version_of_the_same_dataset(
    objects: Objects, arguments: list[str], rate: float
) -> None:
    (trial,) = started(objects, "--models=keras", "--init-from=keras@2", "--seeds=1", *arguments).trials
    assert trial.learning_rate == pytest.approx(rate)


def test_a_model_without_a_champion_starts_from_random_weights_and_the_log_says_so(
    objects: Objects, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    found = starts(objects, "--models=keras,scratch", "--dataset=mnist", "--init-from=@champion")
    assert found == {"keras": "keras@2", "scratch": None}
    assert starts(objects, "--models=scratch", "--dataset=mnist", "--init-from=@latest") == {"scratch": None}
    assert [record.message for record in caplog.records if "starts from" in record.message] == [
        "keras starts from the weights of keras@2, trained on mnist",
        "scratch starts from random weights, since it has no champion for mnist yet",
        "scratch starts from random weights, since it has no version yet",
    ]


def test_only_a_model_that_is_named_starts_from_the_champion_of_another_dataset(objects: Objects) -> None:
    assert starts(objects, "--models=keras", "--init-from=keras@champion") == {"keras": "keras@2"}
    assert starts(objects, "--models=keras", "--init-from=@champion") == {"keras": None}  # it is of mnist-mini
    facts = {**DATASET, "name": "mnist-mini"}
    publish(objects, "keras", "mini", files(30), {**about(right=30), "dataset": facts})
    assert starts(objects, "--models=keras", "--init-from=keras@champion") == {"keras": "keras@2"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("scratch@1", "init_from: expected a version of keras, got 'scratch@1'; name its model in --models"),
        ("keras@1,keras@2", "init_from: expected one version of keras, got keras@1 and keras@2"),
        ("@champion,keras@2", "init_from: expected one version of keras, got @champion and keras@2"),
        ("keras@best", "init_from: expected a version, such as keras@3 or @champion, got 'keras@best'"),
        ("@", "init_from: expected a version, such as keras@3 or @champion, got '@'"),
    ],
)
def test_a_name_that_cannot_be_one_is_refused_without_the_storage(name: str, expected: str) -> None:
    with pytest.raises(SpecError) as error:
        plan("--models=keras", f"--init-from={name}")
    assert str(error.value) == expected


def test_a_version_that_does_not_exist_is_refused_in_one_line(objects: Objects) -> None:
    with pytest.raises(SpecError, match="there is no keras@9 in memory"):
        started(objects, *MNIST, "--init-from=keras@9")
    with pytest.raises(SpecError, match="scratch has no champion in memory"):
        started(objects, "--models=scratch", "--init-from=scratch@champion")


@pytest.mark.slow
@pytest.mark.usefixtures("tensorflow")
def test_before_any_trial_a_version_has_to_fit_and_known_test_images_are_left_out(
    monkeypatch: pytest.MonkeyPatch, digits: Dataset
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    objects = MemoryObjects()
    publish_untrained(objects, "keras")  # with 16 hidden units

    def prepared(units: int) -> Dataset:
        found = started(objects, "--models=keras", "--init-from=keras@1", f"--hidden-units={units}")
        versions = [*found.warm_starts.values()]
        pretrained = Pretrained(
            versions={version.facts.weights_sha256: stored_weights(objects, version) for version in versions}
        )
        trained = {"keras@1": digits.test.hashes[:3]}
        preparation = worker.Preparation(request=found.options.data(), trained=trained)
        return worker.prepare_dataset(preparation, models_to_check(found), pretrained)[1]

    dataset = prepared(16)
    assert (len(dataset.train), len(dataset.test)) == (4_000, 997)
    (notice,) = dataset_summary(dataset, None).notices
    assert notice == "left out: 3 test images on which keras@1, from which a model starts, was trained"
    with pytest.raises(ModelError, match="keras: expected a model with the weights of keras@1, from which it starts"):
        prepared(8)


def test_a_resumed_run_starts_from_the_same_version_whatever_the_champion_is(objects: Objects) -> None:
    given = (*MNIST, "--init-from=keras@champion")
    terms, version = plan(*given).terms({"sha256": "0"}), published(objects, 199)

    def begin() -> RunFolder:
        with open_run(objects, None, dataset="mnist", terms=terms, configuration="", command="jobs.train") as folder:
            return folder

    folder = begin()
    run = started(objects, *given, run=folder.run)
    begin_with(folder, RunData(UsedLabels.of(b""), None, run.options.init_from or ()))
    promote(objects, version, Rule(promote="always"))
    assert begin().run == folder.run
    assert [trial.init_from for trial in started(objects, *given, run=folder.run).trials] == ["keras@2"]
    assert starts(objects, *given) == {"keras": "keras@4"}  # another run
    objects.delete("models/keras/commits/00000002.json")  # random weights would mix two kinds of trials in one run
    with pytest.raises(SpecError, match="there is no keras@2 in memory"):
        started(objects, *given, run=folder.run)


def with_backbone(path: Path, *arguments: str) -> Plan:
    np.savez(path, kernel=np.ones(3))
    return plan("--dataset=./pictures", "--models=keras-mobilenet", f"--weights=backbone={path}", *arguments)


def test_the_terms_of_a_run_do_not_hold_frozen_epochs_that_follow_from_the_number_of_images(tmp_path: Path) -> None:
    code = {"sha256": "x"}
    given = with_backbone(tmp_path / "file.npz")
    resolved = given.resolve_defaults(lambda: 300)
    assert [spec.freeze_epochs for spec in resolved.trials] == [20]
    assert given.terms(code)["trials"]["keras-mobilenet-s0"]["freeze_epochs"] is None
    assert given.terms(code) != with_backbone(tmp_path / "file.npz", "--freeze-epochs=0").terms(code)


def test_a_trial_from_a_version_uses_no_file_of_weights(tmp_path: Path) -> None:
    given = with_backbone(tmp_path / "file.npz", "--init-from=keras-mobilenet@champion")
    assert [[*spec.weights] for spec in given.trials] == [["backbone"]]
    (spec,) = with_warm_starts(given, {"keras-mobilenet": published(MemoryObjects(), 150)}).trials
    assert (spec.weights, spec.freeze_epochs, spec.init_sha256) == ({}, None, "0" * 64)
