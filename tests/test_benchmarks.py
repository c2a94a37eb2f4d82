"""Smoke tests: each contender of the benchmarks trains a few steps. The measured times have no meaning."""

import os
import random
import re
import sys
import time
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image

from benchmarks import (
    driver_memory,
    epochs,
    errors,
    few_pictures,
    fine_tuning,
    grouped_promotions,
    groups,
    job,
    label_errors,
    large_data,
    near_copies,
    nights,
    predicting,
    promotion,
    record,
    search,
    store,
    survival,
    warm_start,
)
from benchmarks.digits import write_digits
from benchmarks.record import TUNE
from benchmarks.training import RATIOS, Contender, contenders, run
from mnist_lib.data.dataset import Dataset
from mnist_lib.data.table import Table
from mnist_lib.spec import TrialSpec
from mnist_lib.store.champions.promotion import Rule
from mnist_lib.training.assignment import Resources
from tests.support.results import trial_result

pytestmark = [pytest.mark.slow, pytest.mark.long]


@pytest.fixture(scope="module")
def digits_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("bench") / "digits.npz"
    assert write_digits(file, source=None, images=200) == (200, 1_000)
    return file


# One of each program, and its other forms where they are other code.
SMOKE = {contender.script: contender for contender in reversed(contenders(threads=1))}
USAGE_TAIL = ("floor, oneDNN, bfloat16", "ours keras, 2 replicas", "cnn: ours, bfloat16")
CHOSEN = [*SMOKE.values(), *(contender for contender in contenders(threads=1) if contender.name in USAGE_TAIL)]


@pytest.mark.parametrize("contender", CHOSEN, ids=lambda contender: contender.name)
def test_each_contender_runs_and_its_model_learns(contender: Contender, digits_file: Path) -> None:
    if not Path(contender.python).exists():
        pytest.skip("the environment of this peer is missing; run `make bench`")
    begin = time.monotonic()
    result = run(contender, digits_file, epochs=3)
    assert len(result.seconds) == 2  # the first epoch is warm-up
    assert 1e-4 < min(result.seconds) <= sum(result.seconds) < time.monotonic() - begin
    if "RMSprop" in contender.name or contender.name.startswith(("ours keras", "keras.fit")):
        assert result.correct > 300  # of 1,000; with SGD, or with moving averages, a few steps are not enough


@pytest.mark.parametrize("name", ["--help", "the notebook's cells, 1 epoch"])
def test_each_command_runs_and_is_timed(name: str, digits_file: Path, tmp_path: Path) -> None:
    begin = time.monotonic()
    seconds, _ = job.run(job.commands(digits_file, tmp_path, "mnist-mini", threads=1, epochs=1)[name])
    assert seconds == pytest.approx(time.monotonic() - begin, abs=0.1)


def test_the_phases_of_a_job_take_no_longer_than_the_job(digits_file: Path, tmp_path: Path) -> None:
    command = job.commands(digits_file, tmp_path, "mnist-mini", threads=1, epochs=1)["the job: both models, 1 epoch"]
    seconds, _ = job.run(command)
    phases = job.phases_of_newest_run(tmp_path, seconds)
    assert {"start", "cluster", "import", "compile", "training", "store"} <= phases.keys()
    assert all(length >= 0 for length in phases.values())  # also what is left of the total


def test_the_errors_of_an_ensemble_are_listed_and_drawn() -> None:
    images = Table.of(np.zeros((4, 28, 28, 1), np.uint8), np.array([0, 1, 1, 1], np.uint8))
    by_seed = ([[0.9, 0.1], [0.1, 0.9], [0.8, 0.2], [0.9, 0.1]], [[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.4, 0.6]])
    results = [
        trial_result(
            TrialSpec.of("keras"), test=None, validation=None, history=(), probabilities=np.array(one, np.float32)
        )
        for one in by_seed
    ]
    found = errors.errors_of(results, Dataset.of("two", "1", images, images))
    assert [(error.index, error.label, error.predicted, error.by_every_seed) for error in found] == [
        *[(2, 1, 0, True), (3, 1, 0, False)]
    ]
    text = errors.errors_text(found)
    assert text == "The ensemble's errors, by index from 0: 2 (1, not 0), 3 (1, not 0). Every seed makes 1 of them."
    assert errors.draw_errors(found, np.asarray(images.images)).startswith(b"\x89PNG")


