"""`python -m jobs.review [PICTURE...]`: review the labels of pictures in the browser, or in a table."""

import asyncio
import contextlib
import itertools
import logging
import signal
import sys
import tempfile
import webbrowser
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from jobs.console.options import parse
from jobs.console.output import CommandResult, entry_point, log_to_stderr, print_result, print_stderr
from jobs.console.terminal import step
from jobs.review.data import Additions, LearnedLabel, ReviewedData, Viewer, read_data
from jobs.review.labels import Labels
from jobs.review.model_process import ModelProcess, NoModel
from jobs.review.options import DEFAULT_DATASET, ApplyOptions, ReviewOptions
from jobs.review.pictures import ItemAndImage, disputed_items, learned_labels, read_arrays, read_files, run_versions
from jobs.review.server import Server, listening_socket
from jobs.review.session import Session
from jobs.review.table import apply_table, write_table
from mnist_lib.api import choose_version
from mnist_lib.catalog import DATASETS
from mnist_lib.data.corrections import labels_file
from mnist_lib.data.sources.scan import find_pictures
from mnist_lib.errors import MnistError, ModelError, SpecError
from mnist_lib.objects.protocol import Objects
from mnist_lib.objects.storage import open_storage
from mnist_lib.pictures.reading import Layout, Shape
from mnist_lib.store.champions.appointment import champions
from mnist_lib.store.champions.log import champion_dataset
from mnist_lib.store.contents import StoredModel
from mnist_lib.store.versions import Version, model_names
from mnist_lib.wording import counted

SECONDS_BETWEEN_REFRESHES = 5.0  # how often labels from other processes are read

log = logging.getLogger("jobs.review")  # __name__ is "__main__" under `python -m`

OPTIONS = {"": ReviewOptions, "apply": ApplyOptions}


@entry_point
def main(arguments: Sequence[str]) -> CommandResult:
    if arguments and arguments[0] == "apply":
        return apply_table(parse("jobs.review apply", ApplyOptions, arguments[1:]))
    options: ReviewOptions = parse("jobs.review", ReviewOptions, arguments)
    log_to_stderr(verbose=options.verbose)
    options.check()
    objects = open_storage(options.storage)
    versions = run_versions(objects, options.run) if options.run is not None else []
    request, version = options.request(_dataset(options, versions)), _version(options, objects, versions)
    stored = StoredModel.read(objects, version, options.model_file, options.model_arg) if version else None
    if version is not None and version.facts.dataset.name == request.name:
        known = version.facts.dataset
        request = replace(request, group_by=request.group_by or known.group_by, none=request.none or known.none)
        request = request.shaped(known.image_shape)
    with contextlib.closing(ModelProcess(stored) if stored else NoModel()) as model:
        with step(f"reading {request.name}") as progress:
            percent = stored.manifest.spec.validation_percent if stored else None
            data = read_data(request, objects, progress, percent)
        learned = learned_labels(objects, version) if version else {}
        with _begun(options, objects, data, stored, model, versions, learned) as session:
            if options.to is not None:
                return _write(options.to, options, session, request.dataset)
            return asyncio.run(_serve(options, session))


def _version(options: ReviewOptions, objects: Objects, versions: Sequence[Version]) -> Version | None:
    """Return the version that predicts the pictures; None if none is named, and there is no champion yet."""
    if options.model is None and versions:
        return versions[0]
    if options.model is None and not any(champions(objects, model) for model in model_names(objects)):
        return None
    dataset = champion_dataset(objects, options.dataset or DEFAULT_DATASET, options.model)
    return choose_version(objects, options.model, dataset).version


