"""The documents of a run: `summary.json`, `search.json` and the lines of its history.

`docs/reference/summary.md` is made from the fields and comments of the summary. `report.summary` makes a summary.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from msgspec import field

from mnist_lib.data.corrections import CorrectionCounts, ImageHash
from mnist_lib.data.groups import GroupCounts
from mnist_lib.data.request import ClassName, CountsBySplit, Growth, Side
from mnist_lib.documents import (
    Count,
    Document,
    Interval,
    Moment,
    Name,
    Number,
    Seconds,
    Share,
    Text,
    Texts,
    decode_upgraded,
    written,
)
from mnist_lib.results import Accuracy, EndedTrial, TrialRecord
from mnist_lib.spec import TrialSpec

SUMMARY_SCHEMA = 2
MAX_RUN_NAME_LENGTH = 100
PartOfRun = Literal["search", "trials"]
MAX_LABEL_ERRORS = 200  # in a summary; of many runs, all summaries are read


class ChangesSummary(Document, frozen=True, kw_only=True):
    """What has changed in the dataset since its last run in the storage."""

    since: Name  # the run that it is compared with
    at: Text  # when it ended
    added: CountsBySplit  # for `train` and `test`, the number of new images by class
    removed: CountsBySplit  # the number of images that are gone, in the same form
    relabelled: CountsBySplit  # the number of images with another label, by their present class
    # The classes to which at least 20 images were `added`, and more than three times the `usual` number per run, the
    # mean of the last 30 runs of the dataset; only if there are any.
    unusual: dict[ClassName, Growth] = field(default_factory=dict)


class NearCopyFiles(Document, frozen=True, kw_only=True):
    """A near-copy and what it resembles, as paths in the folder of pictures."""

    test: Text
    train: Text


class NearCopiesSummary(Document, frozen=True, kw_only=True):
    """The test images that resemble a training image."""

    count: Count  # number of test images that resemble a training image
    compared: Count  # number of test images that were compared: those with enough contrast
    # The first of them, the most similar first, as files in the test split (`test`) and the train split (`train`);
    # empty unless the dataset is a folder.
    first: tuple[NearCopyFiles, ...] = written(())


class DatasetSummary(Document, frozen=True, kw_only=True):
    name: Name  # the name, as in `--dataset`, or the name of the folder
    version: Text  # the version of the TFDS builder; for a folder, the beginning of the fingerprint
    fingerprint: Text  # SHA-256 of all images and labels
    # The names of the classes, in the order of the labels.
    classes: tuple[ClassName, ...]
    # Height, width and channels of the images.
    image_shape: tuple[Side, ...]
    train: Count  # number of images that were trained on
    validation: Count  # number of images in the validation split
    test: Count  # number of images in the test split
    largest_class: Count  # number of test images of the most frequent class
    damaged: Count = written(0)  # number of pictures that could not be read
    newly_damaged: Count = written(0)  # of these, those that the last run could read or did not have
    # Whether the folder has folders `train` and `test`, which say which pictures are for the test.
    has_test_folder: bool = written(False)
    notices: tuple[Text, ...] = written(())  # what was left out of a folder, and why; corrections of unknown images
    # The numbers of images that [corrections](../pictures.md#corrected-labels) concern; only if there are any.
    corrections: CorrectionCounts | None = None
    # The numbers of [groups](../pictures.md#groups) of images; only with `--group-by`.
    groups: GroupCounts | None = None
    changes: ChangesSummary | None = None  # what has changed since the last run; only if the storage has one
    # Why no model is promoted before a person
    # [accepts the change](../retrain.md#a-folder-that-has-changed-unexpectedly), such as classes that are gone.
    objections: tuple[Text, ...] = ()
    accept: Text | None = None  # the command with which a person accepts the change; only with `objections`
    # The test images that [resemble a training image](../pictures.md#near-copies); not for datasets of the catalog.
    near_copies: NearCopiesSummary | None = None


class Significance(Document, frozen=True, kw_only=True):
    total: Share  # the probability of that over all comparisons of the model on the dataset, `--alpha`
    left: Share  # what is left of it for further comparisons
    comparisons: Count  # number of comparisons so far


class Recall(Document, frozen=True, kw_only=True):
    """How many of the test images of a class are predicted correctly."""

    correct: Count  # number of its test images that are predicted correctly
    total: Count  # number of its test images
    ci95: Interval  # lower and upper limit of the 95% interval of the share, for another test set of this size


class ModelSummary(Document, frozen=True, kw_only=True):
    trials: Count  # number of successful trials
    mean_test_accuracy: Share  # mean over these trials
    std_test_accuracy: Share | None  # sample standard deviation over these trials; `null` for one trial
    ci95: Interval  # lower and upper limit of the 95% interval of the mean
    ci95_over: Text  # what it allows for: another test set of this size and, with several trials, another seed
    highest_test_accuracy: Share  # the highest test accuracy of a trial
    ensemble_test: Accuracy  # counts on the test images, predicted by the mean of all trials' probabilities
    ensemble_test_accuracy: Share  # the accuracy of these predictions
    # The trial that was stored: the best on the validation images or, without them, in its last epoch of training; of
    # trials of folds, the first one.
    best_trial: Name
    best_trial_test_accuracy: Share  # its test accuracy
    score: Name = "accuracy"  # what its trials were compared by; only if that is not the accuracy
    # The mean of the accuracies of the classes, as a mean over the trials. Older runs lack it and the next three.
    mean_test_balanced_accuracy: Share | None = None
    best_trial_test_balanced_accuracy: Share | None = None  # the same of the stored trial
    # The accuracy of the stored trial on each class, in the order of `dataset.classes`.
    recall: tuple[Recall, ...] = ()
    always_answers: ClassName | None = None  # the class with which it answers every test image; only if it does so
    # Pairs of classes that it confuses with each other although, or since, its training images are mirrored.
    mirrored: tuple[tuple[ClassName, ClassName], ...] = ()
    # The same on the test images that the last run of the dataset did not have; only if there are any.
    new_test: Accuracy | None = None
    new_test_accuracy: Share | None = None  # the accuracy on them
    # The same counts of the last 30 runs together; only if the accuracy on the new images has fallen, with a
    # probability below 0.001.
    new_test_before: Accuracy | None = None
    # The same with the labels as they were published; only if corrections changed labels of test images.
    published_test: Accuracy | None = None
    published_test_accuracy: Share | None = None  # the accuracy with them
    # The same on the test images whose label a person has given after they were drawn at random in a
    # [review](../review.md); only if there are any.
    reviewed_test: Accuracy | None = None
    reviewed_test_accuracy: Share | None = None  # the accuracy on them
    reviewed_test_ci95: Interval | None = None  # lower and upper limit of its 95% interval over test images
    # The same on the test images that resemble no training image; only if some do.
    distinct_test: Accuracy | None = None
    distinct_test_accuracy: Share | None = None  # the accuracy on them
    distinct_test_ci95: Interval | None = None  # lower and upper limit of its 95% interval over test images
    version: Number  # the number of the stored version
    champion: bool  # whether that version is the champion for the dataset after this run
    promotion: Text = ""  # why it is or is not the champion
    significance: Significance | None = written(None)  # how often chance may replace it; `null` if there is none


class ErrorSummary(Document, frozen=True, kw_only=True):
    code: Name  # the [error code](exit-codes.md)
    message: str  # the error as one line
    details: str = written("")  # the traceback, where there is one
    retry: bool = written(False)  # whether the same trial may succeed later


class FailedTrial(EndedTrial, frozen=True, kw_only=True, tag="failed"):
    status = "failed"

    error: ErrorSummary  # why it failed


Setting = str | int | float | bool


class SearchSummary(Document, frozen=True, kw_only=True):
    """What `summary.json` says about the search that found the settings of its trials."""

    settings: dict[Name, Setting]  # the settings of the winner, by name
    configurations: Number  # number of configurations that were tried
    epochs: Number  # epochs of all their completed stages together, without the final trials
    # Validation images predicted correctly by the winner in the search, and their total. With folds, these are all
    # images of training and validation, each predicted by a trial that was not trained on it.
    validation: Accuracy
    # The same for the default settings, which are one of the configurations; `null` if their training failed.
    defaults: Accuracy | None = None
    train: tuple[Text, ...]  # the options of `jobs.train` for these settings
    folds: Number | None = None  # the number of folds; only with `--folds`


class OutOfFold(Document, frozen=True, kw_only=True):
    seeds: Number  # number of seeds with which trials of all folds succeeded
    # The accuracy over all training and validation images, each predicted by trials that were not trained on it; mean
    # over the seeds. Models that are trained on all of the images are usually more accurate.
    accuracy: Share
    ci95: Interval  # lower and upper limit of its 95% interval
    # The same as the mean of the accuracies of the classes; only if trials were compared by it.
    balanced_accuracy: Share | None = None


class LabelError(Document, frozen=True, kw_only=True):
    image: ImageHash  # the hash of its pixels, as in `labels.jsonl`
    file: Text | None = None  # its file, relative to the folder of pictures; only if the dataset is a folder
    label: ClassName  # its label
    # By how many interquartile ranges its margin is below the median one. The margin is by how much the logit of the
    # label exceeds the highest other one, on average over the first half of the epochs.
    deviation: float


class LabelErrors(Document, frozen=True, kw_only=True):
    """What `summary.json` says about labels of training images that may be wrong."""

    count: Count  # number of labels that may be wrong
    # The first 200 of them, that of the largest deviation first.
    first: tuple[LabelError, ...]


class FoldsSummary(Document, frozen=True, kw_only=True):
    """What `summary.json` says about the images that were held out fold by fold."""

    folds: Number  # the number of folds; models were trained on all folds but one
    images: Count  # number of training and validation images, which were divided into folds
    # The accuracy of each model on them, by model name; without a model of which trials failed in every seed.
    models: dict[Name, OutOfFold]


class Timing(Document, frozen=True, kw_only=True):
    wall_seconds: Seconds  # seconds from the start of the command to the stored models
    start_seconds: Seconds  # seconds from the start of the command to the connection to the cluster
    prepare_seconds: Seconds  # seconds from then until the data were ready
    trials_seconds: Seconds  # seconds from then until the last trial ended
    store_seconds: Seconds  # seconds to store and compare the models


class Summary(Document, frozen=True, kw_only=True):
    schema: Count = written(SUMMARY_SCHEMA)  # 2
    run: Name  # the name of the run
    dataset: DatasetSummary  # the dataset
    # The result of each model with a successful trial, by model name.
    models: dict[Name, ModelSummary]
    trials: list[TrialRecord | FailedTrial]  # one object per trial, ordered by model and seed
    ended: Moment  # when it ended, UTC, ISO 8601
    timing: Timing  # where the time went
    versions: Texts  # versions of Python, packages, GPUs and drivers on which the result depends, in the workers
    search: SearchSummary | None = None  # the search that found the settings of the trials; only of `jobs.search`
    folds: FoldsSummary | None = None  # what folds tell; only with `--folds`
    label_errors: LabelErrors | None = None  # labels that may be wrong; not in summaries of earlier versions

    @property
    def successful(self) -> list[TrialRecord]:
        return [trial for trial in self.trials if isinstance(trial, TrialRecord)]

    @property
    def failed(self) -> list[FailedTrial]:
        return [trial for trial in self.trials if isinstance(trial, FailedTrial)]


def read_summary(content: bytes, name: str) -> Summary:
    """Return a summary. Raises IntegrityError or SchemaError if it cannot be read. `name`: for messages."""
    return decode_upgraded(content, Summary, SUMMARY_SCHEMA, name, _with_specs)


def _with_specs(summary: dict[str, Any]) -> dict[str, Any]:
    """Return a summary of schema 1, whose trials had the fields of their spec among their own, as one of schema 2."""
    return {**summary, "trials": [_with_spec(trial) for trial in summary["trials"]]}


def _with_spec(trial: dict[str, Any]) -> dict[str, Any]:
    spec = {name: trial[name] for name in TrialSpec.__dataclass_fields__ if name in trial}
    return {**trial, "spec": spec_of_schema_1(spec, trial.get("devices", ()))}


def spec_of_schema_1(spec: Mapping[str, Any], devices: Sequence[str]) -> dict[str, Any]:
    """Return the spec in a document of schema 1 with what was not a setting yet.

    GPUs did not divide batches, CPUs as by default (0), and nothing was trained with made-up pictures.
    """
    microbatches = 1 if any("GPU" in device for device in devices) else 0
    return {**spec, "microbatches": microbatches, "none_class": False}
