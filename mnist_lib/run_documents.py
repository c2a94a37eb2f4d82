"""The fields of `summary.json` and `history.jsonl` with their ranges. `report.summary` makes a summary."""

from typing import Annotated, Literal, NotRequired, TypedDict

from msgspec import Meta, field

from mnist_lib.data.request import MAX_CLASSES, ClassName, Side
from mnist_lib.documents import Count, Json, Moment, Name, Number, Seconds, Sha256, Share, Text, Texts, written
from mnist_lib.results import Accuracy, EpochDone, HistoryEntry, Started
from mnist_lib.spec import MAX_ARGUMENTS


class Counts(TypedDict):
    """An `Accuracy` in a summary."""

    correct: Count
    total: Count


SUMMARY_SCHEMA = 1
MAX_RUN_NAME_LENGTH = 100

Interval = Annotated[list[Share], Meta(min_length=2, max_length=2)]


CountsByClass = Annotated[dict[ClassName, Count], Meta(max_length=MAX_CLASSES)]
CountsBySplit = dict[Literal["train", "test"], CountsByClass]


class CorrectionsSummary(TypedDict):
    """How many images `labels.jsonl` concerns, as in `data.corrections.CorrectionCounts`."""

    applied: Count
    confirmed: Count
    removed: Count
    holdout: Count
    disputed_holdout: Count
    unknown: Count


class GrowthSummary(TypedDict):
    added: Count
    usual: Annotated[float, Meta(ge=0)]  # images per run


class ChangesSummary(TypedDict):
    """What has changed in the dataset since its last run in the storage, as numbers of images."""

    since: Name  # the run
    at: Text  # when it ended
    added: CountsBySplit
    removed: CountsBySplit
    relabelled: CountsBySplit  # by the class that an image has now
    # The classes to which unusually many images were added, see `data.unusual`.
    unusual: NotRequired[Annotated[dict[ClassName, GrowthSummary], Meta(max_length=MAX_CLASSES)]]


# Some fields below are optional only because documents from early versions of the program lack them.


class DatasetSummary(TypedDict):
    name: Name
    version: Text
    fingerprint: Text
    train: Count
    validation: Count
    test: Count
    largest_class: NotRequired[Count]  # test images of the most frequent class
    classes: NotRequired[Annotated[list[ClassName], Meta(min_length=2, max_length=MAX_CLASSES)]]
    image_shape: NotRequired[Annotated[list[Side], Meta(min_length=3, max_length=3)]]
    damaged: NotRequired[Count]
    notices: NotRequired[list[Text]]
    corrections: NotRequired[CorrectionsSummary]  # if there are any
    changes: NotRequired[ChangesSummary]  # if there was an earlier run of the dataset


class SignificanceSummary(TypedDict):
    """How often chance may replace the champion, over all comparisons of the model on the data set."""

    total: Share
    left: Share
    comparisons: Count


class ModelSummary(TypedDict):
    trials: Count
    mean_test_accuracy: Share
    std_test_accuracy: Share | None
    ci95: Interval
    ci95_over: Text
    highest_test_accuracy: Share
    ensemble_test: Counts
    ensemble_test_accuracy: Share
    best_trial: Name
    best_trial_test_accuracy: Share
    published_test: NotRequired[Counts]  # of the best trial, with the labels before corrections
    published_test_accuracy: NotRequired[Share]
    new_test: NotRequired[Counts]  # of the best trial, on the test images that the last run did not have
    new_test_accuracy: NotRequired[Share]
    new_test_before: NotRequired[Counts]  # the same of earlier runs together, if it is much higher
    version: Number
    champion: NotRequired[bool]
    promotion: NotRequired[Text]
    significance: NotRequired[SignificanceSummary | None]


class ErrorSummary(TypedDict):
    code: Name
    message: str
    details: NotRequired[str]
    retry: NotRequired[bool]


