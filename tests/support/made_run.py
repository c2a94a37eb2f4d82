"""A run as its driver would hand it to the report, with answers that were drawn by chance on real images."""

from dataclasses import asdict

import numpy as np

from mnist_lib.data.split import Dataset, validation_size
from mnist_lib.report.page import ReportedRun
from mnist_lib.report.summary import Stored, summarize, trial_row
from mnist_lib.results import Accuracy, EpochDone, Tally, TrialFailure, TrialResult
from mnist_lib.spec import TrialSpec, trial_grid

NAUGHTY = "<script>alert(1)</script> & \"quotes\" of '{{ 7 * 7 }}'"


def made_run(
    dataset: Dataset, *, seeds: int, failed: int = 0, models: tuple[str, ...] = ("keras", "scratch")
) -> ReportedRun:
    """`failed`: of the trials, the last ones."""
    rng = np.random.default_rng(0)
    specs = trial_grid(models, range(seeds), dataset=dataset.name, epochs=8)
    tallies: dict[str, Tally] = {}
    rows, history = [], []
    now = 1_764_000_000.0
    for number, spec in enumerate(specs):
        lane, begin = number % 2, now + number // 2 * 9
        about = {"trial": spec.id, "node": f"node-{lane}/0123abcd", "pid": 100 + lane}
        history.append({"at": begin, "event": "started", **about, "resumed_after": 0})
        outcome: TrialResult | TrialFailure = _result(spec, dataset, rng)
        if number >= len(specs) - failed:
            outcome = TrialFailure(trial=spec.id, code="E-NAN", message=f"the loss is no number: {NAUGHTY}")
        if isinstance(outcome, TrialResult):
            tally = tallies.get(spec.model)
            if tally is None:
                tallies[spec.model] = Tally(outcome)
            else:
                tally.add(outcome)
            history += [{"at": begin + done.epoch, "event": "epoch", **asdict(done)} for done in outcome.history]
        rows.append(trial_row(asdict(spec), outcome, attempts=1))
        history.append({"at": begin + 8.5, "event": "ended", "trial": spec.id, "status": rows[-1]["status"]})
    validation = validation_size(len(dataset.train), 10)
    summary = summarize(
        run="2026-11-25T03-00-00Z-made",
        dataset={
            "name": dataset.name,
            "version": dataset.version,
            "fingerprint": dataset.fingerprint,
            "train": len(dataset.train) - validation,
            "validation": validation,
            "test": len(dataset.test),
        },
        tallies=tallies,
        stored={name: Stored(number + 1, number == 0, NAUGHTY) for number, name in enumerate(sorted(tallies))},
        labels=dataset.test.labels,
        trials=rows,
        timing={"wall_seconds": 31.0, "prepare_seconds": 6.0, "trials_seconds": 24.5, "store_seconds": 0.5},
        ended="2026-11-25T03:00:31Z",
    )
    return ReportedRun(
        summary=summary,
        history=sorted(history, key=lambda entry: float(entry["at"])),
        tallies=tallies,
        dataset=dataset,
        configuration=f"run_name: {NAUGHTY}\n",
        storage="results",
        code={"sha256": "0" * 64},
    )


def _result(spec: TrialSpec, dataset: Dataset, rng: np.random.Generator) -> TrialResult:
    labels = dataset.test.labels
    logits = rng.normal(size=(len(labels), 10)) * 2
    logits[np.arange(len(labels)), labels] += 6
    probabilities = (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)).astype(np.float32)
    correct = int((probabilities.argmax(axis=1) == labels).sum())
    history = tuple(
        EpochDone(
            trial=spec.id,
            epoch=epoch,
            loss=2.3 / epoch,
            train=Accuracy(90 + epoch, 100),
            validation=Accuracy(88 + epoch, 100),
            seconds=1.0,
        )
        for epoch in range(1, spec.epochs + 1)
    )
    return TrialResult(
        trial=spec.id,
        spec=spec,
        test=Accuracy(correct, len(labels)),
        validation=Accuracy(96, 100),
        best_epoch=8,
        history=history,
        train_seconds=8.0,
        images_per_second=45_000.0,
        setup_seconds=1.0,
        replicas=1,
        devices=("CPU:0",),
        gpus=(),
        node="node-0/0123abcd",
        weights_sha256="0" * 64,
        versions={"python": "3.11.7", "tensorflow": "2.21.0"},
        probabilities=probabilities,
        files={},
    )
