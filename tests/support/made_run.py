"""Made-up results: complete runs for reports, and trials with chosen predictions for summaries."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from msgspec import structs

from mnist_lib.catalog import DIGITS
from mnist_lib.data.corrections import CorrectionCounts
from mnist_lib.data.dataset import Dataset
from mnist_lib.data.request import CountsBySplit, Growth
from mnist_lib.data.table import Labels, Table
from mnist_lib.documents import decode, encode
from mnist_lib.report.aggregation import Tally
from mnist_lib.report.evidence import ReportedRun
from mnist_lib.report.summary import Stored, dataset_summary, summarize
from mnist_lib.results import Accuracy, EpochDone, HistoryEntry, TrialFailure, TrialRecord, TrialResult, TrialStarted
from mnist_lib.run_documents import ChangesSummary, FailedTrial, SearchSummary, Significance, Summary, Timing
from mnist_lib.spec import TrialSpec, trial_grid
from mnist_lib.store.history import DriverConnected, SearchDocument, TrialEnded
from mnist_lib.store.runs import CONFIGURATION, SEARCH, RunFolder
from tests.support.results import failed_trial, trial_result
from tests.support.simulation.memory import MemoryObjects

NAUGHTY = "<script>alert(1)</script> & \"quotes\" of '{{ 7 * 7 }}'"
TIMING = Timing(wall_seconds=36.0, start_seconds=5.0, prepare_seconds=6.0, trials_seconds=24.5, store_seconds=0.5)
SIGNIFICANCE = Significance(total=0.05, left=0.039, comparisons=25)
FOUR_LABELS = np.array([0, 1, 2, 3], np.uint8)


def made_run(
    dataset: Dataset,
    *,
    seeds: int,
    failed: int = 0,
    models: tuple[str, ...] = ("keras", "scratch"),
    margin: float = 6.0,
    epochs: int = 8,
) -> ReportedRun:
    """Return a run as its driver gives it to the report, with random predictions for real images.

    Args:
        failed: number of failed trials, which are the last ones.
        margin: how much larger the logit of the label is on average; 6 gives about 90% accuracy, 12 about 100%.
    """
    rng = np.random.default_rng(0)
    specs = trial_grid(models, range(seeds), dataset=dataset.name, epochs=epochs)
    tallies: dict[str, Tally] = {}
    rows, now = [], 1_764_000_000.0
    history: list[HistoryEntry] = [DriverConnected(at=now - 6, phases={"start": 0.6, "cluster": 2.1})]
    for number, spec in enumerate(specs):
        lane, begin = number % 2, now + number // 2 * 9
        phases = {"import": 3.1, "data": 0.2, "compile": 1.4} if number < 2 else {"compile": 0.02}
        node, pid = f"node-{lane}/0123abcd", 100 + lane
        started = TrialStarted(at=begin, trial=spec.id, node=node, pid=pid, devices=(), gpus=(), phases=phases)
        history.append(started)
        outcome: TrialResult | TrialFailure = _result(spec, dataset, rng, margin)
        if number >= len(specs) - failed:
            outcome = TrialFailure(trial=spec.id, code="E-NAN", message=f"the loss is not a number: {NAUGHTY}")
        if isinstance(outcome, TrialResult):
            tally = tallies.get(spec.model)
            if tally is None:
                tallies[spec.model] = Tally(outcome)
            else:
                tally.add(outcome)
            history += [structs.replace(done, at=begin + done.epoch) for done in outcome.history]
        rows.append(outcome.record if isinstance(outcome, TrialResult) else failed_trial(spec, outcome))
        history.append(TrialEnded(at=begin + 8.5, trial=spec.id, status=rows[-1].status))
    summary = summarize(
        run="2026-11-25T03-00-00Z-made",
        dataset=dataset_summary(dataset, validation_percent=10),
        facts=dataset,
        tallies=tallies,
        stored={
            name: Stored(version=number + 1, champion=number == 0, promotion=NAUGHTY, significance=SIGNIFICANCE)
            for number, name in enumerate(sorted(tallies))
        },
        trials=rows,
        timing=TIMING,
        ended="2026-11-25T03:00:31Z",
    )
    folder = RunFolder(MemoryObjects(), summary.run)
    folder.write(CONFIGURATION, f"run_name: {NAUGHTY}\n".encode())
    for entry in sorted(history, key=lambda entry: entry.at):
        folder.append_history(entry)
    return ReportedRun(
        folder=folder,
        summary=summary,
        tallies=tallies,
        dataset=dataset,
        options=([f"--seeds={seeds}", f"--epochs={epochs}"], ["--dataset=mnist-mini", "--batch-size=128"]),
        code={"sha256": "0" * 64},
    )


def with_news(run: ReportedRun) -> ReportedRun:
    """Return the run with changes of its data, corrections, and accuracies on a part of the test images."""
    by_class = {name: number for number, name in enumerate(run.dataset.classes, start=1)}
    more: CountsBySplit = {"train": by_class, "test": {"7": 1_234}}
    changes = ChangesSummary(
        since="r0",
        at="",
        added=more,
        removed={"train": {NAUGHTY: 5}},
        relabelled=more,
        unusual={"7": Growth(added=1_242, usual=2.5)},
    )
    counts = CorrectionCounts(applied=12, confirmed=3, removed=1, holdout=4, disputed_holdout=2, unknown=1)
    dataset = structs.replace(run.summary.dataset, corrections=counts, changes=changes)
    tests: dict[str, Any] = {"new_test": Accuracy(3, 4), "new_test_accuracy": 0.75, "new_test_before": Accuracy(99, 99)}
    tests |= {"published_test": Accuracy(899, 999), "published_test_accuracy": 899 / 999}
    tests |= {
        "reviewed_test": Accuracy(96, 100),
        "reviewed_test_accuracy": 0.96,
        "reviewed_test_ci95": (0.9016, 0.9843),
    }
    tests |= {"score": "balanced-accuracy", "always_answers": NAUGHTY}
    models = {name: structs.replace(model, **tests) for name, model in run.summary.models.items()}
    return replace(run, summary=structs.replace(run.summary, dataset=dataset, models=models))


def with_search(run: ReportedRun, **changed: Any) -> ReportedRun:
    """Return the run as the one of a search. changed: fields of `search.json`."""
    train = ("--learning-rate=0.0001",)
    about = SearchSummary(settings={}, configurations=5, epochs=11, validation=Accuracy(80, 100), train=train)
    run.folder.write_json(SEARCH, search_document(**changed))
    return replace(run, summary=structs.replace(run.summary, search=about))


def search_document(**changed: Any) -> SearchDocument:
    """Return a search of five configurations, of which the last one failed on its second rung."""
    found: dict[str, Any] = {
        "space": {"learning_rate": "0.0001..0.1:log", "optimizer": ["sgd", "adam"], "width": [8, 16]},
        "strategy": "halving",
        "rungs": [1, 3],
        "configurations": {
            str(n): {"learning_rate": 10.0 ** -(n + 1), "optimizer": ("sgd", "adam")[n % 2], "width": 8 * (1 + n % 2)}
            for n in range(5)
        },
        "decisions": [
            {
                "bracket": 0,
                "rung": 0,
                "epochs": 1,
                "scores": {str(n): {"correct": 50 + n, "total": 100} for n in range(5)},
                "survivors": [4, 3],
            },
            {
                "bracket": 0,
                "rung": 1,
                "epochs": 3,
                "scores": {"3": {"correct": 80, "total": 100}, "4": None},
                "survivors": [],
            },
        ],
        "cut": None,
        "best": {"configuration": 3, "validation": {"correct": 80, "total": 100}},
    }
    return decode(encode({**found, **changed}), SearchDocument, "search.json")


def _result(spec: TrialSpec, dataset: Dataset, rng: np.random.Generator, margin: float) -> TrialResult:
    labels = dataset.test.labels
    logits = rng.normal(size=(len(labels), len(dataset.classes))) * 2
    logits[np.arange(len(labels)), labels] += margin
    probabilities = (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)).astype(np.float32)
    correct = int((probabilities.argmax(axis=1) == labels).sum())
    history = tuple(
        EpochDone(
            trial=spec.id,
            epoch=epoch,
            loss=2.3 / epoch,
            train=Accuracy(900 + epoch, 1_000),
            validation=Accuracy(880 + epoch, 1_000),
            seconds=1.0,
        )
        for epoch in range(1, spec.epochs + 1)
    )
    return trial_result(
        spec,
        test=Accuracy(correct, len(labels)),
        validation=Accuracy(96, 100),
        history=history,
        probabilities=probabilities,
    )


def small_result(
    seed: int,
    *,
    predicted: list[int],
    confidence: float = 0.9,
    labels: np.ndarray[tuple[int], np.dtype[np.uint8]] = FOUR_LABELS,
    validation: int | None = 5,
) -> TrialResult:
    """Return the result of a keras trial with these predictions, all with the same confidence."""
    count = len(predicted)
    probabilities = np.full((count, 10), (1 - confidence) / 9, np.float32)
    probabilities[np.arange(count), predicted] = confidence
    return trial_result(
        TrialSpec.of("keras", seed=seed),
        test=Accuracy(int((np.array(predicted) == labels).sum()), count),
        validation=None if validation is None else Accuracy(validation, 10),
        best_epoch=1,
        history=(),
        probabilities=probabilities,
        train_seconds=1.0,
        images_per_second=1.0,
        versions={"numpy": "2.4.6"},
    )


def tally_of(first: TrialResult, *others: TrialResult) -> Tally:
    tally = Tally(first)
    for result in others:
        tally.add(result)
    return tally


def small_summary(*predicted: list[int], failed: int = 0, **facts: Any) -> Summary:
    """Return the summary of keras trials with these predictions for FOUR_LABELS, and of `failed` failed trials.

    Args:
        facts: other fields of the dataset, of its report, or columns of its table.
    """
    results = [small_result(seed, predicted=classes) for seed, classes in enumerate(predicted)]
    return summary_of_results(results, failed=failed, **facts)


def summary_of_results(
    results: Sequence[TrialResult],
    *,
    labels: Labels = FOUR_LABELS,
    classes: tuple[str, ...] = DIGITS,
    failed: int = 0,
    **facts: Any,
) -> Summary:
    """Return the summary of keras trials with these results on test images with these labels. See `small_summary`."""
    tallies = {"keras": tally_of(*results)} if results else {}
    rows: list[TrialRecord | FailedTrial] = [result.record for result in results]
    for seed in range(len(results), len(results) + failed):
        failure = TrialFailure(trial=f"keras-s{seed}", code="E-NAN", message="loss is not a number")
        rows.append(failed_trial(TrialSpec.of("keras", seed=seed), failure))
    images = np.zeros((len(labels), 1, 1, 1), np.uint8)
    dataset = Dataset.of("few", "1", Table.of(images[:0], labels[:0]), Table.of(images, labels), classes)
    report, columns = (
        {name: facts.pop(name) for name in {*facts} & {*vars(of)}} for of in (dataset.report, dataset.table)
    )
    return summarize(
        run="r",
        dataset=structs.replace(dataset_summary(dataset, None), train=10_000, image_shape=(28, 28, 1)),
        facts=replace(dataset.reporting(**report), table=replace(dataset.table, **columns), **facts),
        tallies=tallies,
        stored={"keras": Stored(version=7, champion=True, promotion="better")} if results else {},
        trials=rows,
        timing=TIMING,
        ended="2026-11-25T03:00:00Z",
    )
