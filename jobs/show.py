"""`python -m jobs.show DATASET`: describe a dataset, and draw pictures of some of its images."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jobs.console.datasets import DATASET_HELP, DataOptions
from jobs.console.options import JsonOptions, StorageOptions, parse
from jobs.console.output import CommandResult, entry_point
from jobs.console.terminal import step
from jobs.console.values import Folder
from mnist_lib.augment import AUTO, parse_augment
from mnist_lib.catalog import PICTURE_MODEL
from mnist_lib.data.sources.availability import default_data_dir
from mnist_lib.environment import import_keras
from mnist_lib.errors import SpecError
from mnist_lib.objects.output_file import atomic_output
from mnist_lib.objects.storage import open_storage
from mnist_lib.settings import Seed, option
from mnist_lib.spec import TrialSpec
from mnist_lib.store.images import load_dataset

if TYPE_CHECKING:
    from rich.console import RenderableType


@dataclass(frozen=True, kw_only=True)
class ShowOptions(DataOptions, StorageOptions, JsonOptions):
    """Describe a dataset: its size, classes and pixel values; with --picture, draw some of its images."""

    dataset: str = option("mnist-mini", DATASET_HELP, "DATASET", positional=True)
    picture: Folder | None = option(None, "file to write: ten training images of each class", "FILE.png")
    augmented: Folder | None = option(
        None, "file to write: twelve training images, each above its version changed by --augment", "FILE.png"
    )
    augment: str = option(
        AUTO,
        "how training images are changed, as for jobs.train; auto: the changes of the default network",
        "CHANGES",
    )
    seed: Seed = option(0, "random seed that chooses the images to show")
    storage: str = option(
        "results", "folder or bucket of runs, which stores the corrections of datasets that are not folders", "DIR|URL"
    )

    def check(self) -> None:
        self.data()
        parse_augment(self.augment)
        for name, path in (("picture", self.picture), ("augmented", self.augmented)):
            if path is not None and path.suffix.lower() != ".png":
                raise SpecError(f"{name}: expected a name that ends in .png, got {path.name}")
            if path is not None and (not path.parent.is_dir() or path.is_dir()):
                raise SpecError(f"{name}: expected a file in an existing folder, got {path}")


OPTIONS = {"": ShowOptions}


@entry_point
def main(arguments: Sequence[str]) -> CommandResult:
    options: ShowOptions = parse("jobs.show", ShowOptions, arguments)
    options.check()
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # TensorFlow would reserve the memory of GPUs that other processes use
    with step(f"loading {options.dataset}") as progress:
        dataset = load_dataset(options.data(), open_storage(options.storage), progress, near_copies=True)
    from rich.text import Text

    from mnist_lib.report.dataset import dataset_tables, describe, draw_examples

    description = describe(
        dataset, options.data_dir or default_data_dir() if dataset.report.reusable else None, options.data().folder
    )
    if options.picture is not None:
        with atomic_output(options.picture) as written:
            draw_examples(dataset, options.seed, written)
    lines: list[RenderableType] = [dataset_tables(description)]
    if options.picture is not None:
        where = f"\nTraining images of each class are in {options.picture}"
        lines.append(Text(where, no_wrap=True, overflow="ignore"))
    if options.augmented is not None:
        import_keras()
        from mnist_lib.report.augmented import draw_augmented

        model = PICTURE_MODEL if options.data().entry is None else "keras-cnn"
        spec = TrialSpec.of(model, dataset=dataset.name, augment=options.augment, seed=options.seed)
        with atomic_output(options.augmented) as written:
            draw_augmented(dataset, spec, written)
        where = f"\nTraining images and what --augment {options.augment} makes of them are in {options.augmented}"
        lines.append(Text(where, no_wrap=True, overflow="ignore"))
    return CommandResult(description, lines, json=options.json)


if __name__ == "__main__":
    sys.exit(main())