@pytest.mark.parametrize("name", store.SCRIPTS)
def test_each_way_to_publish_is_timed(name: str, tmp_path: Path) -> None:
    command = store.command(name, 2, tmp_path)
    if not Path(command[0]).exists():
        pytest.skip("the environment of this peer is missing; run `make bench`")
    _, printed = job.run(command)
    assert len(job.last_line(printed)["seconds"]) == 1


def test_the_rate_of_predictions_is_reported(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    predicting.write_pictures(tmp_path / "pictures", 120)
    predicting.train(tmp_path / "results")
    assert predicting.pictures_per_second(tmp_path / "results", tmp_path / "pictures") > 1
    assert "| 2,000 | 1,000 to 3,000 |" in predicting.report([1_000, 2_000, 3_000], 120)


def test_the_cost_of_a_kill_is_reported(tmp_path: Path) -> None:
    options = ("--models=scratch", "--epochs=60", "--checkpoint-seconds=0")
    undisturbed = survival.undisturbed_run(tmp_path / "undisturbed", None, *options)
    killed, repeated = survival.kill_workers(tmp_path / "killed", None, random.Random(1), *options)
    survival.require_same(undisturbed, killed)
    assert survival.epoch_seconds(tmp_path / "undisturbed") > 0
    report = survival.report([(0.006, 0.01), (0.03, 0.02)], {"a worker": [1.0]}, undisturbed, 0, [0.5, *repeated])
    assert "18 ms for each, and at the default, 0.03% of the time" in report
    assert f"{max([0.5, *repeated]):.1f}; bound 3 s; n = {1 + len(repeated)}; seed 0)" in report
    assert "| a worker | 1 | 1.0 | 1.0 to 1.0 |" in report


def test_the_memory_of_a_driver_whose_lanes_all_die_is_reported() -> None:
    options = ("--lanes=3", "--megabytes=2", "--interval=0.1")
    _, printed = job.run([sys.executable, "-m", "benchmarks.driver_memory", *options])
    assert "6 recorded, 3 trials resumed" in printed
    ((before, peak),) = re.findall(r"\| without what is shared with the object store \| (\d+) \| (\d+) \|", printed)
    assert 20 < int(before) < int(peak) < driver_memory.MAX_MEGABYTES


def test_a_further_trial_is_timed(digits_file: Path, tmp_path: Path) -> None:
    command = job.commands(digits_file, tmp_path, "mnist-mini", threads=1)["scratch: a further trial"]
    _, printed = job.run(command)
    assert len(job.last_line(printed)["seconds"]) == 5


def test_simulated_years_of_promotions_are_reported() -> None:
    assert "| 2% | equally good | 0.00% |" in promotion.report(years_each=1)


def test_more_pictures_replace_the_champion_sooner_than_significance() -> None:
    growth = promotion.Growth(0.1)
    (by_data, by_chance) = (
        [promotion.grow(seed, growth, 60, Rule(promote=when)) for seed in range(5)]
        for when in ("if-better", "if-significant")
    )
    assert sum(year.newest for year in by_data) < sum(year.deployed for year in by_data)
    assert 1.2 * sum(year.deployed for year in by_data) < sum(year.deployed for year in by_chance)
    no_gain = promotion.grow(0, promotion.Growth(0.05, power=0.0, scatter=0.1), 60)
    assert no_gain.worst < 1.5


@pytest.mark.usefixtures("tensorflow")
def test_accuracies_with_and_without_groups_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resources = Resources(cpus=2, cpu_replicas=2)  # as in the fixture
    spec = TrialSpec.of("keras", dataset="pictures", epochs=1, global_batch_size=32, arguments={"hidden_units": 16})
    report = groups.objects_report([groups.objects(0, resources, spec, count=30)])
    assert "| --group-by folder | " in report
    assert "n = 1 datasets" in report
    monkeypatch.setattr(groups, "DRAWN", 1)
    for file in Path(matplotlib.get_data_path(), "fonts/ttf").glob("*.ttf"):
        for part in ("calibration", "evaluation"):
            family = tmp_path / part / "fonts" / file.stem
            family.mkdir(parents=True)
            (family / file.name).symlink_to(file)
    report = groups.letters_report([groups.letters(0, tmp_path, resources, spec, fonts=(12, 12))])
    assert "| on other fonts | " in report


def test_near_copies_of_digits_letters_and_objects_are_counted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["near_copies", "--copies=10", "--datasets=1"])
    near_copies.main()
    printed = capsys.readouterr().out
    assert "| digits | saved again | 10 | 100.00% |" in printed
    assert "| letters | all of these | 10 |" in printed
    assert "n = 1 datasets" in printed


