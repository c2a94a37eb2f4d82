"""The options of a search, and the trials that its configurations stand for."""

import dataclasses
import json
from pathlib import Path

import pytest
import yaml

from jobs.console.options import parse
from jobs.search.__main__ import main, plan_document, plan_lines, search_lines
from jobs.search.halving import Ladder
from jobs.search.plan import FOLDS, MIN_WITHOUT_FOLDS, SearchOptions, SearchPlan
from jobs.train.commands import configuration, job_options
from jobs.train.options import TrainOptions
from jobs.train.plan import Plan
from jobs.train.planning import with_warm_starts
from mnist_lib.data.reading.folder import Volume
from mnist_lib.spec import BY_IMAGES_TEXT
from tests.support.bounds import at_most_processor_seconds
from tests.support.simulation.memory import MemoryObjects
from tests.support.store.scenarios import published
from tests.support.store.summaries import small_summary, small_trial, successful_trial, summary_of

RATE = "--vary=learning_rate=1e-4..1e-1:log"


def plan(*arguments: str) -> SearchPlan:
    found = SearchPlan.of(parse("jobs.search", SearchOptions, arguments))
    found.check()
    return found


def test_a_configuration_is_a_trial_with_its_settings() -> None:
    given = plan(RATE, "--vary=hidden_units=16,32", "--vary=batch_size=32..256:log", "--vary=optimizer=sgd,adam")
    settings = given.variation.configuration(5, seed=0)
    spec = given.trial(settings, 5)
    assert (spec.id, spec.configuration, spec.seed, spec.epochs) == ("keras-c5", 5, 0, 5)
    assert spec.learning_rate == settings["learning_rate"]
    assert spec.arguments == {"hidden_units": settings["hidden_units"]}
    assert (spec.global_batch_size, spec.optimizer) == (settings["batch_size"], settings["optimizer"])


def test_the_result_names_the_drop_from_the_search_to_the_test() -> None:
    search = {
        "settings": {},
        "configurations": 9,
        "epochs": 27,
        "validation": {"correct": 891, "total": 1_000},
        "defaults": {"correct": 871, "total": 1_000},
        "train": [],
    }
    trial = successful_trial(0, validation={"correct": 864, "total": 1_000}, test_accuracy=0.797)
    summary = summary_of(small_summary(search=search, trials=[trial, small_trial(1)]))
    _, line, gain, _ = search_lines(summary)
    assert gain == "  The default settings: 87.10% on the same images, so the search has gained +2.00 points"
    search["defaults"] = search["validation"]
    same = summary_of(small_summary(search=search, trials=[trial]))
    assert search_lines(same)[2] == "  No other settings are better than the default ones by more than chance"
    expected = "89.10% in the search, 86.40% on average with fresh seeds; on test 79.70%, -9.40 points from the search"
    assert line == f"  Validation accuracy: {expected}"


def test_the_result_of_folds_says_that_its_score_is_out_of_fold() -> None:
    search = {"settings": {}, "configurations": 9, "epochs": 27, "train": [], "folds": 5}
    search["validation"] = {"correct": 210, "total": 280}
    trial = successful_trial(0, validation=None, test_accuracy=0.797)
    _, line, _ = search_lines(summary_of(small_summary(search=search, trials=[trial])))
    assert line == "  Out-of-fold accuracy, 5 folds: 75.00% in the search; on test 79.70%, +4.70 points from the search"


def test_trials_of_a_search_start_from_the_version_that_was_found_and_so_does_its_command() -> None:
    version = published(MemoryObjects(), 150)
    given = with_warm_starts(plan(RATE, "--init-from=keras@champion"), {"keras": version})
    settings = given.variation.configuration(3, seed=4)
    for spec in (given.trial(settings, 3), *given.finals(settings), *given.trials):
        assert (spec.init_from, spec.init_sha256) == ("keras@1", "0" * 64)
    assert "--init-from=keras@1" in given.train_flags(settings)


