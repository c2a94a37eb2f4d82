"""What a run stores while it is under way: the lines of its history, and `search.json`, the decisions of a search."""

from msgspec import field

from mnist_lib.documents import Count, Document, Json, Name, Number, Seconds, Text, written
from mnist_lib.results import Accuracy, EpochDone, HistoryEntry, TrialStarted
from mnist_lib.run_documents import PartOfRun, Setting


class Cut(Document, frozen=True, kw_only=True):
    """What was left out of a search because time was short."""

    configurations: Count | None = None  # number of configurations that were not dropped
    brackets: Count | None = None  # number of brackets that were not dropped; only earlier versions wrote it
    over: bool  # whether even the brackets that had begun were left incomplete


class RungDecision(Document, frozen=True, kw_only=True):
    """A complete rung of a search: the scores of its configurations, and which of them go on, the best first."""

    bracket: Count
    rung: Count  # counted from 0
    epochs: Number
    scores: dict[Count, Accuracy | None]  # None if its training failed
    survivors: tuple[Count, ...]


class Winner(Document, frozen=True, kw_only=True):
    configuration: Count
    validation: Accuracy


class SearchDocument(Document, frozen=True, kw_only=True):
    """The document `search.json`."""

    schema: Count = written(1)
    space: dict[Name, Json]
    strategy: Text
    rungs: tuple[Number, ...]  # numbers of epochs
    configurations: dict[Count, dict[Name, Setting]]
    decisions: list[RungDecision]
    # The highest score so far of each configuration whose first rung was not complete.
    unfinished: dict[Count, Accuracy] = written({})
    cut: Cut | None
    best: Winner | None


class DriverConnected(HistoryEntry, frozen=True, kw_only=True, tag="driver"):
    """A driver is connected to the cluster. A history begins with this."""

    trial: Text = written("")  # none
    phases: dict[Text, Seconds] = field(default_factory=dict)  # seconds of each phase before that, in order


class LanesPlanned(HistoryEntry, frozen=True, kw_only=True, tag="lanes"):
    """The CPUs of each trial are planned. All drivers of the run use this number: it decides the threads of a trial."""

    trial: Text = written("")  # none
    of: PartOfRun
    cpus: Number


class AttemptDied(HistoryEntry, frozen=True, kw_only=True, tag="died"):
    attempt: Count
    reason: str


class TrialEnded(HistoryEntry, frozen=True, kw_only=True, tag="ended"):
    status: Text  # as in the summary


class RungScored(HistoryEntry, frozen=True, kw_only=True, tag="rung"):
    """A configuration of a search or, with folds, one of its trials has ended a rung."""

    epoch: Number
    validation: Accuracy | None  # None if its training has failed
    status: Text = written("")  # "rung" or "failed"


class ConfigurationFailed(HistoryEntry, frozen=True, kw_only=True, tag="failed"):
    reason: str


HistoryLine = (
    DriverConnected
    | LanesPlanned
    | TrialStarted
    | EpochDone
    | AttemptDied
    | TrialEnded
    | RungScored
    | ConfigurationFailed
)
