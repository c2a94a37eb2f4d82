"""`jobs.doctor --gpu`: whether the GPUs of this machine compute what its CPU computes, and how fast.

TensorFlow's devices cannot be changed once it uses them, so the CPU, one GPU and all GPUs are measured in processes of
their own: `python -m jobs.doctor.gpu measure|interrupt RESOURCES DATA_DIR FOLDER MODEL...`. `measure` prints a line of
JSON. TF32 is off in them, so that differences are those of rounding in float32.
"""

import math
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobs.console.output import print_result
from jobs.doctor.checks import INSTALL_GPU, DoctorOptions, Finding
from mnist_lib.assignment import Assignment, Resources
from mnist_lib.catalog import MODELS
from mnist_lib.data.availability import default_data_dir
from mnist_lib.data.request import DataRequest
from mnist_lib.data.split import Dataset
from mnist_lib.documents import decode, encode
from mnist_lib.environment import MODULE, child_variables, import_keras, package_versions
from mnist_lib.objects.output_file import atomic_output
from mnist_lib.results import CheckpointTaken, EpochDone, Started, TrialEvent, TrialFailure, TrialResult
from mnist_lib.spec import TrialSpec
from mnist_lib.wording import bytes_text, counted, one_line, without_secrets

EPOCHS = 2  # the first is slower on a GPU, so the fastest one counts
EXACT_MODELS = ("keras", "keras-cnn")  # of which weights are compared: dense layers; convolutions, pooling, dropout
CHUNKS = (50, 500)  # after which the memory is compared
TIMEOUT_SECONDS = 900.0  # timeout for all models on one kind of devices
FILES = Path("doctor-gpu.json"), Path("doctor-gpu.txt")

# Relative, of the mean loss of the first epoch. With batch statistics of 64 instead of 128 images, that of `keras-cnn`
# is 2% to 6% higher (n = 5), and on 4 GPUs a replica has still fewer images.
MAX_LOSS_DIFFERENCE = 0.15
# Relative; see `gradient_differences`. If rounding moves the input of a ReLU across 0, its gradient changes entirely.
# If activations differ by 1e-5, gradients do by sqrt(1e-5) = 0.003. For `keras-resnet` it is 0.014 between XLA and
# oneDNN on one CPU. A wrong sum of two replicas differs by at least 0.33.
MAX_GRADIENT_DIFFERENCE = 0.05
MAX_GROWTH = 64_000_000  # bytes between the two of `CHUNKS`; if nothing were freed, these chunks would hold 353 MB

REPORT = f"report this with {FILES[0]} and {FILES[1]}"
# https://github.com/tensorflow/tensorflow/issues/57893, https://github.com/pytorch/pytorch/issues/84803
ONE_GPU = "train each trial on one GPU (--gpus-per-trial 1), or switch off ACS or the IOMMU in the BIOS"
OTHER_GPU = "use another GPU, or a build of TensorFlow for this one"


@dataclass(frozen=True)
class Measurement:
    """A model on some devices, or why it does not work there."""

    loss: float = 0.0  # of the first epoch
    images_per_second: float = 0.0
    gradients: Mapping[str, float | None] = field(default_factory=dict)  # see `gradient_differences`
    # Of the weights of two equal runs, and of one that was killed and resumed; only of the first one of other models.
    hashes: tuple[str, ...] = ()
    error: str = ""


@dataclass(frozen=True)
class Devices:
    """What was measured on some devices, and what TensorFlow knows of all GPUs."""

    models: Mapping[str, Measurement]
    gpus: int = 0  # that TensorFlow sees, used or not
    facts: Mapping[str, str] = field(default_factory=dict)  # see `gpu_facts`: of all of them
    built_for: tuple[str, ...] = ()  # compute capabilities, such as "sm_89" and "compute_90"
    refused_by_gpu: str = ""  # why XLA is not used
    wrong_numbers: Mapping[str, int] = field(default_factory=dict)  # see `wrong_numbers`
    memory: tuple[tuple[int, int], ...] = ()  # see `memory_after`: after each of `CHUNKS`


