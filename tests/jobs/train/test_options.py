"""The options of jobs.train: values, files, refusals and help."""

import os
import re
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import yaml

from jobs import SOURCE_FOLDERS
from jobs.console.exit_codes import UsageError
from jobs.console.options import flags_of, parse, parser
from jobs.train.__main__ import main, require_time_left
from jobs.train.commands import configuration, options_types
from jobs.train.options import TrainOptions
from jobs.train.plan import Plan
from mnist_lib.environment import code_version
from mnist_lib.errors import SpecError
from mnist_lib.objects.local import LocalObjects
from mnist_lib.results import TrialStarted
from mnist_lib.settings import options_of
from mnist_lib.store.opening import open_run
from tests.support.bounds import at_most_processor_seconds
from tests.support.job import ROOT
from tests.support.pictures import classes, write_folder


def options(*arguments: str) -> TrainOptions:
    parsed: TrainOptions = parse("jobs.train", TrainOptions, arguments)
    return parsed


def plan(*arguments: str) -> Plan:
    return Plan.of(options(*arguments))


def test_without_arguments_keras_and_scratch_train_on_mnist_mini() -> None:
    assert [trial.id for trial in plan().trials] == ["keras-s0", "scratch-s0"]
    assert options() == TrainOptions()


@pytest.mark.parametrize("kind", options_types())
@pytest.mark.parametrize("dataset", ["./letters", "s3://bucket/letters", "tfds:leaves"])
def test_pictures_of_the_user_are_trained_on_with_one_network_that_suits_them(
    kind: type[TrainOptions], dataset: str
) -> None:
    assert parse(kind.COMMAND, kind, [f"--dataset={dataset}"]).models == ("keras-resnet",)
    assert parse(kind.COMMAND, kind, [f"--dataset={dataset}", "--models=keras"]).models == ("keras",)
    assert parse(kind.COMMAND, kind, ["--dataset=mnist"]).models == kind.CATALOG_MODELS


@pytest.mark.parametrize(
    ("arguments", "seeds"),
    [
        ([], [0]),
        (["--seeds=3"], [0, 1, 2]),
        (["--seeds=2", "--seed=7"], [7, 8]),
        (["--seeds=4,8"], [4, 8]),
        (["--seeds=5,"], [5]),
    ],
)
def test_seeds_are_a_count_or_a_list(arguments: list[str], seeds: list[int]) -> None:
    assert [trial.seed for trial in plan("--models=keras", *arguments).trials] == seeds


@pytest.mark.parametrize(
    ("arguments", "threads"),
    [
        (["--models=keras-cnn"], [2]),
        (["--models=keras,keras-cnn"], [4, 2]),
        (["--models=keras-cnn", "--batch-size=127"], [4]),
        (["--models=keras-cnn", "--cpu-replicas=2"], [2]),
    ],
)
def test_each_trial_has_the_threads_of_its_own_model(arguments: list[str], threads: list[int]) -> None:
    given = plan("--seeds=1", *arguments)
    resources = given.options.resources(cpus=4, gpus=0)
    assert [resources.threads_for(spec) for spec in given.trials] == threads


@pytest.mark.parametrize(
    ("arguments", "microbatches"),
    [
        ([], {"keras": 1, "keras-cnn": 2}),
        (["--cpu-replicas=2"], {"keras": 1, "keras-cnn": 2}),
        (["--gpus-per-trial=0"], {"keras": 1, "keras-cnn": 2}),
        (["--gpus-per-trial=1"], {"keras": 1, "keras-cnn": 1}),
        (["--batch-size=127"], {"keras": 1, "keras-cnn": 1}),
    ],
)
def test_large_batches_are_divided_unless_gpus_are_asked_for(
    arguments: list[str], microbatches: dict[str, int]
) -> None:
    given = plan("--seeds=1", "--models=keras,keras-cnn", *arguments)
    assert {spec.model: spec.microbatches for spec in given.trials} == microbatches