def test_the_interval_of_paired_differences_is_that_of_student() -> None:
    assert record.paired_difference_text([1.0, 2.0, 3.0]) == "+2.00 (-0.48 to +4.48)"
    assert record.paired_difference_text([1.5]) == "+1.50"


def test_chance_hardly_ever_decides_about_models_whose_test_images_come_in_groups() -> None:
    shares = [re.findall(r"(?<=\| )[\d.]+(?=%)", line) for line in grouped_promotions.report(40)]
    found = [[float(share) for share in row] for row in shares if row]
    assert len(found) == 6 + 6 + 5
    assert max(max(row[1:]) for row in found[:6]) <= 7.5  # 3 of 40
    assert max(max(row) for row in found[6:12]) <= 7.5
    assert min(row[0] for row in found[12:]) >= 85.0


@pytest.mark.usefixtures("tensorflow")
def test_each_rule_for_the_stored_epoch_chooses_another_one() -> None:
    right = [np.arange(100) < correct for correct in (60, 90, 80, 90, 88, 70)]
    right[4] = np.arange(100) >= 12  # differs from the maximum in 22 images
    assert epochs.chosen(right, [2.0, 0.9, 0.5, 1.0, 1.1, 3.0]) == [1, 3, 2, 5, 4, 4]
    right[4] = np.arange(100) < 88  # differs in two, both of them lost
    assert epochs.chosen(right, [2.0, 0.9, 0.5, 1.0, 1.1, 3.0]) == [1, 3, 2, 5, 4, 3]
    train, test = few_pictures.splits_of(None)
    found = epochs.accuracies("keras", 200, train, test, 0, Resources(cpus=2, cpu_replicas=2), epochs=8)
    assert all(0.5 < accuracy < 0.9 for accuracy in found)
    assert epochs.row("keras", 1_000, [found[:2], found[:2]]).startswith(f"| keras | 1,000 | {100 * found[0]:.2f}% |")


@pytest.mark.usefixtures("tensorflow")
def test_a_start_from_a_version_is_ahead_of_one_from_random_weights() -> None:
    train, test = few_pictures.splits_of(None)
    pair = warm_start.pair("keras", 1_100, 3, train, test, 0, Resources(cpus=2, cpu_replicas=2))
    scratch, warm = pair
    assert (len(scratch.accuracies), len(warm.accuracies)) == (45, 3)
    assert warm.accuracies[0] > scratch.accuracies[0] + 0.05
    assert warm.seconds_to(scratch.accuracies[0]) == warm.seconds[0]
    assert warm.seconds_to(1.1) == float("inf")
    assert warm_start.row("keras", 1_100, [pair, pair]).startswith("| keras | 1,100 | 45, 3 | ")


@pytest.mark.usefixtures("tensorflow")
def test_what_the_first_epochs_from_a_version_forget_is_reported() -> None:
    train, test = few_pictures.splits_of(None)
    found = warm_start.first_epochs("keras", 110, (1.0, 0.3), train, test, 0, Resources(cpus=2, cpu_replicas=2))
    rows = warm_start.rows_of_first_epochs("keras", 110, [found, found])
    assert [row.split(" | ")[1:3] for row in rows] == [
        [f"110, {pictures}", rate] for pictures in ("the same", "10% more") for rate in ("1", "0.3")
    ]
    assert all(abs(points) < 5 for points in found["the same", 0.3].points)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_first_review_finds_most_wrong_labels(tmp_path: Path) -> None:
    task = label_errors.TASKS["digits"]
    label_errors.write(tmp_path / "x", task.kind, 0, None, lambda *_: Image.new("L", (8, 8)))
    found = label_errors.review(tmp_path / "x", task, "keras-cnn")
    assert found.share > 0.75  # of random reviews: 5%
    assert found.named_wrong > found.named / 2
    row = label_errors.row("digits", "keras-cnn", [found])
    assert row.startswith("| digits, 5% wrong | keras-cnn | ")
    assert row.endswith(f" | 1 | 85% | {found.named_wrong} of {found.named} |")