@contextlib.contextmanager
def _begun(
    options: ReviewOptions,
    objects: Objects,
    data: ReviewedData,
    stored: StoredModel | None,
    model: ModelProcess | NoModel,
    versions: Sequence[Version],
    learned: Mapping[str, LearnedLabel],
) -> Iterator[Session]:
    """Begin to read the pictures that are to be reviewed. `learned`: as for `Order`."""
    rng, shape = np.random.default_rng(options.seed), Shape(*data.dataset.image_shape)
    layout = stored.layout() if stored else Layout.of(data.request.name, shape)
    classes = stored.manifest.dataset.classes if stored else data.dataset.classes
    labels = Labels(labels_file(data.request, objects), options.author())
    labels.refresh()
    additions = Additions.of(data) if options.pictures else None
    pictures: Iterator[ItemAndImage | None]
    if versions:
        disputed = disputed_items(objects, versions, data, labels)
        pictures, count = ((item, None) for item in disputed), len(disputed)
    elif options.pictures or data.folder is not None:
        paths = find_pictures(options.pictures) or data.paths()
        paths = [paths[index] for index in rng.permutation(len(paths))]
        pictures, count = read_files(data, paths, layout), len(paths)
    else:
        if layout.shape != data.dataset.image_shape:
            expected, got = (" x ".join(map(str, shape)) for shape in (layout.shape, data.dataset.image_shape))
            name = data.request.name
            raise SpecError(f"model: expected one for {name}, {got}, got {model.name}, for {expected}; use --model")
        pictures, count = read_arrays(data, rng), len(data.known)
    with contextlib.closing(Viewer(data, layout)) as viewer:
        session = Session(labels, viewer, model, classes, additions, learned)
        session.begin(pictures, count)
        try:
            yield session
        finally:
            session.stop()


def _dataset(options: ReviewOptions, versions: Sequence[Version]) -> str:
    """Return the dataset to review. Raises SpecError if it is that of a run and cannot be known."""
    if options.dataset is not None or not versions:
        return options.dataset or DEFAULT_DATASET
    name = versions[0].facts.dataset.name
    if name not in DATASETS:
        raise SpecError(f"dataset: {versions[0].run} was trained on {name}; name it with --dataset DIR or tfds:NAME")
    return name


def _write(path: Path, options: ReviewOptions, session: Session, dataset: str) -> CommandResult:
    """Write a table of pictures to review: random ones if the model cannot be loaded."""
    with step("reading and predicting pictures"):
        if options.run is None:  # no answer is shown for test images, which alone a run disputes
            with contextlib.suppress(ModelError):  # the session says so in the log
                session.model.wait()
        session.wait()
    chosen = [*itertools.islice(iter(session.order.take, None), options.count)]
    write_table(path, chosen, session.model_classes, dataset)
    text = (
        f"{counted(len(chosen), 'picture')} {'is' if len(chosen) == 1 else 'are'} in {path}. Write the right class, or"
        f" none, into the column `label`; then: python -m jobs.review apply {path}"
    )
    return CommandResult(None, [text])


async def _serve(options: ReviewOptions, session: Session) -> CommandResult:
    """Serve the page until a signal ends this process, and return what was reviewed."""
    ended, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            loop.add_signal_handler(number, ended.set)
    server = Server(session, listening_socket(options.port))
    async with server.running():
        with _opened(server.address, options.browser):
            refreshing = asyncio.create_task(_refresh(session))
            await ended.wait()
            refreshing.cancel()
    return CommandResult(None, [session.labels.tally().text(session.labels.where)])


async def _refresh(session: Session) -> None:
    while True:
        await asyncio.sleep(SECONDS_BETWEEN_REFRESHES)
        try:
            await asyncio.to_thread(session.refresh)
        except MnistError as error:
            log.warning("%s", error)


@contextlib.contextmanager
def _opened(address: str, browser: bool) -> Iterator[None]:
    """Open the page in the browser, or print its address, on standard output only."""
    if not browser:
        print_result(address)
        yield
        return
    # The browser gets the address from a private file: every user of this machine sees the arguments of a process.
    with tempfile.TemporaryDirectory(prefix="mnist-review-") as folder:
        page = Path(folder, "open.html")
        page.write_text(
            f'<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0; url={address}">\n'
        )
        if webbrowser.open(page.as_uri()):
            print_stderr("The page is open in the browser; Ctrl-C ends the review.")
        else:
            print_result(address)
        yield


if __name__ == "__main__":
    sys.exit(main())
