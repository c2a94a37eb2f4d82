"""`python -m jobs.predict PICTURE...`: predict the classes of pictures."""

import contextlib
import functools
import logging
import os
import shlex
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jobs import SOURCE_FOLDERS
from jobs.console import exit_codes
from jobs.console.options import parse
from jobs.console.output import CommandResult, entry_point, log_to_stderr, print_error
from jobs.console.terminal import step
from jobs.predict import answers
from jobs.predict.answers import Answer, Failure, PictureResult, picture_results
from jobs.predict.batches import predict_here, predict_on_cluster
from jobs.predict.options import PredictOptions
from mnist_lib.api import choose_version, load_answerer
from mnist_lib.data.sources.scan import find_pictures, real_folders
from mnist_lib.errors import ImageError, SpecError
from mnist_lib.objects.storage import open_storage
from mnist_lib.pictures.reading import Picture, read_file, size_of
from mnist_lib.pictures.sandbox import Sandboxes
from mnist_lib.store.champions.log import champion_dataset
from mnist_lib.store.contents import StoredModel
from mnist_lib.store.versions import Version
from mnist_lib.wording import counted, duration, percent

if TYPE_CHECKING:
    from mnist_lib.api import Answerer

MAX_RESIZED_LINES = 5  # up to this many resized pictures have a line each; more share one line

log = logging.getLogger("jobs.predict")  # __name__ is "__main__" under `python -m`

OPTIONS = {"": PredictOptions}


@entry_point
def main(arguments: Sequence[str]) -> CommandResult:
    options: PredictOptions = parse("jobs.predict", PredictOptions, arguments)
    log_to_stderr(verbose=options.verbose)
    options.check()
    objects = open_storage(options.storage)
    # With --from-test, --dataset may only say where the test images are.
    dataset = champion_dataset(objects, options.dataset, options.model)
    if options.from_test is None and "@" not in (options.model or ""):
        dataset = options.dataset
    choice = choose_version(objects, options.model, dataset)
    version = choice.version
    stored = StoredModel.read(objects, version, options.model_file, options.model_arg)
    tested = f"whose test accuracy on {version.facts.dataset.name} is {percent(version.facts.test.value)}"
    log.info("predicting with %s, %s: %s", version.name, tested, choice.why)
    if options.from_test is not None:
        results = _predict_test_images(options, version, stored)
    else:
        if why := stored.why_all_accepted(options.reject_share):
            log.warning("%s", why)
        results = _predict_files(options, stored, arguments)
    return _result(results, options, version, stored.manifest.dataset.classes)


def _predict_files(options: PredictOptions, stored: StoredModel, arguments: Sequence[str]) -> list[PictureResult]:
    """Predict the pictures in files. Those that certainly cannot be read are reported before the model is loaded."""
    failures: dict[Path, PictureResult] = {}
    files = find_pictures(options.pictures)
    for path in files:
        try:
            size_of(path)
        except ImageError as error:
            failures[path] = Failure(str(path), error)
    _print_failures(failures.values())
    paths = [path for path in files if path not in failures]
    if not paths:
        return [*failures.values()]
    folders = real_folders(options.pictures)
    with contextlib.ExitStack() as stack:
        if options.address or os.environ.get("RAY_ADDRESS"):
            with step("connecting to the Ray cluster"):
                import ray

                from cluster.session import end_children, session
                from jobs.console.signals import stoppable

                stack.enter_context(session(options.address, SOURCE_FOLDERS))
            command = shlex.join(["python", "-m", "jobs.predict", *arguments])
            stack.enter_context(stoppable(f"start again with: {command}", end_children))
            batches = predict_on_cluster(paths, folders, ray.put(stored), options)
        else:
            sandboxes = stack.enter_context(Sandboxes(len(paths)))
            model = _built(stored)
            layout = stored.layout(as_is=options.as_is, accept_all=options.accept_all)
            read = functools.partial(read_file, layout=layout, folders=folders)
            batches = predict_here(sandboxes.map(read, paths), model)
        results = picture_results(paths, batches, stored.manifest.dataset.classes, options.reject_share)
        return [*failures.values(), *_collected(results, len(paths))]


