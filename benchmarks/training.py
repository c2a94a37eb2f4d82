"""Seconds per epoch of this project's training loop and of its peers.

Every round runs each contender once, in a process of its own. Each ratio compares figures from the same round. The
record uses the full MNIST, from its original files; without them the embedded digits are used.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from benchmarks.digits import parser_with_source, write_digits
from benchmarks.record import PEERS, Ratio, ratio_table, setting

CONTENDERS = Path(__file__).parent / "contenders"
OWN = sys.executable


@dataclass(frozen=True)
class Contender:
    name: str
    python: str
    script: str
    arguments: tuple[str, ...]


class Result(NamedTuple):
    seconds: list[float]  # of each epoch after the first
    correct: int  # number of test images that were predicted correctly


def contenders(threads: int) -> list[Contender]:
    thread_count = str(threads)
    return [
        Contender("floor, XLA", OWN, "floor.py", (thread_count, "xla", "float32")),
        Contender("floor, oneDNN", OWN, "floor.py", (thread_count, "onednn", "float32")),
        Contender("floor, oneDNN, bfloat16", OWN, "floor.py", (thread_count, "onednn", "bfloat16")),
        Contender("ours keras", OWN, "ours.py", ("keras", thread_count, "1", "float32")),
        Contender("ours scratch", OWN, "ours.py", ("scratch", thread_count, "1", "float32")),
        Contender("ours keras, 2 replicas", OWN, "ours.py", ("keras", thread_count, "2", "float32")),
        Contender("ours keras, bfloat16", OWN, "ours.py", ("keras", thread_count, "1", "bfloat16")),
        Contender("keras.fit, defaults", OWN, "fit.py", ("defaults", thread_count, "keras")),
        Contender("keras.fit, tuned", OWN, "fit.py", ("tuned", thread_count, "keras")),
        Contender("notebook's eager loop (SGD)", OWN, "eager.py", (thread_count,)),
        Contender("JAX scan (RMSprop)", PEERS, "jax_scan.py", ("rmsprop",)),
        Contender("JAX scan (SGD)", PEERS, "jax_scan.py", ("sgd",)),
        Contender("PyTorch (RMSprop)", PEERS, "torch_loop.py", ("rmsprop", thread_count, "eager", "keras")),
        Contender("PyTorch (SGD)", PEERS, "torch_loop.py", ("sgd", thread_count, "eager", "keras")),
        Contender(
            "PyTorch, torch.compile (RMSprop)", PEERS, "torch_loop.py", ("rmsprop", thread_count, "compile", "keras")
        ),
        Contender("cnn: floor", OWN, "floor_convolutions.py", (thread_count, "float32")),
        Contender("cnn: floor, bfloat16", OWN, "floor_convolutions.py", (thread_count, "bfloat16")),
        Contender("cnn: ours", OWN, "ours.py", ("keras-cnn", thread_count, "1", "float32")),
        Contender("cnn: ours, bfloat16", OWN, "ours.py", ("keras-cnn", thread_count, "1", "bfloat16")),
        Contender("cnn: keras.fit, defaults", OWN, "fit.py", ("defaults", thread_count, "keras-cnn")),
        Contender("cnn: keras.fit, tuned", OWN, "fit.py", ("tuned", thread_count, "keras-cnn")),
        Contender("cnn: PyTorch", PEERS, "torch_loop.py", ("adam", thread_count, "eager", "keras-cnn")),
        Contender(
            "cnn: PyTorch, torch.compile", PEERS, "torch_loop.py", ("adam", thread_count, "compile", "keras-cnn")
        ),
    ]


RATIOS = [
    Ratio("ours keras", "keras.fit, defaults", 0.40),
    Ratio("ours keras", "JAX scan (RMSprop)", 1.0),
    Ratio("ours keras", "floor, XLA", 1.75),
    Ratio("ours keras", "floor, oneDNN", 1.75),
    Ratio("ours scratch", "notebook's eager loop (SGD)", 0.19),
    Ratio("ours scratch", "JAX scan (SGD)", 0.95),
    Ratio("ours keras, bfloat16", "ours keras", 0.9),
    Ratio("ours keras, 2 replicas", "ours keras", 1.4),
    Ratio("cnn: ours", "cnn: keras.fit, defaults", 0.70),
    Ratio("cnn: ours", "cnn: keras.fit, tuned", 0.70),
    Ratio("cnn: ours", "cnn: PyTorch", 0.85),
    Ratio("cnn: ours", "cnn: PyTorch, torch.compile", 0.85),
]


def main() -> None:
    parser = parser_with_source(__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="number of rounds (default: 5)")
    parser.add_argument("--epochs", type=int, default=4, help="epochs per contender and round, the first as warm-up")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="threads of each contender")
    parser.add_argument("--images", type=int, help="use only this many train images, for a quick test")
    parser.add_argument("--only", default="", help="run only contenders whose name contains this text (default: all)")
    options = parser.parse_args()
    chosen = [contender for contender in contenders(options.threads) if options.only in contender.name]
    available = [contender for contender in chosen if Path(contender.python).exists()]
    if not available:
        names = ", ".join(contender.name for contender in contenders(options.threads))
        parser.error(f"--only: expected a part of one of these names: {names}")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "digits.npz")
        images = write_digits(file, options.source, options.images)
        seconds: dict[str, list[float]] = {contender.name: [] for contender in available}
        correct: dict[str, list[int]] = {contender.name: [] for contender in available}
        for number in range(options.rounds):
            for contender in available:
                result = run(contender, file, options.epochs)
                seconds[contender.name].append(statistics.median(result.seconds))
                correct[contender.name].append(result.correct)
                print(f"round {number + 1}: {contender.name}: {seconds[contender.name][-1]:.3f} s", file=sys.stderr)
    print(report(seconds, correct, images, options.rounds, options.epochs, options.threads))


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
    """Return the record in Markdown."""
    lines = [
        setting(threads),
        f"{images[0]:,} train images at batch 128, {images[1]:,} test images; n = {rounds} rounds, each the median"
        f" of {epochs - 1} epochs after one warm-up epoch.",
        "",
        "| contender | s/epoch, median | min to max | test accuracy, mean |",
        "|---|---|---|---|",
    ]
    for name, values in seconds.items():
        accuracy = statistics.mean(correct[name]) / images[1]
        shown = f"{100 * accuracy:.2f}%" if accuracy else "-"
        lines.append(f"| {name} | {statistics.median(values):.3f} | {min(values):.3f} to {max(values):.3f} | {shown} |")
    lines += ["", *ratio_table(RATIOS, seconds)]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
