"""The commands of `jobs.models` that compute with a stored version, in this process: evaluate, reproduce, export."""

import contextlib
import importlib.util
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from jobs import SOURCE_FOLDERS
from jobs.console import exit_codes
from jobs.console.output import CommandResult
from jobs.models.options import EvaluateOptions, ExportOptions, ReproduceOptions
from mnist_lib.api import find_version
from mnist_lib.catalog import EXPORT_FORMATS, MODELS, require_known
from mnist_lib.environment import code_version, import_keras, quietly
from mnist_lib.errors import DataError, SpecError
from mnist_lib.store.local import require_free
from mnist_lib.store.objects import Objects
from mnist_lib.store.versions import Version

if TYPE_CHECKING:
    from mnist_lib.data.split import Dataset, Split

IMAGES_TO_TRY = 100


def evaluate(options: EvaluateOptions, objects: Objects) -> CommandResult:
    version = find_version(objects, options.version, MODELS)
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # a look is no reason to take a GPU from who trains on it
    import_keras()
    from mnist_lib.export.loading import compare_with_stored, load, load_trusted
    from mnist_lib.store.contents import Predictions

    predict = (load_trusted if options.trust else load)(objects, version)
    stored = Predictions.of(objects, version)
    found = compare_with_stored(stored, predict, tested_split(version, options.data_dir, options.data_source))
    same = "all" if found.matching == found.test.total else f"{found.matching:,} of"
    near = f"probabilities within {found.max_difference:.0e}" if found.max_difference else "the same probabilities"
    text = (
        f"{version.name} gives the stored answer to {same} {found.test.total:,} test images ({near}).\n"
        f"It has {found.test.correct:,} right: {found.test.value:.2%}."
    )
    return CommandResult(asdict(found), text, exit_codes.DONE if found.reproduced else exit_codes.INTEGRITY)


def reproduce(options: ReproduceOptions, objects: Objects) -> CommandResult:
    version = find_version(objects, options.version, MODELS)
    import_keras()
    from mnist_lib.export import reproduction

    cpus = options.cpus or os.cpu_count() or 1
    found = reproduction.reproduce(
        objects,
        version,
        lambda: _dataset(version, options.data_dir, options.data_source),
        cpus,
        code_version(SOURCE_FOLDERS),
    )
    low, high = found.stored.interval()
    told = {
        reproduction.IDENTICAL: f"{version.name} came out identical: every weight is the same.",
        reproduction.WITHIN: f"{version.name} came out within the interval: other weights, {found.again.value:.2%} of"
        f" the test images right, stored {found.stored.value:.2%} ({low:.2%} to {high:.2%}).",
        reproduction.DIVERGED: f"{version.name} diverged: {found.again.value:.2%} of the test images right, stored"
        f" {found.stored.value:.2%} ({low:.2%} to {high:.2%}).",
    }
    differing = [f"  {name}: {stored} then, {here} now" for name, (stored, here) in found.differing.items()]
    same = ["  Code, data, versions and devices are the same as then."]
    text = "\n".join([told[found.verdict], *(differing or same), f"  It took {found.seconds:.1f} s."])
    diverged = found.verdict == reproduction.DIVERGED
    return CommandResult(asdict(found), text, exit_codes.INTEGRITY if diverged else exit_codes.DONE)


def export(options: ExportOptions, objects: Objects) -> CommandResult:
    version, form = find_version(objects, options.version, MODELS), options.format
    if form is None:
        raise SpecError(f"format: expected one of {', '.join(EXPORT_FORMATS)}")
    require_known("format", form, EXPORT_FORMATS)
    lacking = [module for module in EXPORT_FORMATS[form].modules if importlib.util.find_spec(module) is None]
    if lacking:
        raise SpecError(f"format: {form} needs {', '.join(lacking)}; install the extra: pip install '.[export]'")
    target = options.to or Path.cwd() / f"{version.model}-{version.number}{EXPORT_FORMATS[form].suffix}"
    require_free(target)
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    import_keras()
    from mnist_lib.export import formats as exporting
    from mnist_lib.export.loading import build
    from mnist_lib.store.contents import StoredModel

    images = _dataset(version, options.data_dir, options.data_source).test.images[:IMAGES_TO_TRY]
    with quietly():
        found = exporting.export(build(StoredModel.of(objects, version)), form, target, images)
    text = (
        f"{version.name} is in {found.path} ({found.bytes:,} bytes).\n"
        f"It gives the same answers to {found.tried} test images (probabilities within {found.max_difference:.0e})."
    )
    return CommandResult(asdict(found), text)


def tested_split(version: Version, data_dir: Path | None, data_source: Path | None) -> "Split":
    """The images that it was tested on. Raises DataError if they are others here."""
    dataset = _dataset(version, data_dir, data_source)
    tested_on = version.about["dataset"].get("fingerprint")
    if dataset.fingerprint != tested_on:
        raise DataError(
            f"{version.name} was tested on {dataset.name} with the fingerprint {tested_on}, this one has "
            f"{dataset.fingerprint}; use the same data with --data-dir or --data-source"
        )
    return dataset.test


def _dataset(version: Version, data_dir: Path | None, data_source: Path | None) -> "Dataset":
    """The one that it was trained and tested on, as it is here."""
    from mnist_lib.data.prepare import prepare

    with contextlib.redirect_stdout(sys.stderr):  # TFDS tells its progress there
        return prepare(str(version.about["dataset"].get("name")), data_dir, data_source)
