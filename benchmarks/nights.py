"""Nights of real training on pictures that arrive in a folder, some with wrong labels, and are reviewed by day.

Each night, MNIST pictures arrive, a model is trained on the folder, and its accuracy is measured on MNIST's test
images, which nobody reviews. By day, the same number of pictures is reviewed in two ways: those that `jobs.review`
shows, half of them uncertain and half random, or as many at random. A script stands in for the person: it knows the
right labels.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from benchmarks.drawings import Pixels, mnist
from benchmarks.record import setting
from jobs.console.options import parse
from mnist_lib.data.corrections import Correction, LabelsFile
from mnist_lib.data.table import hashes_of, text_of
from mnist_lib.environment import now_text
from mnist_lib.objects.local import LocalObjects

FIRST, PER_NIGHT, REVIEWED = 400, 60, 20  # pictures of the first night, of each later one, and reviewed each day
WRONG = 0.05  # share of labels that are wrong
TRAINING = ("--models=keras", "--seeds=3", "--epochs=20", "--batch-size=32", "--cpus-per-trial=1", "--no-report")
WAYS = ("jobs.review", "random")
LAST = 10  # nights that are compared


@dataclass(frozen=True)
class Picture:
    file: str  # below the folder: CLASS/NAME.png, where the class may be the wrong one
    image: str  # hash
    label: str  # the right one
    pixels: Pixels


@dataclass(frozen=True)
class Night:
    pictures: int
    reviewed: int
    wrong: int  # labels that are still wrong
    accuracy: float  # on MNIST's test images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mnist", type=Path, required=True, help="a folder with the four original MNIST files")
    parser.add_argument("--nights", type=int, default=30, help="number of nights (default: 30)")
    parser.add_argument("--plot", type=Path, help="PNG file to which the plot is written (default: no plot)")
    options = parser.parse_args()
    pictures = draw_pictures(options.mnist, options.nights)
    with TemporaryDirectory() as home, ThreadPoolExecutor(len(WAYS)) as pool:  # one processor for each way
        runs = [pool.submit(nights, way, pictures, options.nights, options.mnist, Path(home, way)) for way in WAYS]
        found = {way: run.result() for way, run in zip(WAYS, runs, strict=True)}
    print(report(found))
    if options.plot:
        options.plot.write_bytes(draw(found))


def draw_pictures(folder: Path, count: int) -> list[Picture]:
    """Draw random training images for this many nights, and give some of them a wrong label."""
    random = np.random.default_rng(0)
    images, labels = mnist(folder, "train")
    chosen = random.permutation(len(images))[: FIRST + PER_NIGHT * (count - 1)]
    given = np.where(random.random(len(chosen)) < WRONG, random.integers(1, 10, len(chosen)), 0)
    hashes = hashes_of(images[chosen, :, :, None])
    return [
        Picture(f"{(labels[i] + other) % 10}/{i}.png", text_of(image), str(labels[i]), images[i])
        for i, other, image in zip(chosen, given, hashes, strict=True)
    ]


def nights(way: str, pictures: Sequence[Picture], count: int, test: Path, home: Path) -> list[Night]:
    """Train and review in one of the two ways."""
    from jobs.review.__main__ import open_session
    from jobs.review.labels import Decision
    from jobs.review.options import ReviewOptions

    folder, storage = home / "digits", home / "results"
    labels, truth = LabelsFile(LocalObjects(folder)), {picture.image: picture.label for picture in pictures}
    random, found, arrived = np.random.default_rng(1), list[Night](), 0
    for number in range(1, count + 1):
        until = FIRST + PER_NIGHT * (number - 1)
        for picture in pictures[arrived:until]:
            file = folder / picture.file
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture.pixels).save(file)
        arrived = until
        run("jobs.train", *TRAINING, f"--run-name=night-{number}", f"--dataset={folder}", f"--storage={storage}")
        decided = {correction.image: correction.label for correction in labels.read()}
        now = {picture.image: decided.get(picture.image, picture.file[0]) for picture in pictures[:arrived]}
        wrong = sum(label != truth[image] for image, label in now.items())
        found.append(Night(arrived, len(decided), wrong, accuracy(storage, test)))
        print(way, number, found[-1], file=sys.stderr)
        if way == "random":
            left = [picture.image for picture in pictures[:arrived] if picture.image not in decided]
            for image in random.choice(left, REVIEWED, replace=False):
                right = truth[image]
                correction = Correction(
                    image=str(image), label=right, at=now_text(), by="script", replaced=now[image], why="random"
                )
                labels.add([correction])
        else:
            words = ["--model=keras@latest", f"--dataset={folder}", f"--storage={storage}"]
            options: ReviewOptions = parse("jobs.review", ReviewOptions, words)
            with open_session(options) as session:
                session.wait()
                for item, why in session.order.take(REVIEWED):
                    session.decide(Decision(image=item.image, label=truth[item.image], why=why))
    return found


def run(module: str, *arguments: str | Path) -> str:
    """Run a command, and return its standard output."""
    command: list[str | Path] = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{command} failed:\n{done.stderr}")
    return done.stdout


def accuracy(storage: Path, test: Path) -> float:
    """Return the accuracy of the newest version on MNIST's test images."""
    program = (
        "import json, sys; from pathlib import Path; import mnist_lib; from benchmarks.drawings import mnist;"
        "images, labels = mnist(Path(sys.argv[2]), 't10k');"
        "answers = mnist_lib.load('keras@latest', sys.argv[1]).predict(images[..., None]).argmax(axis=1);"
        "print(json.dumps((answers == labels).mean()))"
    )
    command: list[str | Path] = [sys.executable, "-c", program, storage, test]
    return float(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))


