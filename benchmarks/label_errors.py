"""Wrong labels that the first review finds, after `jobs.train` and `jobs.review` with default options.

Each draw takes other pictures, and gives some of those for training a wrong label. Of the pictures that the review
shows, every second one is random. The figure is the share of the wrong labels that is among the others, without those
that were drawn at random; if there are more wrong labels than other pictures, of as many as these.

With --corrected, the labels of the first 100 pictures are corrected, and the network is trained again. The figure is
its accuracy on letters of other fonts, less that before the review.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from benchmarks.digits import parser_with_source
from benchmarks.few_pictures import splits_of
from benchmarks.job import OWN, ROOT
from benchmarks.pictures import Draw, picture_sets
from benchmarks.record import paired_difference_text, setting
from jobs.console.options import parse
from mnist_lib.data.prepare import prepare
from mnist_lib.data.request import DataRequest

if TYPE_CHECKING:
    from jobs.review.session import Session

DIGITS, LETTERS, OTHER_LETTERS = 1_170, 1_021, 1_000
CORRECTED = 100  # pictures of a review


@dataclass(frozen=True)
class Task:
    """A set of pictures and how many of the pictures that a review shows are chosen by the model.

    Args:
        kind: "5%" of the digits, "a tenth" of one class of digits, or "4%" of letters have a wrong label.
        models: the networks to train, one after the other; "" for the default.
    """

    kind: str
    shown: int
    models: Mapping[str, float]  # -> the share that is to be found


TASKS = {
    "digits": Task("5%", 50, {"keras-cnn": 0.85, "keras": 0.68, "": 0.85}),
    "one class": Task("a tenth", 20, {"keras-cnn": 0.75, "": 0.75}),
    "letters": Task("4%", 50, {"": 0.65, "keras-cnn": 0.65}),
}
MISTAKEN = ((3, 5), (4, 9), (7, 1))  # digits, a tenth of which get the label of another one; a pair for each draw


@dataclass(frozen=True)
class Found:
    share: float  # of the wrong labels, among the pictures that the model chose
    named: int  # labels that may be wrong, as the run says
    named_wrong: int  # of the first 200 of these


def main() -> None:
    parser = parser_with_source(__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--sources", type=Path, help="fonts, from benchmarks.sources (default: a few)")
    parser.add_argument("--draws", type=int, default=3, help="random draws of pictures and wrong labels (default: 3)")
    parser.add_argument("--tasks", nargs="*", choices=TASKS, default=[*TASKS], help="sets of pictures (default: all)")
    parser.add_argument("--corrected", type=int, default=0, help="pairs of trainings before and after a review")
    options = parser.parse_args()
    letter = picture_sets(options.sources, options.source)["letters"]
    heads = "| pictures | network | found, mean | lowest to highest | n draws | bound | wrong of those named |"
    print("\n".join([setting(len(os.sched_getaffinity(0))), "", heads, "|---" * 7 + "|"]), flush=True)
    with tempfile.TemporaryDirectory() as home:
        for name in options.tasks:
            for model in TASKS[name].models:
                found = []
                for draw in range(options.draws):
                    place = Path(home, f"{name}-{model}-{draw}".replace(" ", "-"))
                    write(place, TASKS[name].kind, draw, options.source, letter.draw)
                    found.append(review(place, TASKS[name], model))
                    print(f"{name}, {model or 'default'}: {found[-1]}", file=sys.stderr)
                print(row(name, model, found), flush=True)
        differences = [
            corrected(Path(home, f"corrected-{seed}"), seed, letter.draw) for seed in range(options.corrected)
        ]
    if differences:
        text = paired_difference_text(differences)
        print(f"After a review of {CORRECTED} letters: {text} points on other fonts, n = {len(differences)}.")


def write(place: Path, kind: str, draw: int, source: Path | None, letter: Draw) -> None:
    """Write the pictures of a task into folders for their labels; the names of the files have the right ones."""
    (place / "data").mkdir(parents=True)
    random = np.random.default_rng(draw)
    if kind == "4%":
        pictures = [(number % 10, letter(number % 10, False, random)) for number in range(LETTERS)]
        wrong = random.random(LETTERS) < 0.04
    else:
        digits = splits_of(source)[0]
        rows = random.permutation(len(digits))[:DIGITS]
        pictures = [(int(digits.labels[row]), Image.fromarray(digits.images[row][..., 0])) for row in rows]
        wrong = random.random(DIGITS) < 0.05
        if kind == "a tenth":
            first, second = MISTAKEN[draw % len(MISTAKEN)]
            of_class = [number for number, (label, _) in enumerate(pictures) if label == first]
            wrong = np.isin(np.arange(DIGITS), random.permutation(of_class)[: len(of_class) // 10])
    for number, (label, picture) in enumerate(pictures):
        given = label
        if wrong[number]:
            given = second if kind == "a tenth" else (label + int(random.integers(1, 10))) % 10
        save(picture, place / "pictures" / str(given) / f"{number}-is-{label}.png")


def save(picture: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


def is_wrong(path: str) -> bool:
    return Path(path).stem.rpartition("-")[2] != Path(path).parent.name


def run(place: Path, module: str, *arguments: str) -> str:
    """Run a command with the storage of a draw, and return its standard output."""
    words = [OWN, "-m", module, *arguments, "--storage", str(place / "results")]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    if done.returncode not in (0, 10):
        raise SystemExit(done.stderr)
    return done.stdout


def train(place: Path, *options: str) -> dict[str, Any]:
    data = ("--dataset", str(place / "pictures"), "--data-dir", str(place / "data"))
    summary: dict[str, Any] = json.loads(run(place, "jobs.train", *data, "--json", "--quiet", *options))
    return summary


@contextlib.contextmanager
def review_of(place: Path) -> "Iterator[Session]":
    """Open the review of the pictures of a draw, and wait until all of them are read and predicted."""
    from jobs.review.__main__ import open_session
    from jobs.review.options import ReviewOptions

    data = ("--dataset", str(place / "pictures"), "--data-dir", str(place / "data"))
    options: ReviewOptions = parse("jobs.review", ReviewOptions, [*data, "--storage", str(place / "results")])
    with open_session(options) as session:
        session.wait()
        yield session


def review(place: Path, task: Task, model: str) -> Found:
    """Train a network with the default options, and return what a review of its training pictures finds."""
    errors = train(place, *(["--models", model] if model else []))["label_errors"]
    dataset = prepare(DataRequest(dataset=str(place / "pictures"), data_dir=place / "data"))
    wrong = sum(is_wrong(dataset.train.file(index) or "") for index in range(len(dataset.train)))
    with review_of(place) as session:
        chosen = session.order.take(2 * task.shown)
    shown = [why for item, why in chosen if item.split != "hold-out" and is_wrong(item.name)]
    found, drawn = shown.count("disputed"), shown.count("random")
    share = found / min(task.shown, wrong - drawn)
    return Found(share, errors["count"], sum(is_wrong(error["file"]) for error in errors["first"]))


def corrected(place: Path, seed: int, letter: Draw) -> float:
    """Return how many points more the network is right for after a review, on letters of other fonts."""
    from jobs.review.labels import Decision

    random = np.random.default_rng([seed, 1])
    write(place, "4%", seed, None, letter)
    for number in range(OTHER_LETTERS):
        save(letter(number % 10, True, random), place / "others" / str(number % 10) / f"{number}.png")
    before = accuracy(place, seed)
    with review_of(place) as session:
        for item, why in session.order.take(CORRECTED):
            session.decide(Decision(image=item.image, label=Path(item.name).stem.rpartition("-")[2], why=why))
    after = accuracy(place, seed)
    print(f"corrected letters, seed {seed}: {before:.2f}%, {after:.2f}%", file=sys.stderr)
    return after - before


def accuracy(place: Path, seed: int) -> float:
    """Train the default network, and return its accuracy on the other letters in percent."""
    ((model, row),) = train(place, "--seed", str(seed))["models"].items()
    on = ("--on", str(place / "others"), "--data-dir", str(place / "data"), "--json")
    tested = json.loads(run(place, "jobs.models", "evaluate", f"{model}@{row['version']}", *on))
    return 100 * float(tested["accuracy"])


def row(name: str, model: str, found: Sequence[Found]) -> str:
    shares = [each.share for each in found]
    named = ", ".join(f"{each.named_wrong} of {each.named}" for each in found)
    mean, spread = statistics.fmean(shares), f"{min(shares):.0%} to {max(shares):.0%}"
    what = f"{name}, {TASKS[name].kind} wrong"
    bound = TASKS[name].models[model]
    return f"| {what} | {model or 'default'} | {mean:.0%} | {spread} | {len(found)} | {bound:.0%} | {named} |"


if __name__ == "__main__":
    main()
