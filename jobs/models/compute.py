"""The commands of `jobs.models` that compute with a stored version, in this process: evaluate, reproduce, export."""

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from jobs import SOURCE_FOLDERS
from jobs.console import exit_codes
from jobs.console.output import CommandResult
from jobs.console.terminal import step
from jobs.models.options import ComputeOptions, EvaluateOptions, ExportOptions, PromoteOptions, ReproduceOptions
from mnist_lib.api import find_version, load_stored
from mnist_lib.catalog import EXPORT_FORMATS
from mnist_lib.data.request import DataRequest
from mnist_lib.environment import code_version, import_keras, quietly
from mnist_lib.errors import SpecError
from mnist_lib.objects.output_file import require_absent
from mnist_lib.objects.protocol import Objects
from mnist_lib.spec import INEXACT_TEXT
from mnist_lib.store.champions.log import champion_dataset
from mnist_lib.store.champions.test_set import Predict
from mnist_lib.store.contents import StoredModel, origins
from mnist_lib.store.datasets import trained_images
from mnist_lib.store.images import dataset_request, load_dataset, tested_split, used_labels
from mnist_lib.store.predictions import Predictions
from mnist_lib.store.versions import Version
from mnist_lib.wording import interval_text, percent

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from rich.console import RenderableType

    from mnist_lib.data.dataset import Dataset

NUM_MISTAKES = 5  # that `evaluate --on` prints; the JSON document has more
NUM_EXPORT_IMAGES = 100  # test images on which an exported file is compared with the stored version


def evaluate(options: EvaluateOptions, objects: Objects) -> CommandResult:
    version = _version(objects, options)
    if options.on is not None:
        return _evaluate_on(options.on, options, objects, version)
    stored = Predictions.read(objects, version)
    _import_keras(gpus=False)
    from mnist_lib.loading import compare_with_stored

    predict = load_stored(_stored(objects, version, options))
    evaluation = compare_with_stored(stored, predict, tested_split(objects, version, _data(version, options)))
    test = evaluation.test
    difference = evaluation.max_difference
    interval = interval_text(version.facts.interval if test == version.facts.test else test.interval())
    same = "all" if evaluation.matching == test.total else f"{evaluation.matching:,} of"
    near = f"probabilities within {difference:.0e}" if difference else "the same probabilities"
    lines = [
        f"{version.name} gives the stored prediction for {same} {test.total:,} test images ({near}).",
        f"{test.correct:,} of the predictions are right: {percent(test.value)} ({interval}).",
    ]
    return CommandResult(evaluation, lines, exit_codes.DONE if evaluation.reproduced else exit_codes.INTEGRITY)


def _evaluate_on(dataset: str, options: EvaluateOptions, objects: Objects, version: Version) -> CommandResult:
    """Test a version on other labelled pictures."""
    _import_keras(gpus=False)
    from mnist_lib.report.another_test import another_test
    from mnist_lib.report.texts import plain_table

    request = DataRequest(dataset=dataset, **options.source())
    predict = load_stored(_stored(objects, version, options))
    with step(f"testing {version.name} on {request.name}") as progress:
        found, answered = another_test(objects, version, predict, request, progress)
    table = plain_table("class", "images", "correct", "95% interval", "predicted instead")
    for row in answered.classes_by_accuracy():
        others = ", ".join(f"{found.classes[other]} ({count})" for other, count in row.confused_with.items())
        correct = f"{row.correct / row.images:.1%}"
        interval = interval_text(found.recall[row.label].ci95)
        table.add_row(found.classes[row.label], f"{row.images:,}", correct, interval, others or "-")
    lines: list[RenderableType] = [*found.lines()]
    if found.test.total:
        lines += ["", table]
    if found.mistakes:
        lines += ["", "The most confident mistakes:"]
    for mistake in found.mistakes[:NUM_MISTAKES]:
        answer = f"{mistake['answer']} ({mistake['probability']:.1%})"
        lines.append(f"{mistake['file'] or 'an image'}: label {mistake['label']}, predicted {answer}")
    return CommandResult(found, lines)