def test_final_trials_have_the_settings_of_the_winner_and_fresh_seeds() -> None:
    given = plan(RATE, "--seed=4", "--final-seeds=2")
    settings = given.variation.configuration(3, seed=4)
    finals = given.finals(settings)
    assert [spec.id for spec in finals] == ["keras-s5", "keras-s6"]
    assert {spec.learning_rate for spec in finals} == {settings["learning_rate"]}
    assert {spec.configuration for spec in finals} == {None}


def test_epochs_batch_size_and_folds_follow_from_the_number_of_images() -> None:
    given = plan(RATE, "--dataset=./letters")
    few_plan = given.resolve_defaults(lambda: 890)
    few, many = few_plan.options, given.resolve_defaults(lambda: 60_000).options
    assert (few.epochs, few.global_batch_size, few.folds, few.percent_for_validation) == (56, 32, FOLDS, 0)
    assert (many.epochs, many.global_batch_size, many.folds, many.percent_for_validation) == (5, 128, None, 10)
    assert few_plan.halving().ladder == Ladder((6, 19, 56), 9, folds=FOLDS)
    assert given.resolve_defaults(lambda: MIN_WITHOUT_FOLDS - 1).options.folds == FOLDS
    assert given.resolve_defaults(lambda: MIN_WITHOUT_FOLDS).options.folds is None
    chosen_plan = plan(RATE, "--dataset=./letters", "--validation-percent=20", "--epochs=9")
    chosen = chosen_plan.resolve_defaults(lambda: 890).options
    assert (chosen.epochs, chosen.global_batch_size, chosen.folds, chosen.percent_for_validation) == (9, 32, None, 20)
    assert plan(RATE, "--dataset=./letters", "--folds=3").resolve_defaults(lambda: 60_000).options.folds == 3
    varied = plan("--vary=batch_size=32,64").resolve_defaults()
    assert varied.trial({}, 0).global_batch_size == 128  # that of the defaults


def test_the_first_configuration_has_the_default_settings() -> None:
    given = plan("--models=keras,keras-cnn", RATE, "--epochs=9")
    assert given.proposals()(0) == {"model": "keras"}
    smoothing = plan("--vary=label_smoothing=0,0.1", "--vary=hidden_units=16,32").resolve_defaults()
    propose = smoothing.proposals()
    assert (smoothing.halving().configurations, propose(0)) == (5, {})  # no combination has 512 units
    both = plan("--vary=label_smoothing=0,0.1", "--strategy=grid").resolve_defaults()
    assert [both.proposals()(number) for number in range(2)] == [{}, {"label_smoothing": 0.1}]
    assert both.halving().configurations == 2  # smoothing of 0 is the default


