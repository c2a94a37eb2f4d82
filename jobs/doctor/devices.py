"""What works on the GPUs of this machine, and how fast: a few epochs of each model on the CPU, on one GPU and on all.

Each set of devices is tried in its own process, since TensorFlow's devices cannot be changed once it uses them:
`python -m jobs.doctor.devices RESOURCES DATA_DIR MODEL...`, which prints a line of JSON.
"""

import os
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from jobs.console.output import print_result
from jobs.doctor.checks import INSTALL_GPU, Finding
from mnist_lib.assignment import Assignment, Resources
from mnist_lib.catalog import MODELS
from mnist_lib.data.availability import default_data_dir
from mnist_lib.data.request import DataRequest
from mnist_lib.documents import decode, encode
from mnist_lib.environment import import_keras
from mnist_lib.results import EpochDone, TrialFailure
from mnist_lib.spec import TrialSpec

EPOCHS = 3  # the first is slower on a GPU, so the fastest one counts
MAX_LOSS_DIFFERENCE = 0.05  # relative, of the mean loss of the first epoch; rounding alone causes a smaller difference
TIMEOUT_SECONDS = 900.0  # timeout for all models on one kind of devices


@dataclass(frozen=True)
class Measurement:
    """A model on some devices: the loss of its first epoch and its speed, or why it does not work."""

    loss: float | None = None
    images_per_second: float | None = None
    error: str = ""


@dataclass(frozen=True)
class Devices:
    gpus: int  # that TensorFlow sees, used or not
    models: Mapping[str, Measurement]


def findings(data_dir: Path | None) -> Iterator[Finding]:
    """Train each model on the CPU, on one GPU and mirrored over all GPUs, and compare."""
    folder = data_dir or default_data_dir()
    cpu = measure(Resources(cpus=len(os.sched_getaffinity(0))), folder)
    yield from compared("the CPU", cpu, cpu)
    if not cpu.gpus:
        yield Finding("GPU", "TensorFlow sees no GPU here", INSTALL_GPU, "E-GPU-INVISIBLE")
        return
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    yield from compared("1 GPU", measure(Resources(gpus=1), folder, CUDA_VISIBLE_DEVICES=first), cpu)
    if cpu.gpus > 1:
        yield from compared(f"{cpu.gpus} GPUs, mirrored", measure(Resources(gpus=cpu.gpus), folder), cpu)


def compared(where: str, devices: Devices, cpu: Devices) -> Iterator[Finding]:
    """Yield a finding for each model, with its speed and whether it learns as on the CPU."""
    for name, measurement in devices.models.items():
        what, on_cpu = f"{name} on {where}", cpu.models[name]
        if measurement.loss is None or measurement.images_per_second is None:
            yield Finding(what, measurement.error, INSTALL_GPU if devices is not cpu else "", "E-TRAINING")
            continue
        speed = f"{measurement.images_per_second:,.0f} images/s"
        if devices is cpu or on_cpu.loss is None or on_cpu.images_per_second is None:
            yield Finding(what, speed)
            continue
        times = f"{speed}, {measurement.images_per_second / on_cpu.images_per_second:.1f} times the CPU"
        losses = f"loss {measurement.loss:.4f}, on the CPU {on_cpu.loss:.4f}"
        if abs(measurement.loss - on_cpu.loss) > MAX_LOSS_DIFFERENCE * on_cpu.loss:
            yield Finding(
                what, f"{losses}: expected a difference of at most {MAX_LOSS_DIFFERENCE:.0%}", INSTALL_GPU, "E-TRAINING"
            )
        else:
            yield Finding(what, f"{times}; {losses}")


def measure(resources: Resources, data_dir: Path, models: Collection[str] = MODELS, **environment: str) -> Devices:
    """Train a few epochs of each model in a process of its own, and return what it found."""
    command = [sys.executable, "-m", "jobs.doctor.devices", encode(resources).decode(), str(data_dir), *models]
    try:
        done = subprocess.run(
            command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=TIMEOUT_SECONDS
        )
        lines = done.stdout.splitlines() if not done.returncode else []
        error = f"its process ended with exit code {done.returncode}: {' '.join(done.stderr.split()[-30:])}"
    except subprocess.TimeoutExpired:
        lines, error = [], f"it took more than {TIMEOUT_SECONDS:.0f} s"
    if not lines:
        return Devices(0, {name: Measurement(error=error) for name in models})
    return decode(lines[-1].encode(), Devices, "the last line of jobs.doctor.devices")


def try_models(resources: Resources, data_dir: Path, models: Collection[str]) -> Devices:
    """Train a few epochs of each model in this process."""
    import_keras()
    import tensorflow as tf

    from mnist_lib.data.prepare import prepare
    from mnist_lib.training.trial import WorkerPlace, run_trials

    gpus = len(tf.config.list_physical_devices("GPU"))
    specs = [TrialSpec.of(name, epochs=EPOCHS) for name in models]
    epochs: dict[str, list[EpochDone]] = {}
    measurements: dict[str, Measurement] = {}
    data = DataRequest(data_dir=data_dir)
    for event in run_trials(map(Assignment, specs), lambda: prepare(data), resources, WorkerPlace(node="here")):
        name = event.trial.rpartition("-")[0]
        if isinstance(event, EpochDone):
            epochs.setdefault(name, []).append(event)
            fastest = max(epoch.images_per_second for epoch in epochs[name])
            measurements[name] = Measurement(epochs[name][0].loss, fastest)
        elif isinstance(event, TrialFailure):
            measurements[name] = Measurement(error=f"{event.code} {event.message}")
    return Devices(gpus, measurements)


def main() -> None:
    resources = decode(sys.argv[1].encode(), Resources, "the first argument")
    print_result(encode(try_models(resources, Path(sys.argv[2]), sys.argv[3:])).decode())


if __name__ == "__main__":
    main()