def report(found: Mapping[str, Sequence[Night]]) -> str:
    """Return a Markdown table of every third night, and which way was better in the last nights."""
    shown, other = (found[way] for way in WAYS)
    heads = "wrong labels left | test accuracy"
    lines = [
        *(setting(1), ""),
        f"| night | pictures | reviewed | {WAYS[0]}: {heads} | {WAYS[1]}: {heads} |",
        "|" + "---|" * 7,
    ]
    for number in sorted({*range(0, len(shown), 3), len(shown) - 1}):
        one, two = shown[number], other[number]
        results = " | ".join(f"{night.wrong} | {100 * night.accuracy:.2f}%" for night in (one, two))
        lines.append(f"| {number + 1} | {one.pictures:,} | {one.reviewed} | {results} |")
    differences = [100 * (a.accuracy - b.accuracy) for a, b in zip(shown[-LAST:], other[-LAST:], strict=True)]
    mean = statistics.fmean(differences)
    return "\n".join(
        [
            *lines,
            "",
            f"In the last {len(differences)} nights, the models of {WAYS[0]} were {abs(mean):.2f} percentage points"
            f" {'better' if mean > 0 else 'worse'} than those of random review (n = 1 series).",
        ]
    )


def draw(found: Mapping[str, Sequence[Night]]) -> bytes:
    """Return a plot, as PNG, of accuracy and wrong labels against the number of reviewed pictures."""
    from mnist_lib.report.plots import color_of, legend, new_figure, plot

    figure, (upper, lower) = new_figure(5.0, rows=2)
    for number, way in enumerate(WAYS):
        reviewed = [night.reviewed for night in found[way]]
        upper.plot(reviewed, [100 * night.accuracy for night in found[way]], label=way, color=color_of(number))
        lower.plot(reviewed, [night.wrong for night in found[way]], color=color_of(number))
    upper.set(ylabel="test accuracy, %")
    lower.set(xlabel="reviewed pictures", ylabel="wrong labels left", ylim=(0, None))
    legend(upper)
    return plot("nights", figure).png


if __name__ == "__main__":
    main()
