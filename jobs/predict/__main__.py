"""`python -m jobs.predict PICTURE...`: which digits are on pictures. Progress on stderr, the result on stdout."""

import contextlib
import logging
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from jobs import SOURCE_FOLDERS
from jobs.console import exit_codes
from jobs.console.options import parse
from jobs.console.output import log_to_stderr, print_result, print_stderr, printable, run_command
from jobs.predict import answers as predict_output
from jobs.predict.answers import Answer, Failure, PictureResult
from jobs.predict.batches import Predict, layout_of, predict_here, predict_on_cluster
from jobs.predict.options import PredictOptions
from jobs.predict.reading import Readers
from mnist_lib.api import version_to_ask
from mnist_lib.environment import import_keras
from mnist_lib.errors import ImageError, SpecError
from mnist_lib.pictures.reading import Picture, find_pictures
from mnist_lib.store.contents import StoredModel, accuracy_of_version
from mnist_lib.store.storage import check_storage, open_storage
from mnist_lib.store.versions import Version
from mnist_lib.wording import counted

MOST_NOTICES = 5  # of more pictures, one line tells

log = logging.getLogger("jobs.predict")  # __name__ is "__main__" where this is the command


def main(arguments: Sequence[str] | None = None) -> int:
    return run_command(predict, sys.argv[1:] if arguments is None else arguments)


def predict(arguments: Sequence[str]) -> int:
    options: PredictOptions = parse("jobs.predict", PredictOptions, arguments)
    log_to_stderr(verbose=options.verbose)
    options.check()
    check_storage(options.storage)
    objects = open_storage(options.storage)
    version = version_to_ask(objects, options.model)
    stored = StoredModel.of(objects, version)
    tested = accuracy_of_version(version)
    log.info("%s answers; it is right on %.2f%% of its test images", version.name, 100 * tested.value)
    if options.from_test is not None:
        outcomes = _of_test_images(options, version, stored)
    else:
        paths = find_pictures(options.pictures)
        where = _on_cluster if options.address or os.environ.get("RAY_ADDRESS") else _here
        with where(paths, stored, options, arguments) as batches:
            outcomes = list(_told(batches, len(paths)))
    return _conclude(outcomes, options, version)


@contextlib.contextmanager
def _here(
    paths: Sequence[Path], stored: StoredModel, options: PredictOptions, arguments: Sequence[str]
) -> Iterator[Iterable[list[PictureResult]]]:
    with Readers(paths) as readers:
        model = _built(stored)
        yield predict_here(paths, readers.pictures(layout_of(stored, options.as_is)), model)


@contextlib.contextmanager
def _on_cluster(
    paths: Sequence[Path], stored: StoredModel, options: PredictOptions, arguments: Sequence[str]
) -> Iterator[Iterable[list[PictureResult]]]:
    import ray

    from cluster.connection.session import end_children, session
    from jobs.console.signals import stoppable

    hint = shlex.join(["python", "-m", "jobs.predict", *arguments])
    with session(options.address, SOURCE_FOLDERS), stoppable(hint, end_children):
        yield predict_on_cluster(paths, ray.put(stored), options.as_is, options.limits())


def _of_test_images(options: PredictOptions, version: Version, stored: StoredModel) -> list[PictureResult]:
    model = _built(stored)
    from jobs.models.compute import tested_split

    split = tested_split(version, options.data_dir, options.data_source)
    count = options.from_test
    assert count is not None
    if count > len(split):
        raise SpecError(f"from_test: expected at most the {len(split):,} test images, got {count}")
    chosen = np.random.default_rng(options.seed).choice(len(split), count, replace=False)
    height, width, _ = split.images.shape[1:]
    return [
        Answer(f"test image {index}", Picture(split.images[index], (width, height)), row, int(split.labels[index]))
        for index, row in zip(chosen, model(split.images[chosen]), strict=True)
    ]


def _built(stored: StoredModel) -> Predict:
    """Compiled, too."""
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # a look is no reason to take a GPU from who trains on it
    import_keras()
    from mnist_lib.export.loading import build, predictor

    model = predictor(build(stored))
    model(np.zeros((1, *stored.manifest["dataset"]["image_shape"]), np.uint8))
    return model


def _told(batches: Iterable[list[PictureResult]], pictures: int) -> Iterator[PictureResult]:
    """Every outcome, with what cannot be predicted told at once."""
    begin = time.perf_counter()
    with _progress(pictures) as advance:
        for batch in batches:
            for outcome in batch:
                if isinstance(outcome, Failure):
                    print_stderr(printable(f"error[{ImageError.code}] {outcome.name}: {outcome.error}", keep=""))
                yield outcome
            advance(len(batch))
    seconds = time.perf_counter() - begin
    log.info("%s in %.1f s: %s pictures/s", counted(pictures, "picture"), seconds, f"{pictures / seconds:,.0f}")


@contextlib.contextmanager
def _progress(pictures: int) -> Iterator[Callable[[int], None]]:
    """A bar on standard error, if that is a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from jobs.console.terminal import terminal

    console = terminal()
    if console is None:
        yield lambda count: None
        return
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("pictures"), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=pictures)
        yield lambda count: progress.advance(task, count)


def _conclude(outcomes: Sequence[PictureResult], options: PredictOptions, version: Version) -> int:
    answers = [outcome for outcome in outcomes if isinstance(outcome, Answer)]
    failures = [outcome for outcome in outcomes if isinstance(outcome, Failure)]
    _tell_resized(answers)
    if options.json:
        print_result(predict_output.as_json(answers, failures, version))
    elif options.csv:
        print_result(predict_output.as_csv(answers, labelled=options.from_test is not None))
    elif answers:
        print_result(printable(predict_output.as_table(answers)))
    if options.picture is not None and answers:
        from jobs.predict.grid import draw

        draw(answers, options.picture)
    if failures and answers:
        return exit_codes.SOME_FAILED
    return exit_codes.exit_code_of(ImageError.code) if failures else exit_codes.DONE


def _tell_resized(answers: Sequence[Answer]) -> None:
    resized = [answer for answer in answers if answer.picture.resized]
    if not resized:
        return
    height, width, _ = resized[0].picture.image.shape
    if len(resized) <= MOST_NOTICES:
        for answer in resized:
            size = "{} x {}".format(*answer.picture.size)
            log.warning("%s is %s; resized to %d x %d", printable(answer.name, keep=""), size, width, height)
    else:
        of = f"{len(resized):,} of {counted(len(answers), 'picture')}"
        log.warning("%s were of another size; resized to %d x %d", of, width, height)


if __name__ == "__main__":
    sys.exit(main())