class TrialSummary(TypedDict):
    id: Name
    model: Name
    dataset: Name
    seed: Count
    epochs: Number
    attempts: Count
    status: Literal["ok", "failed"]
    global_batch_size: NotRequired[Number]
    optimizer: NotRequired[Name]
    learning_rate: NotRequired[float]
    schedule: NotRequired[Name]
    precision: NotRequired[Name]
    validation_percent: NotRequired[Count]
    arguments: NotRequired[Annotated[dict[Name, bool | float | int | str], Meta(max_length=MAX_ARGUMENTS)]]
    hidden_units: NotRequired[Count]
    source_sha256: NotRequired[Sha256 | None]
    momentum: NotRequired[float]
    weight_decay: NotRequired[float]
    global_clipnorm: NotRequired[float | None]
    configuration: NotRequired[Count | None]
    # With the status "ok":
    test: NotRequired[Counts]
    test_accuracy: NotRequired[Share]
    test_ci95: NotRequired[Interval]
    validation: NotRequired[Counts | None]
    best_epoch: NotRequired[Number]
    trained_epochs: NotRequired[Number]
    train_seconds: NotRequired[Seconds]
    setup_seconds: NotRequired[Seconds]
    images_per_second: NotRequired[Annotated[float, Meta(ge=0)]]
    replicas: NotRequired[Number]
    devices: NotRequired[list[Text]]
    gpus: NotRequired[list[Text]]
    weights_sha256: NotRequired[Sha256]
    node: NotRequired[Text]
    # With the status "failed":
    error: NotRequired[ErrorSummary]


Setting = str | int | float | bool
ConfigurationNumber = Annotated[str, Meta(pattern=r"\A[0-9]{1,9}\Z")]


class SearchSummary(TypedDict):
    """What `summary.json` says about the search that found the settings of its trials."""

    settings: dict[Name, Setting]  # of the winner
    configurations: Number  # tried
    epochs: Number  # of all configurations together
    validation: Counts  # the winner's score in the search
    train: list[Text]  # the options of `jobs.train` for these settings


class Cut(TypedDict):
    """What was left out of a search because time was short."""

    brackets: Count  # that were not dropped
    over: bool  # whether the brackets that had begun were not completed either


class RungRow(TypedDict):
    """The decision about a rung in `search.json`."""

    bracket: Count
    rung: Count
    epochs: Number
    scores: dict[ConfigurationNumber, Counts | None]  # None if its training failed
    survivors: list[Count]  # the best first


class Found(TypedDict):
    configuration: Count
    validation: Counts


class SearchDocument(TypedDict):
    """The document `search.json`."""

    schema: NotRequired[int]
    space: dict[Name, Json]
    strategy: Text
    rungs: Annotated[list[Number], Meta(min_length=1, max_length=100)]  # numbers of epochs
    configurations: dict[ConfigurationNumber, dict[Name, Setting]]
    decisions: list[RungRow]
    unfinished: NotRequired[dict[ConfigurationNumber, Counts]]  # highest scores where the first rung was not complete
    cut: Cut | None
    best: Found | None


class Summary(TypedDict):
    schema: NotRequired[int]
    run: Name
    dataset: DatasetSummary
    models: Annotated[dict[Name, ModelSummary], Meta(max_length=1_000)]
    trials: list[TrialSummary]
    timing: Annotated[dict[str, Seconds], Meta(max_length=100)]
    versions: Texts
    ended: NotRequired[Moment]
    search: NotRequired[SearchSummary]


class DriverConnected(HistoryEntry, frozen=True, kw_only=True, tag="driver"):
    """A driver is connected to the cluster. A history begins with this."""

    trial: Text = written("")  # none
    phases: dict[Text, Seconds] = field(default_factory=dict)  # seconds of what it did before, in order


class AttemptDied(HistoryEntry, frozen=True, kw_only=True, tag="died"):
    attempt: Count
    reason: str


class TrialEnded(HistoryEntry, frozen=True, kw_only=True, tag="ended"):
    status: Text  # as in the summary


class RungScored(HistoryEntry, frozen=True, kw_only=True, tag="rung"):
    """A configuration of a search has ended a rung."""

    epoch: Number
    validation: Accuracy | None  # None if its training has failed
    status: Text = written("")  # "rung" or "failed"


class ConfigurationFailed(HistoryEntry, frozen=True, kw_only=True, tag="failed"):
    reason: str


HistoryLine = DriverConnected | Started | EpochDone | AttemptDied | TrialEnded | RungScored | ConfigurationFailed