def devices(options: DoctorOptions) -> Iterator[Finding]:
    """Measure the CPU, one GPU and all GPUs, yield how they compare, and write the results to `FILES`."""
    if options.gpu:
        measured, found = dict[str, Devices](), list[Finding]()
        for finding in _everywhere(options.data_dir or default_data_dir(), measured):
            found.append(finding)
            yield finding
        yield write_report(measured, found)


def _everywhere(data_dir: Path, measured: dict[str, Devices]) -> Iterator[Finding]:
    cpu = measured["the CPU"] = measure(Resources(cpus=len(os.sched_getaffinity(0))), data_dir)
    yield from compared("the CPU", cpu, cpu)
    if not cpu.wrong_numbers:
        return  # its process has ended, as each finding says, so nothing is known of GPUs
    if not cpu.gpus:
        yield Finding("GPU", "TensorFlow sees no GPU here", INSTALL_GPU, "E-GPU-INVISIBLE")
        return
    yield from (capability(version, cpu.built_for) for version in cpu.facts["compute_capability"].split(", "))
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    one = measured["1 GPU"] = measure(Resources(gpus=1), data_dir, CUDA_VISIBLE_DEVICES=first)
    yield from compared("1 GPU", one, cpu)
    if cpu.gpus > 1:
        where = f"{cpu.gpus} GPUs, mirrored"
        every = measured[where] = measure(Resources(gpus=cpu.gpus), data_dir)
        yield from compared(where, every, cpu)


def write_report(measured: Mapping[str, Devices], found: Sequence[Finding]) -> Finding:
    """Write what was measured as JSON and the findings as text. Raises OutputError if they cannot be written."""
    document = {
        "versions": package_versions(),
        "devices": measured,
        "findings": [finding.document for finding in found],
    }
    lines = [f"{f.mark:8}{f.what}: {f.found}{f.fix and f'; {f.fix}'}\n" for f in found]
    for path, content in zip(FILES, (encode(document, indent=2), "".join(lines).encode()), strict=True):
        with atomic_output(path) as temporary:
            temporary.write_bytes(content)
    return Finding("report", f"send {FILES[0].absolute()} and {FILES[1]} beside it with a report of a fault")


def capability(version: str, built_for: Sequence[str]) -> Finding:
    """Compare the compute capability of a GPU, such as "8.9", with those for which TensorFlow was built.

    A GPU runs code for its major version and up to its minor one. "compute_90" stands for this code and for PTX, from
    which the driver compiles code for newer GPUs; "sm_90" for the code alone (configure.py of TensorFlow).
    """
    what, text = f"compute capability {version}", f"TensorFlow has code for {', '.join(built_for) or 'unknown ones'}"
    parts = [re.fullmatch(r"(sm|compute)_(\d+)(\d)\w?", name) for name in built_for]
    code = [(part[1], (int(part[2]), int(part[3]))) for part in parts if part]
    if not code or version == "unknown":
        return Finding(what, text)
    major, minor = map(int, version.split("."))
    if any(of[0] == major and of[1] <= minor for _, of in code):
        return Finding(what, text)
    if any(kind == "compute" and of <= (major, minor) for kind, of in code):
        # "could take 30 minutes or longer", and failed: https://github.com/tensorflow/tensorflow/issues/97387
        return Finding(what, f"{text}: the driver compiles it first, which may take half an hour or fail", OTHER_GPU)
    return Finding(what, text, OTHER_GPU, "E-TRAINING")