@pytest.mark.parametrize("images", [300, 60_000])
def test_the_terms_of_a_run_do_not_depend_on_whether_the_number_of_images_is_known(images: int) -> None:
    given = plan("--dataset=./pictures", "--models=keras-cnn")
    resolved = given.resolve_defaults(lambda: images)
    assert [spec.microbatches for spec in resolved.trials] == [1 if images == 300 else 2]
    assert given.terms({"sha256": "x"})["trials"]["keras-cnn-s0"]["microbatches"] is None


@pytest.mark.parametrize("seeds", ["0", "-1", "100001", "2,2"])
def test_impossible_seeds_are_refused(seeds: str) -> None:
    with pytest.raises(SpecError, match="seeds"):
        plan(f"--seeds={seeds}").check()


@pytest.mark.parametrize(
    ("images", "epochs", "batch_size"),
    [
        *((1, 80, 16), (300, 80, 16), (511, 80, 16), (512, 80, 32), (625, 80, 32), (1_000, 50, 32)),
        *((1_250, 40, 64), (2_000, 40, 64), (2_048, 39, 128), (4_000, 20, 128), (60_000, 5, 128)),
    ],
)
def test_few_images_are_trained_on_for_more_epochs_in_smaller_batches(
    images: int, epochs: int, batch_size: int
) -> None:
    resolved = plan("--dataset=./pictures").resolve_defaults(lambda: images)
    assert (resolved.options.epochs, resolved.options.global_batch_size) == (epochs, batch_size)
    assert {(trial.epochs, trial.global_batch_size) for trial in resolved.trials} == {(epochs, batch_size)}


def test_epochs_and_batch_size_that_are_given_are_kept_for_any_number_of_images() -> None:
    resolved = plan("--dataset=./pictures", "--batch-size=64").resolve_defaults(lambda: 300)
    assert (resolved.options.epochs, resolved.options.global_batch_size) == (80, 64)
    given = plan("--dataset=./pictures", "--batch-size=64", "--epochs=7")
    not_counted = partial(pytest.fail, "the images were counted, though nothing depends on them")
    assert given.resolve_defaults(not_counted) == given


def test_a_learning_rate_that_follows_from_the_images_is_not_one_that_was_given() -> None:
    code, folder = {"sha256": "0" * 64}, "--dataset=./pictures"
    assert plan(folder).terms(code) != plan(folder, "--learning-rate=0.01").terms(code)
    assert plan(folder, "--batch-size=16").trials[0].learning_rate == 0.005


def test_the_catalog_knows_its_numbers_of_images_and_a_folder_is_counted() -> None:
    digits = plan("--dataset=sklearn-digits").resolve_defaults()
    assert (digits.options.epochs, digits.options.global_batch_size) == (40, 64)
    assert plan("--dataset=./pictures").resolve_defaults().options.unresolved == ["epochs", "global_batch_size"]


def test_a_run_whose_epochs_follow_from_its_images_is_not_one_with_as_many_that_were_given() -> None:
    code, folder = {"sha256": "0" * 64}, "--dataset=./pictures"
    assert plan(folder).terms(code) != plan(folder, "--epochs=5", "--batch-size=128").terms(code)


def test_folds_are_trials_and_a_refit_is_one_more_for_each_model_and_seed() -> None:
    trials = plan("--models=keras", "--seeds=2", "--folds=3").trials
    assert [trial.id for trial in trials] == [f"keras-s{seed}-f{fold}" for seed in (0, 1) for fold in (0, 1, 2)]
    refit = plan("--models=keras", "--seeds=2", "--folds=3", "--refit").trials
    assert (refit[:6], [trial.id for trial in refit[6:]]) == (trials, ["keras-s0", "keras-s1"])
    assert {trial.validation_percent for trial in refit} == {0}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--folds=1"], "folds: expected a whole number from 2 to 1000, got 1"),
        (["--refit"], "refit: expected --folds with it, got none; without folds, leave it out"),
        (
            ["--folds=3", "--validation-percent=20"],
            "validation_percent: expected none with --folds, which hold out each image once, got 20; leave out one",
        ),
    ],
)
def test_folds_that_are_impossible_are_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        plan(*arguments).check()


