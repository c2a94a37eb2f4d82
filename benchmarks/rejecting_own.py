"""How much of something else models of a user's own pictures reject, with and without made-up pictures in training.

    python -m benchmarks.sources DIR
    python -m benchmarks.rejecting_own --source MNIST --sources DIR

Each set of `benchmarks.pictures` is trained with the default network and options, once with made-up pictures
(`mnist_lib.data.made_up`) and once with --no-none-class, on the same pictures of each seed. Both are calibrated on the
test pictures of the set. What they answer is counted for fresh pictures of the set and for pictures of something else;
none of these are made as those of the training, except noise and blank ones. Two trials run at a time, with one thread
each.
"""

import argparse
import io
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from benchmarks import drawings
from benchmarks.digits import parser_with_source
from benchmarks.drawings import Pixels, Random
from benchmarks.pictures import NAMES, SCENES, PictureSet, background, contrasting, image_of, letters_on, picture_sets
from benchmarks.record import paired_difference_text, setting
from benchmarks.rejecting import share_of
from benchmarks.trials import train_trial
from mnist_lib.catalog import PICTURE_MODEL
from mnist_lib.data.prepare import prepare
from mnist_lib.data.request import DataRequest
from mnist_lib.pictures.likeness import LIKENESS, REJECT_SHARE, Likeness
from mnist_lib.pictures.reading import Layout, Shape, read_picture
from mnist_lib.spec import TrialSpec, defaults_for
from mnist_lib.training.assignment import Resources

SETS = ("letters", "colour scenes", "digits")
FOREIGN, GREEK = "CFJLNPQTUVWXYZ", "ΓΔΘΛΞΠΣΦΨΩ"
COUNT = 150  # pictures of each kind
SIDE = 90  # pixels of drawn pictures

Draw = Callable[[Random], Image.Image]


@dataclass(frozen=True, kw_only=True)
class Trial:
    pictures: str
    folder: Path
    sources: Path
    digits: Path | None
    seed: int
    none_class: bool


@dataclass(frozen=True)
class Measurement:
    accuracy: float  # percent
    seconds: float  # of the median epoch
    rejected: Mapping[str, float]  # share, by kind of picture