def compared(where: str, tried: Devices, cpu: Devices) -> Iterator[Finding]:
    """Yield whether copies and memory are as they should be, and for each model its speed and whether it learns as on
    the CPU, where weights that are not exact are a fault."""
    if tried.refused_by_gpu:
        yield Finding(f"XLA on {where}", f"training does without it: {tried.refused_by_gpu}", OTHER_GPU)
    if tried.wrong_numbers:
        wrong = [f"{count:,} of {name}" for name, count in tried.wrong_numbers.items() if count]
        text = f"a known vector is exact after {counted(len(tried.wrong_numbers) - 1, 'transfer')} and in the sum"
        fault = f"a known vector has wrong numbers: {', '.join(wrong)}" if wrong else ""
        yield _judged(f"copies on {where}", text, fault, ONE_GPU)
    if tried.memory:
        at = [bytes_text(own) + (f" and {bytes_text(gpus)} on GPUs" if gpus else "") for own, gpus in tried.memory]
        text = f"{at[0]} after {CHUNKS[0]} chunks, {at[1]} after {CHUNKS[1]}"
        grows = any(last - first > MAX_GROWTH for first, last in zip(*tried.memory, strict=True))
        fault = f"{text}: expected at most {bytes_text(MAX_GROWTH)} more" if grows else ""
        yield _judged(f"memory on {where}", text, fault, REPORT, "E-OOM")
    fix = REPORT if tried is cpu else ONE_GPU if len(tried.wrong_numbers) > 2 else INSTALL_GPU
    for name, measured in tried.models.items():
        on_cpu = None if tried is cpu or cpu.models[name].error else cpu.models[name]
        faults = [measured.error] if measured.error else [*_faults(measured, on_cpu, is_cpu=tried is cpu)]
        yield _judged(f"{name} on {where}", _facts(measured, on_cpu), "; ".join(faults), fix)


def _judged(what: str, text: str, fault: str, fix: str, code: str = "E-TRAINING") -> Finding:
    return Finding(what, fault, fix, code) if fault else Finding(what, text)


def _facts(measured: Measurement, cpu: Measurement | None) -> str:
    speed = f"{measured.images_per_second:,.0f} images/s"
    if cpu is not None:
        speed += f", {measured.images_per_second / cpu.images_per_second:.1f} times the CPU; {_losses(measured, cpu)}"
    exact = "; exact" if len(set(measured.hashes)) == 1 else "; not exact here"
    return f"{speed}; {_gradients(measured)}{exact if len(measured.hashes) > 1 else ''}"


def _faults(measured: Measurement, cpu: Measurement | None, *, is_cpu: bool) -> Iterator[str]:
    if cpu is not None and abs(measured.loss - cpu.loss) > MAX_LOSS_DIFFERENCE * cpu.loss:
        yield f"{_losses(measured, cpu)}: expected a difference of at most {MAX_LOSS_DIFFERENCE:.0%}"
    if any(value is None or value > MAX_GRADIENT_DIFFERENCE for value in measured.gradients.values()):
        yield f"{_gradients(measured)}: expected at most {MAX_GRADIENT_DIFFERENCE:g}"
    if is_cpu and len(set(measured.hashes)) > 1:
        cause = "two equal runs" if measured.hashes[0] != measured.hashes[1] else "a run that was killed and resumed"
        yield f"{cause} ended with other weights"


def _losses(measured: Measurement, cpu: Measurement) -> str:
    return f"loss {measured.loss:.4f}, on the CPU {cpu.loss:.4f}"


def _gradients(measured: Measurement) -> str:
    differences = {how: math.nan if value is None else value for how, value in measured.gradients.items()}
    return f"gradients differ by {', '.join(f'{value:.0e} {how}' for how, value in differences.items())}"