def test_both_sides_of_every_ratio_are_contenders() -> None:
    names = {contender.name for contender in contenders(threads=1)}
    assert all({ratio.ours, ratio.peer} <= names for ratio in RATIOS)


def test_the_nights_say_which_way_of_reviewing_was_better() -> None:
    gains = dict(zip(nights.WAYS, (0.01, 0.0), strict=True))  # of accuracy in each night
    ways = {way: [nights.Night(400, 20 * n, 30 - n, 0.8 + gain * n) for n in range(12)] for way, gain in gains.items()}
    text = nights.report(ways)
    assert "| 12 | 400 | 220 | 19 | 91.00% | 19 | 80.00% |" in text
    assert "In the last 10 nights, the models of jobs.review were 6.50 percentage points better" in text
    assert "n = 1 series" in text
    assert nights.draw(ways).startswith(b"\x89PNG")


@pytest.mark.parametrize(("script", "more"), [("search_tune.py", ()), ("search_optuna.py", ("2",))])
def test_each_rival_of_the_search_ends_when_it_is_asked_to(
    script: str, more: tuple[str, ...], digits_file: Path, tmp_path: Path
) -> None:
    if not Path(TUNE).exists():
        pytest.skip("the environment of this peer is missing; run `make bench`")
    found = search.rival(script, digits_file, 0, 60.0, tmp_path, *more)
    assert found.settings.keys() == {"learning_rate", "hidden_units", "batch_size", "optimizer"}
    assert found.configurations >= 1
    assert found.processor_seconds > 60


def test_what_searches_gain_on_few_pictures_has_an_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    sets = search.few_pictures(None, None)
    assert [(name, pictures.train, pictures.test) for name, pictures in sets.items()] == [
        *[("letters", 890, 2_000), ("colour scenes", 338, 2_000), ("1,000 digits", 1_000, 2_000)]
    ]
    found = iter([search.Gain(90.0, 92.0, 20, 299.0), search.Gain(91.0, 92.0, 30, 299.0)])
    monkeypatch.setattr(search, "gain", lambda *_: next(found))
    *_, row, _, bounds = search.on_sets({"letters": sets["letters"]}, ["keras"], range(2), 300.0)
    assert row == "| letters | keras | 90.50% | 92.00% | +1.50 (-4.85 to +7.85) | 25 | 299 |"
    assert bounds == "The lowest lower end is -4.85 points (bound -0.5); 0 of 1 are above 0 (bound 2)."


def test_the_searches_are_compared_by_their_winners() -> None:
    found = {name: [search.Found({}, 10 * n, 100.0) for n in (1, 2)] for name in (search.ASHA, search.HYPERBAND)}
    found |= {search.OURS: [search.Found({}, 30, 100.0), search.Found({}, 100, 100.0)]}
    accuracies = {search.OURS: [0.98, 0.982], search.ASHA: [0.981, 0.98], search.HYPERBAND: [0.97, 0.98]}
    record = search.report(found, accuracies, 10, 2)
    assert "| jobs.search | 98.10% | 98.00% to 98.20% | 65 | 100 |" in record
    assert "Ray Tune, ASHA, fit: +0.05 points on average (bound 0), -0.10 to +0.20 (bound -0.1); 4.0 times" in record


@pytest.mark.long
def test_training_on_large_data_is_compared_with_memory_and_disk(capsys: pytest.CaptureFixture[str]) -> None:
    large_data.main(["--gigabytes", "0.05", "--disk-seconds", "0.2"])
    table = capsys.readouterr().out
    found = dict(re.findall(r"\| ([^|]+?) \| ([\d,.]+)", table))
    assert len(found) == 5, table
    assert all(float(value.replace(",", "")) > 0 for value in found.values())


@pytest.mark.mnist
@pytest.mark.usefixtures("tensorflow")
def test_a_start_from_digits_is_better_on_a_few_letters() -> None:
    resources = Resources(cpus=2, cpu_replicas=2)
    digits = fine_tuning.digits_weights(*few_pictures.splits_of(Path(os.environ["MNIST_SOURCE"])), resources, epochs=2)
    scratch, start = (
        fine_tuning.accuracy(5, 0, digits, resources, **fine_tuning.STARTS[name])
        for name in ("random weights", "weights of digits")
    )
    assert start > scratch
