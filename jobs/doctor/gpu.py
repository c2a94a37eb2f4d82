"""`jobs.doctor --gpu`: whether the GPUs of this machine compute what its CPU computes.

TensorFlow's devices cannot be changed once it uses them, so the CPU, one GPU and all GPUs are measured in processes of
their own: `python -m jobs.doctor.gpu RESOURCES DATA_DIR MODEL...`, which prints a line of JSON. TF32 is off in them, so
that differences are those of rounding in float32.
"""

import math
import os
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobs.console.output import print_result
from jobs.doctor.checks import INSTALL, INSTALL_GPU, DoctorOptions, Finding
from mnist_lib.catalog import MODELS
from mnist_lib.data.dataset import Dataset
from mnist_lib.data.request import DataRequest
from mnist_lib.data.sources.availability import default_data_dir
from mnist_lib.documents import decode, encode
from mnist_lib.environment import MODULE, child_variables, import_keras, usable_cpus
from mnist_lib.errors import MnistError
from mnist_lib.results import EpochDone, TrialFailure
from mnist_lib.spec import TrialSpec
from mnist_lib.training.assignment import Assignment, Resources
from mnist_lib.wording import counted

EPOCHS = 2  # the first is slower on a GPU, so the fastest one counts
TIMEOUT_SECONDS = 900.0  # for all models on one kind of devices

# Relative, of the mean loss of the first epoch. With batch statistics of 64 instead of 128 images, as on two GPUs, that
# of `keras-cnn` is 2% to 6% higher (n = 5), and on 4 GPUs a replica has still fewer images.
MAX_LOSS_DIFFERENCE = 0.15
# Relative; see `gradient_difference`. If rounding moves the input of a ReLU across 0, its gradient changes entirely.
# If activations differ by 1e-5, gradients do by sqrt(1e-5) = 0.003. For `keras-resnet` it is 0.014 between XLA and
# oneDNN on one CPU. A wrong sum of two replicas differs by at least 0.33.
MAX_GRADIENT_DIFFERENCE = 0.05

# https://github.com/tensorflow/tensorflow/issues/57893, https://github.com/pytorch/pytorch/issues/84803
ONE_GPU = "train each trial on one GPU (--gpus-per-trial 1), or switch off ACS or the IOMMU in the BIOS"


class DevicesError(MnistError):
    """A process that measures devices did not end with a result."""

    code = "E-TRAINING"


@dataclass(frozen=True)
class Measurement:
    """A model on some devices, or why it does not work there."""

    loss: float = 0.0  # of the first epoch
    images_per_second: float = 0.0
    gradient_difference: float | None = None  # see `gradient_difference`; None if it is not finite
    error: str = ""


@dataclass(frozen=True)
class Devices:
    """What was measured on some devices."""

    models: Mapping[str, Measurement]
    gpus: int = 0  # that TensorFlow sees, used or not
    refused_by_gpu: str = ""  # why XLA is not used
    wrong_numbers: Mapping[str, int] = field(default_factory=dict)  # see `wrong_numbers`


def devices(options: DoctorOptions) -> Iterator[Finding]:
    """Measure the CPU, one GPU and all GPUs, and yield how they compare."""
    if not options.gpu:
        return
    data_dir = options.data_dir or default_data_dir()
    cpu = measure(Resources(cpus=usable_cpus()), data_dir)
    yield from compared("the CPU", cpu, cpu)
    if not cpu.gpus:
        yield Finding("GPU", "TensorFlow sees no GPU here", INSTALL_GPU, "E-GPU-INVISIBLE")
        return
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    yield from compared("1 GPU", measure(Resources(gpus=1), data_dir, CUDA_VISIBLE_DEVICES=first), cpu)
    if cpu.gpus > 1:
        yield from compared(f"{cpu.gpus} GPUs, mirrored", measure(Resources(gpus=cpu.gpus), data_dir), cpu)


def compared(where: str, measured: Devices, cpu: Devices) -> Iterator[Finding]:
    """Yield whether copies are exact, and for each model its speed and whether it learns as on the CPU."""
    # One device has two numbers: that of the copy to itself, and that of the sum.
    fix = INSTALL if measured is cpu else ONE_GPU if len(measured.wrong_numbers) > 2 else INSTALL_GPU
    if measured.refused_by_gpu:
        yield Finding(f"XLA on {where}", f"training does without it: {measured.refused_by_gpu}", fix)
    wrong = [f"{count:,} of {name}" for name, count in measured.wrong_numbers.items() if count]
    text = "a known vector is exact after each copy and in the sum over all devices"
    fault = f"a known vector has wrong numbers: {', '.join(wrong)}" if wrong else ""
    yield _judged(f"copies on {where}", text, fault, fix)
    for name, model in measured.models.items():
        text, faults = _compare(model, cpu.models[name])
        yield _judged(f"{name} on {where}", text, model.error or "; ".join(faults), fix)