def reproduce(options: ReproduceOptions, objects: Objects) -> CommandResult:
    version = _version(objects, options)
    _import_keras(gpus=True)
    from mnist_lib.training import reproduction

    def load() -> "Dataset":
        trained = trained_images(objects, origins(objects, [version.name], [])[1:])
        return load_dataset(_data(version, options), objects, used=used_labels(objects, version), trained=trained)

    code = code_version(SOURCE_FOLDERS)
    with step(f"training {version.name} again") as progress:
        weights = {name: Path(str(path)) for name, path in (options.weights or {}).items()}
        inputs = reproduction.ReproductionInputs(
            cpus=options.cpus, model_file=options.model_file, model_arg=options.model_arg, weights=weights
        )
        result = reproduction.reproduce(objects, version, load, code, inputs, progress)
    again = percent(result.again.value)
    stored = percent(result.stored.value)
    accuracies = f"test accuracy {again}, stored {stored} ({interval_text(result.interval)})"
    how = "with different weights" if result.exact else "within the interval"
    verdicts = {
        reproduction.IDENTICAL: "reproduced: every weight is the same.",
        reproduction.WITHIN: f"reproduced {how}: {accuracies}.",
        reproduction.DIVERGED: f"not reproduced: {accuracies}.",
    }
    lines = [f"{version.name} was {verdicts[result.verdict]}"]
    if not result.exact:
        lines.append(f"  The weights are not compared: {INEXACT_TEXT}.")
    if result.starts_from:
        lines.append(f"  {version.name} starts from {', which starts from '.join(result.starts_from)}.")
    lines += [f"  {name}: {then} then, {here} here" for name, (then, here) in result.differing.items()]
    if not result.differing:
        is_unexplained = result.exact and result.verdict != reproduction.IDENTICAL
        threads = "; the number of threads (--cpus) may differ" if is_unexplained else ""
        lines.append(f"  Code, data, package versions and devices are the same{threads}.")
    lines.append(f"  It took {result.seconds:.1f} s.")
    diverged = result.verdict == reproduction.DIVERGED
    return CommandResult(result, lines, exit_codes.INTEGRITY if diverged else exit_codes.DONE)


def export(options: ExportOptions, objects: Objects) -> CommandResult:
    version, form = _version(objects, options), options.format
    missing = [module for module in EXPORT_FORMATS[form].modules if importlib.util.find_spec(module) is None]
    if missing:
        raise SpecError(f"format: {form} needs {', '.join(missing)}; install the extra: pip install '.[export]'")
    target = options.to or Path.cwd() / f"{version.model}-{version.number}{EXPORT_FORMATS[form].suffix}"
    require_absent(target)
    _import_keras(gpus=False)
    from mnist_lib import loading

    dataset = load_dataset(_data(version, options), objects)
    images = dataset.test.images[:NUM_EXPORT_IMAGES]
    with quietly():
        exported = loading.export(loading.build(_stored(objects, version, options)), form, target, images)
    lines = [
        f"{version.name} is in {exported.path} ({exported.bytes:,} bytes).",
        f"The file predicts the same for {exported.tried} test images"
        f" (probabilities within {exported.max_difference:.0e}).",
    ]
    return CommandResult(exported, lines)


def _import_keras(*, gpus: bool) -> None:
    with step("importing TensorFlow"):
        import_keras(gpus=gpus)


def _version(objects: Objects, options: ComputeOptions) -> Version:
    """Return the version that the options name. A bare model name means its champion for --dataset, if it has one."""
    return find_version(objects, options.version, champion_dataset(objects, options.dataset, options.version))


def predict_here(objects: Objects, challenger: Version, options: PromoteOptions) -> Predict:
    """Return a function that predicts images of a challenger's hold-out with another version, in this process."""

    def predict(version: Version, positions: "NDArray[np.intp]") -> "NDArray[np.float32]":
        images = tested_split(objects, challenger, _data(challenger, options)).images
        _import_keras(gpus=False)
        return load_stored(_stored(objects, version, options))(images[positions])

    return predict


def _stored(objects: Objects, version: Version, options: ComputeOptions | PromoteOptions) -> StoredModel:
    return StoredModel.read(objects, version, options.model_file, options.model_arg)


def _data(version: Version, options: ComputeOptions | PromoteOptions) -> DataRequest:
    return dataset_request(version, options.dataset, **options.source())