def _print_failures(results: Iterable[PictureResult]) -> None:
    for result in results:
        if isinstance(result, Failure):
            print_error(ImageError.code, f"{result.name}: {result.error}")


def _predict_test_images(options: PredictOptions, version: Version, stored: StoredModel) -> list[PictureResult]:
    count, model, objects = options.from_test or 0, _built(stored), open_storage(options.storage)
    from mnist_lib.store.images import dataset_request, tested_split

    data = dataset_request(version, options.dataset, data_dir=options.data_dir, data_source=options.data_source)
    split = tested_split(objects, version, data)
    if count > len(split):
        raise SpecError(f"from_test: expected at most {len(split):,}, the number of test images, got {count:,}")
    chosen = np.random.default_rng(options.seed).choice(len(split), count, replace=False)
    (height, width), classes = split.images.shape[1:3], stored.manifest.dataset.classes
    results: list[PictureResult] = []
    for index, row in zip(chosen, model(np.asarray(split.images[chosen])).probabilities, strict=True):
        picture, label = Picture(split.images[index], (width, height)), classes[split.labels[index]]
        results.append(Answer(f"test image {index}", picture, row, classes, label))
    return results


def _built(stored: StoredModel) -> "Answerer":
    """Load and compile the model."""
    with step(f"loading {stored.name}"), contextlib.redirect_stdout(sys.stderr):  # what a user's model prints
        return load_answerer(stored)


def _collected(batches: Iterable[list[PictureResult]], pictures: int) -> list[PictureResult]:
    """Return all results, and print each failure when it occurs."""
    begin = time.monotonic()
    results: list[PictureResult] = []
    with step("predicting") as show:
        for batch in batches:
            _print_failures(batch)
            results += batch
            left = (time.monotonic() - begin) / len(results) * (pictures - len(results))
            show(f"{len(results):,} of {counted(pictures, 'picture')}, about {duration(left)} left")
    seconds, in_all = time.monotonic() - begin, _seconds_of_process()
    rate = f"{seconds:.1f} s predicting, {pictures / seconds:,.0f} pictures/s"
    log.info("%s in %.1f s (%s)", counted(pictures, "picture"), in_all, rate)
    return results


def _seconds_of_process() -> float:
    """Return the seconds since this process was started, imports included; without Linux, its processor time."""
    status = Path("/proc/self/stat")
    if not status.exists():
        return time.process_time()
    # Not psutil's create_time(), which is up to a second off: Linux gives the time of the boot in whole seconds.
    fields = status.read_text().rpartition(")")[2].split()
    return time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")


def _result(
    results: Sequence[PictureResult], options: PredictOptions, version: Version, classes: Sequence[str]
) -> CommandResult:
    predicted = [result for result in results if isinstance(result, Answer)]
    failures = [result for result in results if isinstance(result, Failure)]
    resized = [answer for answer in predicted if answer.picture.resized]
    texts = ["{} is {} x {}".format(answer.name, *answer.picture.size) for answer in resized]
    if len(texts) > MAX_RESIZED_LINES:
        texts = [f"{len(resized):,} of {counted(len(predicted), 'picture')} were of another size"]
    for text in texts:
        height, width, _ = resized[0].picture.image.shape
        log.warning("%s; resized to %d x %d", text, width, height)
    document = answers.as_document(predicted, failures, version, classes) if options.json else None
    if options.csv:
        lines = [answers.as_csv(predicted, labelled=options.from_test is not None)]
    else:
        lines = answers.as_lines(predicted) if predicted and not options.json else []
    all_failed = exit_codes.exit_code_of(ImageError.code)
    exit_code = exit_codes.DONE if not failures else exit_codes.SOME_FAILED if predicted else all_failed
    afterwards = functools.partial(answers.draw, predicted, options.picture) if predicted and options.picture else None
    return CommandResult(document, lines, exit_code, json=options.json, afterwards=afterwards)


if __name__ == "__main__":
    sys.exit(main())
