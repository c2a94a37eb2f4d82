"""What is copied of a run: a record of the run, and one of each of its trials and configurations."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict

from jobs.search.findings import configuration_of
from mnist_lib.clock import moment_of
from mnist_lib.documents import Json, Name, Number, Seconds, convert, decode
from mnist_lib.results import Accuracy, Counts
from mnist_lib.run_documents import SearchDocument
from mnist_lib.store.runs import CONFIGURATION, HISTORY, PLOTS, REPORT, RUN_RECORD, SEARCH, SUMMARY, RunFolder

# The fields of a trial that say how it was trained, and the names of their options. Arguments of its model are added.
PARAMETERS = {
    **{name: name for name in ("model", "dataset", "seed", "epochs", "optimizer", "learning_rate", "schedule")},
    **{name: name for name in ("momentum", "weight_decay", "global_clipnorm", "precision", "validation_percent")},
    "global_batch_size": "batch_size",
}
RESULTS = ("test_accuracy", "train_seconds", "images_per_second")
RESULTS_OF_MODEL = ("mean_test_accuracy", "std_test_accuracy", "ensemble_test_accuracy", "best_trial_test_accuracy")
FILES = (REPORT, SUMMARY, SEARCH, CONFIGURATION)  # and the plots


@dataclass(frozen=True)
class Metric:
    name: str
    value: float
    at: float  # Unix time
    step: int = 0  # the epoch; 0 for a result of the whole run or trial


@dataclass(frozen=True, kw_only=True)
class Record:
    """A run, a trial or a configuration. Times are Unix times; `ended` is None while it may go on."""

    name: str
    begun: float
    ended: float | None
    failed: bool = False
    parameters: Mapping[str, str]
    metrics: Sequence[Metric] = ()
    version: tuple[str, int] | None = None  # model and number of the version that was stored for the trial


@dataclass(frozen=True, kw_only=True)
class RunRecords:
    key: str  # of the run: its name and when it was begun, since another storage may have a run of the same name
    dataset: str
    run: Record
    parts: Sequence[Record] = ()
    files: Sequence[str] = field(default=(), repr=False)  # names in the run's folder


class _Epoch(TypedDict):
    """A line of `history.jsonl` about an epoch."""

    at: Seconds
    trial: Name
    epoch: Number
    loss: float
    train: Counts
    validation: Counts | None


class _Terms(TypedDict):
    trials: dict[Name, dict[str, Json]]


def records_of(folder: RunFolder) -> RunRecords:
    """Return the records of a run, which may be unfinished.

    Raises:
        SpecError: there is no such run.
        IntegrityError: one of its documents is damaged.
    """
    begun, summary = folder.begun(), folder.summary()
    at, ended = moment_of(begun.begun).timestamp(), None
    terms = convert(begun.terms, _Terms, f"{folder.where}/{RUN_RECORD}", "$.terms")["trials"]
    versions: dict[str, tuple[str, int]] = {}
    if summary is None:
        rows: dict[str, Mapping[str, Any]] = {
            name: row for name, row in terms.items() if configuration_of(name) is None
        }
    else:
        ended = moment_of(summary["ended"]).timestamp() if "ended" in summary else at
        rows = {row["id"]: row for row in summary["trials"]}
        versions = {row["best_trial"]: (model, row["version"]) for model, row in summary["models"].items()}
    rows |= _configurations(folder, terms)
    epochs: dict[str, list[Metric]] = {}
    for epoch in _epochs(folder):
        epochs.setdefault(epoch["trial"], []).extend(_metrics_of(epoch))
    return RunRecords(
        key=f"{begun.run} {begun.begun}",
        dataset=folder.dataset(),
        run=_run(begun.run, at, ended, summary),
        parts=[
            _part(name, rows.get(name, {}), epochs.get(name, []), at, ended, versions.get(name))
            for name in dict.fromkeys([*rows, *epochs])
        ],
        files=[] if summary is None else [*filter(folder.has, FILES), *folder.names(PLOTS)],
    )


def _part(
    name: str,
    row: Mapping[str, Any],
    epochs: Sequence[Metric],
    run_begun: float,
    run_ended: float | None,
    version: tuple[str, int] | None,
) -> Record:
    begun, ended = run_begun, run_ended
    if epochs:
        begun, ended = epochs[0].at, None if run_ended is None else epochs[-1].at
    return Record(
        name=name,
        begun=begun,
        ended=ended,
        failed=row.get("status") == "failed",
        parameters=_parameters(row),
        metrics=[*epochs, *(Metric(result, row[result], ended or begun) for result in RESULTS if result in row)],
        version=version,
    )


def _run(name: str, begun: float, ended: float | None, summary: Mapping[str, Any] | None) -> Record:
    if summary is None:
        return Record(name=name, begun=begun, ended=ended, parameters={})
    dataset, search = summary["dataset"], summary.get("search")
    parameters = {
        "dataset": dataset["name"],
        "dataset_fingerprint": dataset["fingerprint"],
        **{f"{split}_images": dataset[split] for split in ("train", "validation", "test")},
        **{f"best_{setting}": value for setting, value in (search["settings"] if search else {}).items()},
    }
    results = {
        f"{model}.{result}": row[result]
        for model, row in summary["models"].items()
        for result in RESULTS_OF_MODEL
        if row[result] is not None
    }
    return Record(
        name=name,
        begun=begun,
        ended=ended,
        failed=not summary["models"],
        parameters={name: str(value) for name, value in parameters.items()},
        metrics=[Metric(result, value, ended or begun) for result, value in results.items()],
    )


def _configurations(folder: RunFolder, terms: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Return a row for each configuration of a search that has been decided about, by the name of its trial."""
    content = folder.read(SEARCH)
    if content is None:
        return {}
    document = decode(content, SearchDocument, f"{folder.where}/{SEARCH}")
    failed = {number for made in document["decisions"] for number, score in made["scores"].items() if score is None}
    of_models = {str(row.get("model")): row for row in terms.values()}
    rows: dict[str, Mapping[str, Any]] = {}
    for number, settings in document["configurations"].items():
        model = str(settings.get("model", next(iter(of_models))))
        shared = of_models.get(model, {})
        arguments = {**shared.get("arguments", {}), **settings}
        status = "failed" if number in failed else "ok"
        rows[f"{model}-c{number}"] = {**shared, "arguments": arguments, "status": status}
    return rows


def _epochs(folder: RunFolder) -> Iterator[_Epoch]:
    """Yield the epochs in the history of a run, each once: a resumed trial repeats those after its checkpoint."""
    seen = set()
    for entry in folder.history():
        if entry["event"] == "epoch":
            epoch = convert(entry, _Epoch, f"{folder.where}/{HISTORY}", "$")
            if (key := (epoch["trial"], epoch["epoch"])) not in seen:
                seen.add(key)
                yield epoch


def _metrics_of(epoch: _Epoch) -> Iterator[Metric]:
    at, step = epoch["at"], epoch["epoch"]
    yield Metric("train_loss", epoch["loss"], at, step)
    for name in ("train", "validation"):
        counts = epoch[name]
        if counts is not None and counts["total"]:
            yield Metric(f"{name}_accuracy", Accuracy(**counts).value, at, step)


def _parameters(row: Mapping[str, Any]) -> dict[str, str]:
    """Return the settings in a trial's row, by the names that they have on the command line."""
    found = {option: row[name] for name, option in PARAMETERS.items() if name in row} | row.get("arguments", {})
    return {name: str(value) for name, value in found.items() if value is not None}
