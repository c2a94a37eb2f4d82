"""Train on a dataset that is larger than the memory: its speed, the memory of all processes, and the disk's speed.

The pictures are small files that are enlarged to 224 x 224, so that they are made in minutes; what is prepared is as
large as with other pictures. The model is small, so that reading images takes a large part of the time.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread

import numpy as np
import psutil
from PIL import Image

from benchmarks.record import setting
from mnist_lib.data.images import PIXELS_SUFFIX
from mnist_lib.wording import counted

SIDE, CLASSES, LANES = 224, 10, 2
IMAGE_BYTES = SIDE * SIDE * 3
HELD_GIGABYTES = 0.9  # a lane holds as much in memory
MODEL = """
import keras

def one_convolution(input_shape, classes):
    return keras.Sequential([
        keras.Input(input_shape),
        keras.layers.Conv2D(16, 7, strides=4, activation="relu"),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(classes),
    ])
"""
ROOT = Path(__file__).parents[1]


@dataclass
class Memory:
    """The peak of the memory of a process and all its descendants that no file holds, in bytes."""

    peak: int = 0
    _ended: Event = field(default_factory=Event)

    def watch(self, pid: int) -> Thread:
        thread = Thread(target=self._watch, args=(pid,), daemon=True)
        thread.start()
        return thread

    def end(self) -> None:
        self._ended.set()

    def _watch(self, pid: int) -> None:
        known = {pid}
        while not self._ended.wait(1):
            known |= {child for parent in known & {*psutil.pids()} for child in _children(parent)}
            self.peak = max(self.peak, sum(map(_own_bytes, known)))


def _children(pid: int) -> list[int]:
    try:
        return [child.pid for child in psutil.Process(pid).children(recursive=True)]
    except psutil.Error:
        return []


def _own_bytes(pid: int) -> int:
    """Return RssAnon and RssShmem of a process, which a file cannot replace."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith(("RssAnon:", "RssShmem:")))


def write_pictures(folder: Path, first: int, last: int) -> None:
    """Write pictures of 16 x 16 pixels, in whose colours the class can be seen."""
    for number in range(first, last):
        random, label = np.random.default_rng(number), number % CLASSES
        pixels = random.integers(0, 200, (16, 16, 3), np.uint8)
        pixels[:, label] += 55
        path = folder / str(label) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path, compress_level=0)


def pictures(folder: Path, gigabytes: float) -> Path:
    """Return a folder of pictures that take so much when they are prepared."""
    count = int(gigabytes * 1e9 / IMAGE_BYTES)
    if not folder.exists():
        with ProcessPoolExecutor() as executor:
            begins = range(0, count, 1_000)
            list(executor.map(write_pictures, *zip(*((folder, n, min(n + 1_000, count)) for n in begins), strict=True)))
    return folder


def job(command: str, *dataset: str, work: Path) -> list[str]:
    """Return a command of this project on a dataset, given as its options."""
    data = ("--data-dir", str(work / "data"), "--storage", str(work / "results"), "--image-size", str(SIDE))
    return [sys.executable, "-m", f"jobs.{command}", *dataset, *data]


def train(folder: Path, work: Path, name: str, epochs: int) -> tuple[float, float, dict[str, float]]:
    """Train two trials at a time, and return images per second of both, GB of memory, and seconds by phase."""
    (work / "one_convolution.py").write_text(MODEL)
    command = [
        *job("train", "--dataset", f"{folder}/", work=work),
        *("--models", f"{work / 'one_convolution.py'}:one_convolution", "--run-name", name, "--trust"),
        *("--seeds", str(LANES), "--epochs", str(epochs), "--batch-size", "128", "--cpus-per-trial", "1"),
        *("--validation-percent", "0", "--no-report", "--json"),
    ]
    process, memory = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True), Memory()
    thread = memory.watch(process.pid)
    stdout, _ = process.communicate()
    memory.end()
    thread.join()
    if process.returncode:
        raise SystemExit(f"{command} failed with {process.returncode}")
    summary = json.loads(stdout)
    speed = sum(trial["images_per_second"] for trial in summary["trials"])
    return speed, memory.peak / 1e9, summary["timing"]


def random_reads(data_dir: Path, seconds: float) -> float:
    """Return how many random images per second the disk reads, when none of them is in memory."""
    files = [path for path in (data_dir / ".prepared").iterdir() if path.suffix == PIXELS_SUFFIX]
    for path in files:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    buffer, count, begin = memoryview(bytearray(IMAGE_BYTES)), 0, time.perf_counter()
    for requests in _requests(files):
        for descriptor, offset in requests:
            os.posix_fadvise(descriptor, offset, IMAGE_BYTES, os.POSIX_FADV_WILLNEED)
        for descriptor, offset in requests:
            count += os.preadv(descriptor, [buffer], offset) // IMAGE_BYTES
        if time.perf_counter() - begin > seconds:
            break
    return count / (time.perf_counter() - begin)


def _requests(files: list[Path]) -> Iterator[list[tuple[int, int]]]:
    random, descriptors = np.random.default_rng(0), [os.open(path, os.O_RDONLY) for path in files]
    counts = [path.stat().st_size // IMAGE_BYTES for path in files]
    while True:  # as many at a time as a chunk has
        chosen = random.integers(len(files), size=384)
        yield sorted((descriptors[file], int(random.integers(counts[file])) * IMAGE_BYTES) for file in chosen)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=40.0, help="size of the prepared images (default: 40)")
    parser.add_argument("--disk-seconds", type=float, default=20.0, help="time for random reads (default: 20)")
    parser.add_argument("--work", type=Path, help="folder for the pictures and the results (default: a temporary one)")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        (work / "data").mkdir(parents=True, exist_ok=True)
        small = pictures(work / "small", min(HELD_GIGABYTES, options.gigabytes / 4))
        large = pictures(work / "large", options.gigabytes)
        in_memory, _, _ = train(small, work, "small", epochs=8)
        subprocess.run(
            job("show", f"{large}/", work=work), cwd=ROOT, stdout=subprocess.DEVNULL, check=True
        )  # prepares them
        disk = random_reads(work / "data", options.disk_seconds)
        streamed, memory, timing = train(large, work, "large", epochs=1)
    share = streamed / min(in_memory, disk)
    print(f"{setting(LANES)} {options.gigabytes:g} GB, {counted(LANES, 'lane')}, n = 1.\n")
    print("| what | found |\n|---|---|")
    print(f"| images/s of both lanes, at most {HELD_GIGABYTES} GB, held in memory | {in_memory:,.0f} |")
    print(f"| images/s of random reads from the disk, {IMAGE_BYTES:,} bytes each | {disk:,.0f} |")
    print(f"| images/s of both lanes, {options.gigabytes:g} GB | {streamed:,.0f}, {share:.0%} of the lower |")
    print(f"| RssAnon and RssShmem of all processes | {memory:.2f} GB |")
    print(f"| preparing, when prepared before | {timing['prepare_seconds']:.1f} s |")


if __name__ == "__main__":
    main()