def test_a_plan_shows_the_rungs_for_the_number_of_pictures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    few = Volume(images=1_000, train=850, image_shape=(32, 32, 3), exact=False)
    many = dataclasses.replace(few, train=20_000, exact=True)
    for volume, rungs, line in (
        (few, [6, 19, 58], f"defaults for about 850 training images: --folds={FOLDS} --epochs=58 --batch-size=32"),
        (many, [1, 2, 5], "defaults for 20,000 training images: --epochs=5 --batch-size=128"),
        (None, [1, 2, 5], BY_IMAGES_TEXT),
    ):
        monkeypatch.setattr("jobs.search.__main__.volume_of", lambda _, volume=volume: volume)
        command = [RATE, f"--dataset={tmp_path}", f"--storage={tmp_path}", "--plan"]
        assert main(command) == 0
        assert line in capsys.readouterr().out.splitlines()
        assert main([*command, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["rungs"] == rungs
    assert main([*command, "--epochs=9", "--batch-size=16", "--validation-percent=10"]) == 0
    assert "defaults" not in capsys.readouterr().out.replace("the default settings", "")


@pytest.mark.parametrize("strategy", ["grid", "halving"])
def test_a_small_space_has_each_combination_once(strategy: str) -> None:
    space = "--vary=hidden_units=16,32,64", "--vary=optimizer=sgd,rmsprop", f"--strategy={strategy}"
    given = plan(*space, "--epochs=9", "--trials=7")
    halving = given.halving()
    found = [given.proposals()(number) for number in range(halving.configurations)]
    assert (found[1:] == given.variation.grid()) == (strategy == "grid")
    assert sorted(map(str, found)) == sorted(map(str, [{}, *given.variation.grid()]))
    fewer = plan(*space, "--epochs=9", "--trials=6").halving().configurations
    assert fewer == (7 if strategy == "grid" else 6)


def test_a_command_has_the_settings_that_follow_from_the_number_of_images() -> None:
    given = plan(RATE, "--vary=label_smoothing=0,0.1", "--dataset=./letters").resolve_defaults(lambda: 890)
    flags = given.train_flags({"label_smoothing": 0.1})
    assert {"--epochs=56", "--batch-size=32", "--validation-percent=0", "--label-smoothing=0.1"} < {*flags}


def test_a_time_limit_without_trials_leaves_the_number_of_configurations_open() -> None:
    assert plan(RATE).resolve_defaults().halving().configurations == 27
    limited = plan(RATE, "--max-seconds=60").resolve_defaults()
    assert limited.planned_configurations(limited.halving()) is None
    assert plan_lines(limited)[0] == (
        f"as many brackets of 9 configurations as the time allows, each trained {FOLDS} times,"
        " each time without one of the folds"
    )
    document = plan_document(limited)
    assert (document["configurations"], document["brackets"], document["epochs"]["search"]) == (None, None, None)
    given = plan(RATE, "--max-seconds=60", "--trials=100", "--epochs=9")
    assert given.planned_configurations(given.halving()) == 100
    finite = plan("--vary=hidden_units=16,32", "--max-seconds=60").resolve_defaults()
    assert finite.planned_configurations(finite.halving()) == 3


def test_jobs_train_trains_with_the_settings_that_a_search_has_found() -> None:
    vary = ("--vary=learning_rate=1e-4..1e-1:log", "--vary=width=8,16", "--vary=momentum=0.1..0.9")
    models = "--models=keras,keras-resnet"
    given = plan(models, *vary, "--optimizer=sgd", "--model-arg=blocks=1", "--dataset=sklearn-digits")
    for number in range(10):
        settings = given.variation.configuration(number, seed=0)
        trained = Plan.of(parse("jobs.train", TrainOptions, [*given.train_flags(settings), "--seeds=1,"]))
        assert trained.trials == given.finals(settings)[:1]


def test_an_argument_of_the_users_model_may_have_the_name_of_another_option(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def net(image_shape, num_classes, channels=8):\n    return []\n")
    given = plan(f"--models={tmp_path}/mine.py:net", "--vary=channels=16,32")
    model = f"--models={tmp_path}/mine.py:net"
    assert given.train_flags({"channels": 32}) == [
        "--validation-percent=10",
        "--model-arg=channels=32",
        model,
    ]


def test_models_vary_and_have_their_own_arguments() -> None:
    given = plan("--models=keras,keras-resnet", "--vary=width=8,16", "--vary=hidden_units=16,32", "--trials=30")
    specs = [given.trial(given.variation.configuration(number, 0), number) for number in range(30)]
    assert {spec.model for spec in specs} == {"keras", "keras-resnet"}
    assert {tuple(spec.arguments) for spec in specs if spec.model == "keras"} == {("hidden_units",)}
    assert {tuple(spec.arguments) for spec in specs if spec.model == "keras-resnet"} == {
        ("width", "blocks", "positions")
    }


@pytest.mark.parametrize(
    ("arguments", "microbatches"), [([], 2), (["--gpus-per-trial=1"], 1), (["--dataset=./pictures"], 2)]
)
def test_configurations_with_other_batch_sizes_have_equally_divided_batches(
    arguments: list[str], microbatches: int
) -> None:
    given = plan("--models=keras-cnn", "--vary=batch_size=16,64,128,256", *arguments)
    settings = [{"batch_size": size} for size in (16, 64, 128, 256)]
    assert {given.trial(each, number).microbatches for number, each in enumerate(settings)} == {microbatches}
    gpus = [argument for argument in arguments if "gpus" in argument]
    for each in settings:  # the final trials are those of jobs.train
        trained = Plan.of(parse("jobs.train", TrainOptions, [*given.train_flags(each), *gpus, "--seeds=1,"]))
        assert trained.trials == given.finals(each)[:1]


@pytest.mark.parametrize("value", [0, 0.1])
def test_label_smoothing_varies(value: float) -> None:
    given = plan("--vary=label_smoothing=0,0.1")
    assert given.trial({"label_smoothing": value}, 0).label_smoothing == value
    assert ("--label-smoothing=0.1" in given.train_flags({"label_smoothing": value})) == bool(value)


def test_momentum_varies_where_the_optimizer_has_it() -> None:
    given = plan("--vary=momentum=0.5..0.9", "--vary=optimizer=sgd,adam")
    specs = [given.trial(given.variation.configuration(number, 0), number) for number in range(20)]
    assert {spec.optimizer for spec in specs if spec.momentum} == {"sgd"}
    assert {spec.optimizer for spec in specs if not spec.momentum} == {"adam"}


def test_without_trials_27_configurations_are_tried_or_each_of_fewer() -> None:
    assert plan(RATE).resolve_defaults().halving().configurations == 27
    assert plan("--vary=hidden_units=8,16,32").resolve_defaults().halving().configurations == 4  # with the defaults


def test_a_plan_says_how_long_configurations_are_trained() -> None:
    given = plan(RATE, "--trials=18", "--epochs=9")
    rates = [given.variation.configuration(number, seed=0)["learning_rate"] for number in range(3)]
    assert plan_lines(given) == [
        "18 configurations in 2 brackets",
        "  9 of the first bracket: up to epoch 1",
        "  3 of the first bracket: up to epoch 3",
        "  2 of the first bracket: up to epoch 9",
        "then the best one with 3 fresh seeds; 75 epochs in total",
        "configuration 0: the default settings",
        f"configuration 1: learning_rate {rates[1]}",
        f"configuration 2: learning_rate {rates[2]}",
    ]


def test_with_folds_each_configuration_is_trained_without_each_fold_and_the_winner_on_all_images() -> None:
    given = plan(RATE, "--trials=18", "--folds=5", "--epochs=9")
    lines = plan_lines(given)
    assert lines[0] == "18 configurations in 2 brackets, each trained 5 times, each time without one of the folds"
    assert lines[4] == "then the best one with 3 fresh seeds; 267 epochs in total"  # 5 times 48, and 27
    assert plan_document(given)["epochs"] == {"search": 240, "final": 27}
    settings = given.variation.configuration(0, seed=0)
    assert {(spec.fold, spec.validation_percent) for spec in given.finals(settings)} == {(None, 0)}
    trained = Plan.of(parse("jobs.train", TrainOptions, [*given.train_flags(settings), "--seeds=1,"]))
    assert trained.trials == given.finals(settings)[:1]
    assert given.terms({"sha256": "x"}) != plan(RATE, "--trials=18", "--folds=4").terms({"sha256": "x"})


def test_a_file_holds_the_space_and_the_command_line_overrides_it(tmp_path: Path) -> None:
    (tmp_path / "search.yaml").write_text("vary: {learning_rate: 1e-4..1e-1:log, hidden_units: [16, 32]}\n")
    given = plan(f"--config={tmp_path}/search.yaml", "--vary=hidden_units=64,128")
    assert given.variation.document() == {"learning_rate": "0.0001..0.1:log", "hidden_units": [64, 128]}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "vary: expected at least one setting"),
        (["--vary=learning_rat=1,2"], "vary: 'learning_rat' cannot vary; did you mean learning_rate?"),
        (["--vary=learning_rate=0..1:log"], "expected numbers above 0 for a logarithmic range"),
        (["--vary=learning_rate=2..1"], "expected two finite numbers, the lower one first"),
        (["--vary=learning_rate=-1,1"], "learning_rate: expected a number from 1.2e-38 to 3.4e+38, got -1"),
        (["--vary=optimizer=sgd,adm"], "optimizer: 'adm' is not known; did you mean adam?"),
        (["--vary=learning_rate=abc"], "learning_rate: expected a number from 1.2e-38 to 3.4e+38, got 'abc'"),
        (["--vary=momentum=abc", "--optimizer=sgd"], "momentum: expected a number from 0 to below 1, got 'abc'"),
        ([f"--vary=hidden_units=1..{'9' * 80}"], "model_arg: hidden_units: expected a number up to 1e+09"),
        ([f"--vary=hidden_units=1..{'9' * 400}"], "hidden_units: expected two finite numbers"),
        ([RATE, "--model-arg=typo=3"], "model_arg: expected an argument of keras, got typo"),
        (["--vary=hidden_units=0..8"], "hidden_units: expected a whole number from 1 to 65536, got 0"),
        (["--vary=batch_size=0.5,2"], "batch_size: expected a whole number from 1 to 1000000, got 0.5"),
        (["--vary=model=scratch"], "vary: model: expected one of --models keras, got 'scratch'"),
        ([RATE, "--strategy=hyperband"], "strategy: 'hyperband' is not known"),
        ([RATE, "--strategy=grid"], "expected a list of values for a grid, got a range"),
        ([RATE, "--learning-rate=0.1"], "vary: learning_rate: expected values to try or a fixed value, got both"),
        (["--vary=hidden_units=8,16", "--model-arg=hidden_units=8"], "vary: hidden_units: expected values to try"),
        ([RATE, "--trials=0"], "trials: expected a whole number from 1 to 10000, got 0"),
        ([RATE, "--final-seeds=0"], "final_seeds: expected a whole number from 1 to 1000, got 0"),
        ([RATE, "--validation-percent=0"], "validation_percent: expected 1 or more"),
        ([RATE, "--folds=5", "--validation-percent=20"], "validation_percent: expected none with --folds"),
        (
            [
                f"--vary=batch_size={','.join(map(str, range(1, 1001)))}",
                "--strategy=grid",
                f"--vary=hidden_units={','.join(map(str, range(1, 1001)))}",
                f"--vary=learning_rate={','.join(str(n / 1000) for n in range(1, 1001))}",
            ],
            "expected at most 10,000 combinations for a grid, got 1,000,000,000",
        ),
    ],
)
def test_an_invalid_search_is_reported_in_one_line_within_two_seconds(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with at_most_processor_seconds(2):
        assert main(arguments) == 2
    shown = capsys.readouterr()
    assert (shown.out, shown.err.count("\n")) == ("", 1), shown.err
    assert message in shown.err


def test_the_terms_of_a_search_have_every_model(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("def f(shape, classes, width=3): ...\n")
    arguments = ("--models", f"keras,{tmp_path}/own.py:f", RATE)
    before = plan(*arguments).terms({"sha256": "x"})
    assert [*before["trials"]] == ["keras-s0", "f-s0"]
    (tmp_path / "own.py").write_text("def f(shape, classes, width=4): ...\n")
    assert plan(*arguments).terms({"sha256": "x"}) != before


def test_the_stored_configuration_has_the_space(tmp_path: Path) -> None:
    given = plan(RATE, "--vary=hidden_units=16,32")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(configuration(given.options)))
    again = SearchPlan.of(parse("jobs.search", SearchOptions, [f"--config={tmp_path}/config.yaml"]))
    assert again.variation == given.variation
    assert type(job_options("", [], configuration(given.options))) is SearchOptions