def _judged(what: str, text: str, fault: str, fix: str) -> Finding:
    return Finding(what, fault, fix, "E-TRAINING") if fault else Finding(what, text)


def _compare(model: Measurement, cpu: Measurement) -> tuple[str, list[str]]:
    """Return how a model compares with the same one on the CPU, and what is wrong with it."""
    faults = []
    losses = f"loss {model.loss:.4f}, on the CPU {cpu.loss:.4f}"
    if abs(model.loss - cpu.loss) > MAX_LOSS_DIFFERENCE * cpu.loss > 0:  # it is 0 if the CPU has an error
        faults.append(f"{losses}: expected a difference of at most {MAX_LOSS_DIFFERENCE:.0%}")
    difference = math.nan if model.gradient_difference is None else model.gradient_difference
    gradients = f"gradients differ by {difference:.0e}"
    if not difference <= MAX_GRADIENT_DIFFERENCE:  # for NaN, too
        faults.append(f"{gradients}: expected at most {MAX_GRADIENT_DIFFERENCE:g}")
    return f"{model.images_per_second:,.0f} images/s; {losses}; {gradients}", faults


def measure(resources: Resources, data_dir: Path, models: Collection[str] = MODELS, **environment: str) -> Devices:
    """Measure everything in a process of its own. Raises DevicesError if that ends without a result."""
    command = [*MODULE, "jobs.doctor.gpu", encode(resources).decode(), str(data_dir), *models]
    where = counted(resources.gpus, "GPU") if resources.gpus else "the CPU"
    fix = INSTALL_GPU if resources.gpus else INSTALL
    variables = child_variables(**environment)
    try:
        done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        raise DevicesError(f"training on {where} took more than {TIMEOUT_SECONDS:.0f} s; {fix}") from None
    if done.returncode:
        cause = " ".join(done.stderr.split()[-30:])
        raise DevicesError(f"training on {where} ended with exit code {done.returncode}: {cause}; {fix}")
    return decode(done.stdout.splitlines()[-1].encode(), Devices, "the last line of jobs.doctor.gpu")


def measure_here(resources: Resources, data_dir: Path, models: Collection[str]) -> Devices:
    """Measure everything in this process."""
    import_keras()
    import tensorflow as tf

    from mnist_lib.data.prepare import prepare
    from mnist_lib.training.diagnosis import wrong_numbers
    from mnist_lib.training.gpus import refused_by_gpu
    from mnist_lib.training.strategy import configure_process, mirrored_strategy

    tf.config.experimental.enable_tensor_float_32_execution(False)
    configure_process(resources)
    refused = refused_by_gpu()
    dataset = prepare(DataRequest(data_dir=data_dir)).in_memory()
    strategy = mirrored_strategy(resources)
    measured = {name: _measure_model(name, resources, dataset, strategy, xla=not refused) for name in models}
    return Devices(measured, len(tf.config.list_physical_devices("GPU")), refused, wrong_numbers(strategy))


def _measure_model(name: str, resources: Resources, dataset: Dataset, strategy: Any, *, xla: bool) -> Measurement:
    """Train a model, and compare its gradients."""
    from mnist_lib.training.diagnosis import gradient_difference
    from mnist_lib.training.trial import WorkerPlace, run_trials

    spec = TrialSpec.of(name, epochs=EPOCHS, microbatches=1)  # as if GPUs were asked for
    trials = [Assignment(spec)]
    events = [*run_trials(trials, lambda: dataset, resources.in_this_process(spec), WorkerPlace(node="here"), math.inf)]
    for event in events:
        if isinstance(event, TrialFailure):
            return Measurement(error=f"{event.code} {event.message}")
    difference = gradient_difference(name, dataset, strategy, xla=xla)
    epochs = [event for event in events if isinstance(event, EpochDone)]
    return Measurement(epochs[0].loss, max(epoch.images_per_second for epoch in epochs), difference)


def main() -> None:
    resources, data_dir, *models = sys.argv[1:]
    devices = measure_here(decode(resources.encode(), Resources, "the first argument"), Path(data_dir), models)
    print_result(encode(devices).decode())


if __name__ == "__main__":
    main()