def test_changes_of_images_are_one_value_although_commas_join_them() -> None:
    changes = "photos,flip=horizontal,rotate=10"
    assert {trial.augment for trial in plan("--augment", changes, "--models=keras,keras-cnn").trials} == {changes}
    assert {trial.augment for trial in plan().trials} == {"auto"}


def test_flags_override_the_file_which_overrides_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(
        yaml.safe_dump({"epochs": 7, "batch_size": 32, "seeds": [1, 3], "models": ["scratch"], "json": True})
    )
    parsed = options("--config", str(file), "--epochs", "9")
    assert (parsed.epochs, parsed.global_batch_size, parsed.seeds, parsed.models, parsed.json) == (
        9,
        32,
        (1, 3),
        ("scratch",),
        True,
    )
    assert parsed.dataset == "mnist-mini"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("epoch: 3\n", "--epoch is not an option; did you mean --epochs?"),
        ("epochs: 1.5\n", "expected a whole number, got 1.5"),
        ("models: [1, 2]\n", "models: expected names such as a,b, got [1, 2]"),
        ("models: 5\n", "models: expected names such as a,b, got 5"),
        ("seeds: true\n", "seeds: expected a whole number, got True"),
        ("seeds: 1.5\n", "seeds: expected a whole number, got 1.5"),
        ("learning_rate: true\n", "learning_rate: expected a number, got True"),
        ("plan: maybe\n", "plan: expected true or false, got 'maybe'"),
        ("dataset: !!python/object/apply:os.system ['touch canary']\n", "python"),
        ("[", "config"),
        ("models: " + "[" * 1_000, "config"),
        ("epochs: 3 #" + "x" * 1_100_000, "expected a file of at most 100,000 bytes, got a larger one"),
    ],
)
def test_i4_an_invalid_configuration_file_gives_one_error_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text(content)
    with at_most_processor_seconds(1), pytest.raises(UsageError) as error:
        options("--config", "config.yaml")
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epoch", "3"], "--epoch is not an option; did you mean --epochs?"),
        (["--zzz"], "--zzz is not an option; --help lists all options"),
        (
            ["--models", "keras", "scratch", "--seeds", "2"],
            "expected an option, got 'scratch'; separate several values by commas, as in --models keras,scratch",
        ),
        (["--dataset", "mnits"], "dataset: 'mnits' is not known; did you mean mnist?"),
        (["--models", "keras,scrach"], "model: 'scrach' is not known; did you mean scratch?"),
        (["--epochs", "0"], "epochs: expected a whole number from 1 to 100000, got 0"),
        (["--epochs", "x"], "epochs: expected a whole number, got 'x'"),
        (["--learning-rate", "nan"], "learning_rate: expected a number from 1.2e-38 to 3.4e+38, got nan"),
        (["--learning-rate", "1e-50"], "learning_rate: expected a number from 1.2e-38"),
        (
            ["--learning-rate", "0.1,0.01"],
            "expected one value, got '0.1,0.01'; to try several, use python -m jobs.search",
        ),
        (["--augment", "photos,turn=3"], "augment: expected auto, none, digits, photos, or a list such as"),
        (["--seeds", " "], "seeds: expected a whole number, got ' '"),
        (["--cpus-per-trial", "0"], "cpus_per_trial: expected a whole number from 1 to 4096, got 0"),
        (["--gpus-per-trial", "-1"], "gpus_per_trial: expected a whole number from 0 to 64, got -1"),
        (["--run-name", "../x"], "run_name: expected"),
        (["--lr", "0.1"], "--lr is not an option; did you mean --learning-rate?"),
        (["--data-dir", "/nowhere/tfds"], "data_dir: expected an existing folder, got /nowhere/tfds; create it"),
        (
            ["--finish-by=2020-01-01T06:00:00Z"],
            "finish_by: expected a time in the future, got 2020-01-01T06:00:00Z; it",
        ),
    ],
)
def test_i1_an_invalid_option_is_refused_in_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    (line,) = shown.err.splitlines()
    assert line.startswith("error[E-USAGE] ")
    assert message in line