def measure(resources: Resources, data_dir: Path, models: Collection[str] = MODELS, **environment: str) -> Devices:
    """Kill a process that trains, then resume its trials and measure everything in another process."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = encode(resources).decode(), str(data_dir), folder, *models

        def run(task: str) -> subprocess.CompletedProcess[str]:
            command = [*MODULE, "jobs.doctor.gpu", task, *arguments]
            variables = child_variables(**environment)
            return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=TIMEOUT_SECONDS)

        try:
            run("interrupt")
            done = run("measure")
            lines = done.stdout.splitlines() if not done.returncode else []
            said = without_secrets(" ".join(done.stderr.split()[-30:]))
            error = f"its process ended with exit code {done.returncode}: {said}"
        except subprocess.TimeoutExpired:
            lines, error = [], f"it took more than {TIMEOUT_SECONDS:.0f} s"
    if not lines:
        return Devices({name: Measurement(error=error) for name in models})
    return decode(lines[-1].encode(), Devices, "the last line of jobs.doctor.gpu")


def measure_here(resources: Resources, data_dir: Path, folder: Path, models: Collection[str]) -> Devices:
    """Measure everything in this process. `folder`: of the checkpoints from `interrupt_here`."""
    dataset, facts = _set_up(resources, data_dir)
    import tensorflow as tf

    from mnist_lib.training.diagnosis import memory_after, wrong_numbers
    from mnist_lib.training.gpus import refused_by_gpu
    from mnist_lib.training.strategy import mirrored_strategy

    refused = refused_by_gpu()
    strategy, xla = mirrored_strategy(resources), not refused
    return Devices(
        {name: _tried(name, folder / name, resources, dataset, strategy, xla=xla) for name in models},
        len(tf.config.list_physical_devices("GPU")),
        facts,
        tuple(tf.sysconfig.get_build_info().get("cuda_compute_capabilities", ())),
        refused,
        wrong_numbers(strategy),
        tuple(memory_after(CHUNKS, dataset, strategy, xla=xla)),
    )


def interrupt_here(resources: Resources, data_dir: Path, folder: Path, models: Collection[str]) -> None:
    """Train each model until its first checkpoint, which is written to `folder`, and kill this process."""
    dataset, _ = _set_up(resources, data_dir)
    for name in set(EXACT_MODELS).intersection(models):
        for event in _events([Assignment(_spec(name))], dataset, resources, checkpoint_seconds=0.0):
            if isinstance(event, CheckpointTaken):
                (folder / name).write_bytes(event.content)
                break
    os.kill(os.getpid(), signal.SIGKILL)


def _set_up(resources: Resources, data_dir: Path) -> tuple[Dataset, dict[str, str]]:
    """Set up TensorFlow for these devices, and return the dataset and what is known of all GPUs."""
    import_keras()
    import tensorflow as tf

    from mnist_lib.data.prepare import prepare
    from mnist_lib.training.gpus import gpu_facts
    from mnist_lib.training.strategy import configure_process

    tf.config.experimental.enable_tensor_float_32_execution(False)
    facts = gpu_facts()  # before `configure_process`, which may hide them
    configure_process(resources)
    return prepare(DataRequest(data_dir=data_dir)).in_memory(), facts


def _spec(name: str) -> TrialSpec:
    return TrialSpec.of(name, epochs=EPOCHS, validation_percent=0)  # the weights are those of the last epoch


def _events(
    trials: Sequence[Assignment], dataset: Dataset, resources: Resources, checkpoint_seconds: float = math.inf
) -> Iterator[TrialEvent]:
    from mnist_lib.training.trial import WorkerPlace, run_trials

    resources = resources.in_this_process(trials[0].spec)
    return run_trials(trials, lambda: dataset, resources, WorkerPlace(node="here"), checkpoint_seconds)


def _tried(
    name: str, checkpoint: Path, resources: Resources, dataset: Dataset, strategy: Any, *, xla: bool
) -> Measurement:
    """Train a model twice, resume it from the checkpoint, and compare its gradients."""
    from mnist_lib.training.diagnosis import gradient_differences

    spec, epochs, hashes = _spec(name), list[EpochDone](), list[str]()
    content = checkpoint.read_bytes() if checkpoint.exists() else None
    trials = [Assignment(spec), Assignment(spec), Assignment(spec, content, until=EPOCHS)]
    for event in _events(trials if name in EXACT_MODELS else trials[:1], dataset, resources):
        if isinstance(event, TrialFailure):
            return Measurement(error=f"{event.code} {event.message}")
        if isinstance(event, Started) and len(hashes) == 2 and not event.resumed_after:
            return Measurement(error="; ".join(("a run that was killed did not resume", *event.notices)))
        if isinstance(event, EpochDone):
            epochs.append(event)
        if isinstance(event, TrialResult):
            hashes.append(event.weights_sha256)
    try:
        gradients = gradient_differences(name, dataset, strategy, xla=xla)
    except Exception as error:  # of any kind: one that XLA raises is a finding, too
        return Measurement(error=f"its gradients: {type(error).__name__}: {one_line(error)}")
    speed = max(epoch.images_per_second for epoch in epochs)
    return Measurement(epochs[0].loss, speed, gradients, tuple(hashes))


def main() -> None:
    task, resources, data_dir, folder, *models = sys.argv[1:]
    what = decode(resources.encode(), Resources, "the second argument"), Path(data_dir), Path(folder), models
    if task == "interrupt":
        interrupt_here(*what)
    print_result(encode(measure_here(*what)).decode())


if __name__ == "__main__":
    main()
