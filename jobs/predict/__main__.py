"""`python -m jobs.predict PICTURE...`: predict the classes of pictures."""

import contextlib
import logging
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from jobs import SOURCE_FOLDERS
from jobs.console import exit_codes
from jobs.console.options import parse
from jobs.console.output import CommandResult, entry_point, log_to_stderr, print_error
from jobs.console.terminal import step
from jobs.predict import answers
from jobs.predict.answers import Answer, Failure, PictureResult, picture_results
from jobs.predict.batches import Prediction, predict_here, predict_on_cluster
from jobs.predict.options import PredictOptions
from mnist_lib.api import choose_version, load_answerer
from mnist_lib.data.sources.scan import find_pictures
from mnist_lib.environment import steady_time
from mnist_lib.errors import ImageError
from mnist_lib.objects.storage import open_storage
from mnist_lib.pictures.reading import read_file, size_of
from mnist_lib.pictures.sandbox import Sandboxes
from mnist_lib.store.contents import StoredModel
from mnist_lib.store.versions import Version
from mnist_lib.wording import counted, percent, reported

if TYPE_CHECKING:
    from mnist_lib.api import Answerer

log = logging.getLogger("jobs.predict")  # __name__ is "__main__" under `python -m`

OPTIONS = {"": PredictOptions}


@entry_point
def main(arguments: Sequence[str]) -> CommandResult:
    options: PredictOptions = parse("jobs.predict", PredictOptions, arguments)
    log_to_stderr(verbose=options.verbose)
    options.check()
    objects = open_storage(options.storage)
    version, why_chosen = choose_version(objects, options.model, options.dataset)
    stored = StoredModel.read(objects, version, options.model_file, options.model_arg)
    tested = f"whose test accuracy on {version.facts.dataset.name} is {percent(version.facts.test.value)}"
    log.info("predicting with %s, %s: %s", version.name, tested, why_chosen)
    if why := stored.why_all_accepted(options.reject_share):
        log.warning("%s", why)
    results = _predict_files(options, stored, arguments)
    return _result(results, options, version, stored.manifest.dataset.classes)


def _predict_files(options: PredictOptions, stored: StoredModel, arguments: Sequence[str]) -> list[PictureResult]:
    """Predict the pictures in files. Those that certainly cannot be read are reported before the model is loaded."""
    results: list[PictureResult] = []
    paths: list[Path] = []
    for path in find_pictures(options.pictures):
        try:
            size_of(path)
            paths.append(path)
        except ImageError as error:
            results.append(Failure(str(path), error))
            _print_failure(results[-1])
    if not paths:
        return results
    with contextlib.ExitStack() as stack:
        if options.address or os.environ.get("RAY_ADDRESS"):
            predictions = _predict_on_cluster(options, stored, paths, arguments, stack)
        else:
            sandboxes = stack.enter_context(Sandboxes(len(paths)))
            model = _built(stored)
            layout = stored.layout(as_is=options.as_is, accept_all=options.accept_all)
            read = partial(read_file, layout=layout)
            predictions = predict_here(sandboxes.map(read, paths), model)
        classes = stored.manifest.dataset.classes
        predicted = picture_results(paths, predictions, classes, options.reject_share)
        begin = steady_time()
        with step("predicting") as show:
            for result in reported(predicted, len(paths), "pictures", show):
                _print_failure(result)
                results.append(result)
        seconds = steady_time() - begin
    rate = f"{len(paths) / seconds:,.0f} pictures/s"
    log.info("%s in %.1f s (%s)", counted(len(paths), "picture"), seconds, rate)
    return results


def _predict_on_cluster(
    options: PredictOptions, stored: StoredModel, paths: Sequence[Path], arguments: Sequence[str], stack: ExitStack
) -> Iterator[Prediction | ImageError]:
    """Connect to the cluster until the stack is closed, and return the predictions of its workers."""
    with step("connecting to the Ray cluster"):
        import ray

        from cluster.session import end_children, session
        from jobs.console.signals import stoppable

        stack.enter_context(session(options.address, SOURCE_FOLDERS))
    command = shlex.join(["python", "-m", "jobs.predict", *arguments])
    stack.enter_context(stoppable(f"start again with: {command}", end_children))
    return predict_on_cluster(paths, ray.put(stored), options)


def _print_failure(result: PictureResult) -> None:
    if isinstance(result, Failure):
        print_error(ImageError.code, f"{result.name}: {result.error}")


def _built(stored: StoredModel) -> "Answerer":
    """Load and compile the model."""
    with step(f"loading {stored.name}"), contextlib.redirect_stdout(sys.stderr):  # what a user's model prints
        return load_answerer(stored)


def _result(
    results: Sequence[PictureResult], options: PredictOptions, version: Version, classes: Sequence[str]
) -> CommandResult:
    predicted = [result for result in results if isinstance(result, Answer)]
    failures = [result for result in results if isinstance(result, Failure)]
    if resized := [answer.picture for answer in predicted if answer.picture.resized]:
        height, width, _ = resized[0].image.shape
        log.warning("%d of %s resized to %d x %d", len(resized), counted(len(predicted), "picture"), width, height)
    lines: list[str] = []
    if options.csv:
        lines = [answers.as_csv(predicted)]
    elif predicted:
        lines = answers.as_lines(predicted)
    all_failed = exit_codes.exit_code_of(ImageError.code)
    return CommandResult(
        answers.as_document(predicted, failures, version, classes),
        lines,
        exit_codes.DONE if not failures else exit_codes.SOME_FAILED if predicted else all_failed,
        json=options.json,
    )


if __name__ == "__main__":
    sys.exit(main())
