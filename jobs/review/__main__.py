"""`python -m jobs.review [PICTURE...]`: review the labels of pictures in the browser."""

import asyncio
import contextlib
import logging
import signal
import sys
import tempfile
import webbrowser
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from jobs.console.options import parse
from jobs.console.output import CommandResult, entry_point, log_to_stderr, print_result, print_stderr
from jobs.console.terminal import step
from jobs.review.data import Additions, ReviewedData, Viewer, read_data
from jobs.review.labels import Labels
from jobs.review.model_process import ModelProcess, NoModel
from jobs.review.options import DEFAULT_DATASET, ReviewOptions
from jobs.review.pictures import ItemAndImage, disputed_items, learned_labels, read_arrays, read_files, run_versions
from jobs.review.server import Server, listening_socket
from jobs.review.session import Order, Session
from mnist_lib.api import choose_version
from mnist_lib.catalog import DATASETS
from mnist_lib.data.corrections import labels_file
from mnist_lib.data.sources.scan import find_pictures
from mnist_lib.errors import MnistError, SpecError
from mnist_lib.objects.protocol import Objects
from mnist_lib.objects.storage import open_storage
from mnist_lib.pictures.reading import Layout, Shape
from mnist_lib.store.champions.appointment import champions
from mnist_lib.store.champions.log import champion_dataset
from mnist_lib.store.contents import StoredModel
from mnist_lib.store.versions import Version, model_names

SECONDS_BETWEEN_REFRESHES = 5.0  # how often labels from other processes are read

log = logging.getLogger("jobs.review")  # __name__ is "__main__" under `python -m`

OPTIONS = {"": ReviewOptions}


@entry_point
def main(arguments: Sequence[str]) -> CommandResult:
    options: ReviewOptions = parse("jobs.review", ReviewOptions, arguments)
    log_to_stderr(verbose=options.verbose)
    with open_session(options) as session:
        asyncio.run(_serve(options, session))
    return CommandResult(None, [session.labels.tally().text(session.labels.where)])


@contextlib.contextmanager
def open_session(options: ReviewOptions) -> Iterator[Session]:
    """Open a review. Until the block ends, a thread reads its pictures, and a process predicts them."""
    options.check()
    objects = open_storage(options.storage)
    versions = run_versions(objects, options.run) if options.run is not None else []
    request = options.request(_dataset(options, versions))
    version = _version(options, objects, versions)
    stored = StoredModel.read(objects, version, options.model_file, options.model_arg) if version else None
    if version is not None and version.facts.dataset.name == request.name:
        known = version.facts.dataset
        request = replace(request, group_by=request.group_by or known.group_by, none=request.none or known.none)
        request = request.shaped(known.image_shape)
    with contextlib.ExitStack() as stack:
        model = stack.enter_context(contextlib.closing(ModelProcess(stored))) if stored else NoModel()
        with step(f"reading {request.name}") as progress:
            percent = stored.manifest.spec.validation_percent if stored else None
            data = read_data(request, objects, progress, percent)
        labels = Labels(labels_file(request, objects), options.author())
        labels.refresh()
        additions = Additions.of(data) if options.pictures else None
        layout = stored.layout() if stored else Layout.of(request.name, Shape(*data.dataset.image_shape))
        rng = np.random.default_rng(options.seed)
        pictures: Iterator[ItemAndImage | None]
        if versions:
            disputed = disputed_items(objects, versions, data, labels)
            pictures = ((item, None) for item in disputed)
            count = len(disputed)
        elif options.pictures or data.folder is not None:
            paths = find_pictures(options.pictures) or data.paths()
            pictures = read_files(data, [paths[index] for index in rng.permutation(len(paths))], layout)
            count = len(paths)
        else:
            _require_shape(model.name, layout.shape, data)
            pictures = read_arrays(data, rng)
            count = len(data.known)
        viewer = stack.enter_context(contextlib.closing(Viewer(data, layout)))
        classes = stored.manifest.dataset.classes if stored else data.dataset.classes
        order = Order(classes, learned_labels(objects, version) if version else {})
        session = Session(labels, viewer, model, order, additions)
        session.begin(pictures, count)
        stack.callback(session.stop)
        yield session


def _dataset(options: ReviewOptions, versions: Sequence[Version]) -> str:
    """Return the dataset to review. Raises SpecError if it is that of a run and cannot be known."""
    if options.dataset is not None or not versions:
        return options.dataset or DEFAULT_DATASET
    name = versions[0].facts.dataset.name
    if name not in DATASETS:
        raise SpecError(f"dataset: {versions[0].run} was trained on {name}; name it with --dataset DIR or tfds:NAME")
    return name


def _require_shape(model: str, shape: Shape, data: ReviewedData) -> None:
    """Raise SpecError if a model takes images of another shape than those of a dataset."""
    if shape != data.dataset.image_shape:
        expected, got = (" x ".join(map(str, each)) for each in (data.dataset.image_shape, shape))
        name = data.request.name
        raise SpecError(f"model: expected one for {name}, {expected}, got {model}, for {got}; use --model")


def _version(options: ReviewOptions, objects: Objects, versions: Sequence[Version]) -> Version | None:
    """Return the version that predicts the pictures; None if none is named, and there is no champion yet."""
    if options.model is None and versions:
        return versions[0]
    if options.model is None and not any(champions(objects, model) for model in model_names(objects)):
        return None
    dataset = champion_dataset(objects, options.dataset or DEFAULT_DATASET, options.model)
    return choose_version(objects, options.model, dataset).version


async def _serve(options: ReviewOptions, session: Session) -> None:
    """Serve the page until a signal ends this process."""
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            asyncio.get_running_loop().add_signal_handler(number, ended.set)
    server = Server(session, listening_socket(options.port))
    async with server.running():
        with _opened(server.address, options.browser):
            refreshing = asyncio.create_task(_refresh(session))
            await ended.wait()
            refreshing.cancel()


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
    # The browser gets the address from a private file: every user of this machine sees the arguments of a process.
    with tempfile.TemporaryDirectory(prefix="mnist-review-") as folder:
        page = Path(folder, "open.html")
        page.write_text(f'<!doctype html><meta http-equiv="refresh" content="0; url={address}">\n')
        if browser and webbrowser.open(page.as_uri()):
            print_stderr("The page is open in the browser; Ctrl-C ends the review.")
        else:
            print_result(address)
        yield


if __name__ == "__main__":
    sys.exit(main())