def kinds(pictures: PictureSet, name: str, sources: Path) -> dict[str, Draw]:
    """Return how a picture of each kind is drawn, beginning with the set's own."""
    photographs = drawings.photographs(sources / "evaluation" / "photographs")

    def own(random: Random) -> Image.Image:
        return pictures.draw(int(random.integers(len(pictures.classes))), True, random)

    def beside(random: Random) -> Image.Image:
        one, other = own(random), own(random)
        height = max(one.height, other.height)
        both = Image.new("RGB", (one.width + other.width, height))
        both.paste(one.resize((one.width, height)), (0, 0))
        both.paste(other.resize((other.width, height)), (one.width, 0))
        return both

    def half(random: Random) -> Image.Image:
        image = own(random)
        width, height = image.size
        parts = [(0, 0, width // 2, height), (width // 2, 0, width, height), (0, 0, width, height // 2)]
        return image.crop([*parts, (0, height // 2, width, height)][random.integers(4)])

    def photograph(random: Random) -> Image.Image:
        (part,) = drawings.crops(photographs, 1, random)
        return Image.fromarray(part)

    signs = {"foreign letters": FOREIGN, "Greek letters": GREEK}
    others = {name: letters_on(sources / "evaluation" / "fonts", text) for name, text in signs.items()}
    drawn = {
        "fresh": own,
        "blank": lambda random: Image.new("RGB", (SIDE, SIDE), colour(random)),
        "noise": lambda random: image_of(random.uniform(0, 255, (SIDE, SIDE, 3))),
        "blobs": blobs,
        "two": beside,
        **others,
        "halves": half,
        "stripes": stripes,
        "backgrounds": lambda random: image_of(background(SIDE, SIDE, random.uniform(0, 255, 3), random)),
        "photographs": photograph,
    }
    if name != "colour scenes":
        scenes = picture_sets(None, None)["colour scenes"]
        drawn["drawings"] = lambda random: scenes.draw(int(random.integers(len(SCENES))), True, random)
    return drawn


def colour(random: Random) -> Any:
    return tuple(map(int, random.integers(0, 256, 3)))


def blobs(random: Random) -> Image.Image:
    """Return discs in random colours on a plain one."""
    image = Image.new("RGB", (SIDE, SIDE), colour(random))
    drawing = ImageDraw.Draw(image)
    for _ in range(random.integers(3, 9)):
        x, y = random.uniform(0, SIDE, 2)
        radius = random.uniform(5, 25)
        drawing.ellipse((x - radius, y - radius, x + radius, y + radius), colour(random))
    return image


def stripes(random: Random) -> Image.Image:
    one, other = contrasting(random)
    angle, period = random.uniform(0, np.pi), random.uniform(6, 25)
    y, x = np.mgrid[:SIDE, :SIDE]
    is_one = np.sin((np.cos(angle) * x + np.sin(angle) * y) * 2 * np.pi / period) > 0
    return image_of(np.where(is_one[..., None], one, other))


def measure(trial: Trial) -> Measurement:
    """Train one trial in this process, and count what it rejects."""
    from mnist_lib.loading import LoadedModel, StoredPredictor  # loads TensorFlow
    from mnist_lib.models.building import build_model
    from mnist_lib.training.strategy import configure_process

    resources = Resources(cpus=1)
    configure_process(resources)
    dataset = prepare(DataRequest(dataset=str(trial.folder), data_dir=trial.folder.parent))
    settings: dict[str, Any] = {"seed": trial.seed, "none_class": trial.none_class, **defaults_for(len(dataset.train))}
    spec = TrialSpec.of(PICTURE_MODEL, dataset=dataset.name, **settings)
    result = train_trial(spec, dataset, resources)
    built = build_model(spec, dataset.image_shape, len(dataset.classes))
    likeness = Likeness.read(result.files[LIKENESS], LIKENESS)
    loaded = LoadedModel(
        built, built.read(result.files), dataset.image_shape, dataset.classes, likeness, rejects_blank=trial.none_class
    )
    predictor = StoredPredictor(loaded)
    layout = Layout(shape=Shape(*dataset.image_shape))
    random = np.random.default_rng([trial.seed, 1])
    pictures = picture_sets(trial.sources, trial.digits)[trial.pictures]
    rejected = {}
    for kind, draw in kinds(pictures, trial.pictures, trial.sources).items():
        images = [as_read(draw(random), layout) for _ in range(4 * COUNT if kind == "fresh" else COUNT)]
        rejected[kind] = float((predictor.answers(np.stack(images)).likeness <= REJECT_SHARE).mean())
    seconds = statistics.median(epoch.seconds for epoch in result.history)
    return Measurement(100 * result.record.test_accuracy, seconds, rejected)


def as_read(image: Image.Image, layout: Layout) -> Pixels:
    """Return a picture as it is read from a file."""
    content = io.BytesIO()
    image.save(content, "PNG")
    return read_picture(content.getvalue(), layout).image


def table(name: str, found: Mapping[bool, Sequence[Measurement]]) -> Iterator[str]:
    """Yield a Markdown table of a set. `found`: without and with made-up pictures, one for each seed."""
    yield f"\n**{name}**\n"
    yield "| pictures | rejected without made-up pictures | with them |\n|---|---|---|"
    for kind in found[True][0].rejected:
        shares = [share_of([each.rejected[kind] for each in found[with_them]]) for with_them in (False, True)]
        yield f"| {kind} | {' | '.join(shares)} |"
    pairs = [*zip(found[False], found[True], strict=True)]
    differences = [after.accuracy - before.accuracy for before, after in pairs]
    ratios = [after.seconds / before.seconds for before, after in pairs]
    mean = statistics.fmean(before.accuracy for before, _ in pairs)
    yield f"\nAccuracy {mean:.2f}% without them; with them {paired_difference_text(differences)} points more. An epoch"
    yield f"takes {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) of the time."


def main() -> None:
    parser = parser_with_source(__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--sources", type=Path, required=True, metavar="DIR", help="what benchmarks.sources wrote")
    parser.add_argument("--sets", nargs="+", default=SETS, choices=NAMES, help=f"sets (default: {' '.join(SETS)})")
    parser.add_argument("--seeds", type=int, default=10, help="number of seeds (default: 10)")
    options = parser.parse_args()
    print(f"{setting(1)}\n{PICTURE_MODEL}, n = {options.seeds} seeds, two trials at a time.")
    all_sets = picture_sets(options.sources, options.source)
    with TemporaryDirectory() as home, get_context("spawn").Pool(2, maxtasksperchild=1) as processes:
        for name in options.sets:
            trials = []
            for seed in range(options.seeds):
                folder = Path(home, str(seed), name.replace(" ", "-"))
                all_sets[name].write(folder, seed)
                known = {"folder": folder, "sources": options.sources, "digits": options.source, "seed": seed}
                trials += [Trial(pictures=name, none_class=none_class, **known) for none_class in (False, True)]
            measured = processes.map(measure, trials, chunksize=1)
            print("\n".join(table(name, {False: measured[::2], True: measured[1::2]})), flush=True)


if __name__ == "__main__":
    main()