@pytest.mark.parametrize("argument", ["--epoch=3", "--data-dir=/nowhere/tfds"])  # found by the parser, and by a check
def test_i2_an_invalid_option_is_refused_within_2_seconds_without_loading_ray(argument: str) -> None:
    code = (
        "import sys; from jobs.train.__main__ import main; status = main(sys.argv[1:]);"
        "assert not {'ray', 'tensorflow', 'numpy'} & set(sys.modules); sys.exit(status)"
    )
    with at_most_processor_seconds(2):
        done = subprocess.run([sys.executable, "-c", code, argument], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr


@pytest.mark.parametrize("name", [None, "nightly"])
def test_a_run_that_began_before_the_time_in_finish_by_is_resumed_after_it(tmp_path: Path, name: str | None) -> None:
    given = plan("--finish-by=2020-01-01T06:00:00Z", f"--storage={tmp_path}", *([f"--run-name={name}"] if name else []))
    with pytest.raises(UsageError, match="finish_by"):
        require_time_left(given, time.time())
    terms = given.terms(code_version(SOURCE_FOLDERS))
    with open_run(
        LocalObjects(tmp_path), name, dataset="mnist-mini", terms=terms, command="jobs.train", configuration=""
    ):
        pass
    require_time_left(given, time.time())


def test_resuming_with_another_dataset_names_both(tmp_path: Path) -> None:
    code, objects = code_version(SOURCE_FOLDERS), LocalObjects(tmp_path / "results")
    write_folder(tmp_path / "letters", classes("a", "b"))
    began, other = (plan(f"--dataset={name}", "--models=keras") for name in (f"{tmp_path}/letters", "mnist-mini"))
    terms = began.terms(code)
    with open_run(objects, "r", dataset="letters", terms=terms, command="jobs.train", configuration="") as folder:
        folder.append_history(TrialStarted(trial="keras-s0", pid=1, node="n", devices=(), gpus=()))
    with (
        pytest.raises(SpecError, match="got dataset mnist-mini instead of letters; choose"),
        open_run(objects, "r", dataset="mnist-mini", terms=other.terms(code), command="jobs.train", configuration=""),
    ):
        pass


def test_help_names_every_option_with_its_default() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "jobs.train", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "COLUMNS": "110"},
    )
    entries = [" ".join(entry.split()) for entry in done.stdout.split("\n  -")]
    for option, field in options_of(TrainOptions).items():
        name = f"-{option.replace('_', '-')}"
        (entry,) = [entry for entry in entries if entry.startswith((f"{name} ", f"{name},"))]
        names_default = "(default: " in entry
        assert names_default == (
            (field.default is not None and field.default is not False) or "(default: " in field.metadata["help"]
        )


def test_the_stored_configuration_gives_the_same_options(tmp_path: Path) -> None:
    given = options("--seeds=4,8", "--learning-rate=0.1", "--allow-cpu", "--data-dir=/data", "--cpus-per-trial=2")
    given = options(*flags_of(configuration(given)), "--dataset=/x", "--group-by=^a/(b[0-9]+)'s 100%")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(configuration(given)))
    assert options("--config", str(tmp_path / "config.yaml")) == given


def test_a_flag_in_a_configuration_file_can_be_overridden(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("json: true\n")
    assert options("--config", str(tmp_path / "config.yaml")).json
    assert not options("--config", str(tmp_path / "config.yaml"), "--no-json").json


def test_a_stored_configuration_lists_the_options_in_the_order_of_the_help() -> None:
    words = re.findall(r"^  --(?:no-)?([a-z-]+)", parser("jobs.train", TrainOptions).format_help(), re.MULTILINE)
    shown = [word.replace("-", "_") for word in words]
    stored = [*configuration(TrainOptions())]
    assert stored == [name for name in shown if name in stored]
    assert stored[0] == "models"
