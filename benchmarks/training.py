"""Seconds an epoch of this project's loop and of its peers, in turn on one machine: `make bench`.

Every round runs each contender once, in a process of its own; a ratio is taken in each round, and its median told. The
digits are the full MNIST where its original files are given, as the record wants it, else the embedded ones.
"""

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mnist_lib.data.embedded import FOLDER
from mnist_lib.environment import package_versions

CONTENDERS = Path(__file__).parent / "contenders"
OWN = sys.executable
PEERS = str(Path(__file__).parents[1] / ".venv-bench/bin/python")  # PyTorch and JAX, which would slow Keras' import


@dataclass(frozen=True)
class Contender:
    name: str
    python: str
    script: str
    arguments: tuple[str, ...]


class Result(NamedTuple):
    seconds: list[float]  # of each epoch after the first
    correct: int  # test images


@dataclass(frozen=True)
class Ratio:
    """What is claimed: the one takes at most `bound` times as long as the other."""

    ours: str
    peer: str
    bound: float


def contenders(threads: int) -> list[Contender]:
    t = str(threads)
    return [
        Contender("floor", OWN, "floor.py", (t,)),
        Contender("ours keras", OWN, "ours.py", ("keras", t, "1")),
        Contender("ours scratch", OWN, "ours.py", ("scratch", t, "1")),
        Contender("ours keras, 2 replicas", OWN, "ours.py", ("keras", t, "2")),
        Contender("keras.fit, defaults", OWN, "fit.py", ("defaults", t)),
        Contender("keras.fit, tuned", OWN, "fit.py", ("tuned", t)),
        Contender("notebook's eager loop (SGD)", OWN, "eager.py", (t,)),
        Contender("JAX scan (RMSprop)", PEERS, "jax_scan.py", ("rmsprop",)),
        Contender("JAX scan (SGD)", PEERS, "jax_scan.py", ("sgd",)),
        Contender("PyTorch eager (RMSprop)", PEERS, "torch_eager.py", ("rmsprop", t)),
        Contender("PyTorch eager (SGD)", PEERS, "torch_eager.py", ("sgd", t)),
    ]


RATIOS = [
    Ratio("ours keras", "keras.fit, defaults", 0.40),
    Ratio("ours keras", "JAX scan (RMSprop)", 1.0),
    Ratio("ours keras", "floor", 1.75),
    Ratio("ours scratch", "notebook's eager loop (SGD)", 0.19),
    Ratio("ours scratch", "JAX scan (SGD)", 0.95),
    Ratio("ours keras, 2 replicas", "ours keras", 1.5),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", type=Path, help="a folder with the four original MNIST files")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=4, help="of each contender in each round, the first not counted")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--images", type=int, help="so many train images only, for a try")
    options = parser.parse_args()
    able = [contender for contender in contenders(options.threads) if Path(contender.python).exists()]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "digits.npz")
        images = write_digits(file, options.source, options.images)
        seconds: dict[str, list[float]] = {contender.name: [] for contender in able}
        correct: dict[str, list[int]] = {contender.name: [] for contender in able}
        for number in range(options.rounds):
            for contender in able:
                result = run(contender, file, options.epochs)
                seconds[contender.name].append(statistics.median(result.seconds))
                correct[contender.name].append(result.correct)
                print(f"round {number + 1}: {contender.name}: {seconds[contender.name][-1]:.3f} s", file=sys.stderr)
    print(report(seconds, correct, images, options.rounds, options.epochs, options.threads))


def write_digits(file: Path, source: Path | None, images: int | None) -> tuple[int, int]:
    """-> the numbers of train and test images."""
    if source is None:
        arrays = dict(np.load(FOLDER / "mnist-mini.npz"))
    else:
        from mnist_lib.data.prepare import default_data_dir, prepare

        with contextlib.redirect_stdout(sys.stderr):  # TFDS tells of its progress there
            dataset = prepare("mnist", default_data_dir(), source)
        arrays = {
            f"{split}_{kind}": getattr(getattr(dataset, split), kind)
            for split in ("train", "test")
            for kind in ("images", "labels")
        }
    stride = max(1, len(arrays["train_labels"]) // images) if images else 1  # the embedded ones are in order of class
    arrays |= {name: arrays[name][::stride][:images] for name in ("train_images", "train_labels")}
    np.savez(file, allow_pickle=False, **arrays)
    return len(arrays["train_labels"]), len(arrays["test_labels"])


def run(contender: Contender, file: Path, epochs: int) -> Result:
    command = [contender.python, str(CONTENDERS / contender.script), str(file), str(epochs), *contender.arguments]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{contender.name} failed:\n{done.stderr}")
    return Result(**json.loads(done.stdout.splitlines()[-1]))


def report(
    seconds: dict[str, list[float]],
    correct: dict[str, list[int]],
    images: tuple[int, int],
    rounds: int,
    epochs: int,
    threads: int,
) -> str:
    """Markdown, as it is recorded."""
    versions = ", ".join(f"{name} {version}" for name, version in (package_versions() | peer_versions()).items())
    lines = [
        f"{time.strftime('%Y-%m-%d')}, {machine()}, {threads} thread(s); {versions}.",
        f"{images[0]:,} train images at batch 128, {images[1]:,} test images; n = {rounds} rounds, in each the median"
        f" of {epochs - 1} epochs after one of warm-up.",
        "",
        "| contender | s/epoch, median | min to max | test accuracy, mean |",
        "|---|---|---|---|",
    ]
    for name, values in seconds.items():
        accuracy = statistics.mean(correct[name]) / images[1]
        shown = f"{100 * accuracy:.2f}%" if accuracy else "-"
        lines.append(f"| {name} | {statistics.median(values):.3f} | {min(values):.3f} to {max(values):.3f} | {shown} |")
    lines += ["", "| ratio | median of rounds | min to max | bound |", "|---|---|---|---|"]
    for ratio in RATIOS:
        if ratio.ours in seconds and ratio.peer in seconds:
            pairs = [a / b for a, b in zip(seconds[ratio.ours], seconds[ratio.peer], strict=True)]
            spread = f"{min(pairs):.2f} to {max(pairs):.2f}"
            lines.append(f"| {ratio.ours} / {ratio.peer} | {statistics.median(pairs):.2f} | {spread} | {ratio.bound} |")
    return "\n".join(lines)


def machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(models)} x {models[0]}" if models else platform.processor()


def peer_versions() -> dict[str, str]:
    if not Path(PEERS).exists():
        return {}
    code = "from importlib.metadata import version; print(version('torch'), version('jax'))"
    torch, jax = subprocess.check_output([PEERS, "-c", code], text=True).split()
    return {"torch": torch, "jax": jax}


if __name__ == "__main__":
    main()
