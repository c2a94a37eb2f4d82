"""What devices compute, with logical CPU devices in place of GPUs, and each fault put into it on purpose."""

import json
import mmap
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from jobs.doctor import gpu
from jobs.doctor.checks import DoctorOptions, Finding
from jobs.doctor.gpu import FILES, Devices, Measurement, capability, compared, devices, measure
from mnist_lib.assignment import Resources
from mnist_lib.catalog import MODELS
from mnist_lib.data.batches import Chunk, ReplicaPart
from mnist_lib.data.split import Dataset
from mnist_lib.models.model import Tensors
from mnist_lib.training import diagnosis
from mnist_lib.training.diagnosis import gradient_differences, memory_after, moved, wrong_numbers
from mnist_lib.training.loop import TrainedChunk, Trainer
from mnist_lib.training.steps import StepByStep, Totals, gradients_of
from tests.jobs.doctor.test_doctor import doctor

MEASURED = Measurement(0.5, 1_000.0, {"as trained": 3e-7}, ("a", "a", "a"))
CPU = Devices({"keras": MEASURED})
SUPPORTED = ("sm_60", "sm_70", "sm_80", "sm_89", "compute_90")  # by the packages of TensorFlow 2.21


def on_gpus(measured: Measurement = MEASURED, **fields: Any) -> Devices:
    return Devices({"keras": measured}, **fields)


@pytest.fixture
def mirrored(tensorflow: None) -> tf.distribute.Strategy:
    return tf.distribute.MirroredStrategy(["/CPU:0", "/CPU:1"])


def judged(mirrored: tf.distribute.Strategy, digits: Dataset) -> Finding:
    """Measure the gradients of a model on two devices, and return what is found."""
    gradients = gradient_differences("scratch", digits, mirrored)
    (found,) = compared("2 GPUs", on_gpus(replace(MEASURED, gradients=gradients)), CPU)
    return found


def test_each_model_is_compared_with_the_cpu() -> None:
    (found,) = compared("1 GPU", on_gpus(replace(MEASURED, loss=0.51, images_per_second=4_200.0)), CPU)
    assert (found.mark, found.what) == ("ok", "keras on 1 GPU")
    speed = "4,200 images/s, 4.2 times the CPU; loss 0.5100, on the CPU 0.5000"
    assert found.found == f"{speed}; gradients differ by 3e-07 as trained; exact"


def test_a_model_that_learns_less_than_on_the_cpu_is_a_fault() -> None:
    (found,) = compared("1 GPU", on_gpus(replace(MEASURED, loss=0.6)), CPU)
    assert (found.mark, found.code) == ("fault", "E-TRAINING")
    assert found.found == "loss 0.6000, on the CPU 0.5000: expected a difference of at most 15%"


def test_an_error_on_a_device_is_a_fault_with_its_reason() -> None:
    (found,) = compared("1 GPU", on_gpus(Measurement(error="E-OOM too large")), CPU)
    assert (found.mark, found.found) == ("fault", "E-OOM too large")


@pytest.mark.parametrize(
    ("hashes", "cause"), [("aba", "two equal runs"), ("aab", "a run that was killed and resumed")], ids=str
)
def test_two_hashes_are_a_fault_on_the_cpu_and_a_fact_on_a_gpu(hashes: str, cause: str) -> None:
    tried = on_gpus(replace(MEASURED, hashes=tuple(hashes)))
    (found,) = compared("the CPU", tried, tried)
    assert (found.mark, found.found) == ("fault", f"{cause} ended with other weights")
    (found,) = compared("1 GPU", tried, CPU)
    assert found.mark == "ok"
    assert found.found.endswith("; not exact here")


@pytest.mark.parametrize(
    ("version", "mark"),
    [("5.2", "fault"), ("7.5", "ok"), ("8.6", "ok"), ("9.0", "ok"), ("12.0", "warning"), ("unknown", "ok")],
)
def test_a_compute_capability_without_code_is_found(version: str, mark: str) -> None:
    found = capability(version, SUPPORTED)
    assert (found.mark, found.what) == (mark, f"compute capability {version}")


def test_a_gpu_that_xla_cannot_use_is_named() -> None:
    found, _ = compared("1 GPU", on_gpus(refused_by_gpu="a first compilation on A ended with SIGABRT"), CPU)
    text = "training does without it: a first compilation on A ended with SIGABRT"
    assert (found.mark, found.what, found.found) == ("warning", "XLA on 1 GPU", text)


@pytest.mark.slow
def test_two_devices_without_a_fault_compute_what_one_does(mirrored: tf.distribute.Strategy, digits: Dataset) -> None:
    assert judged(mirrored, digits).mark == "ok"
    tried = on_gpus(wrong_numbers=wrong_numbers(mirrored), memory=tuple(memory_after((50, 150), digits, mirrored)))
    assert list(tried.wrong_numbers) == ["CPU:0 to CPU:0", "CPU:0 to CPU:1", "CPU:1 to CPU:0", "CPU:1 to CPU:1", "sum"]
    assert [found.mark for found in compared("2 GPUs", tried, CPU)] == ["ok"] * 3


@pytest.mark.slow
def test_a_sum_that_lacks_a_replica_is_found_in_the_gradients(
    mirrored: tf.distribute.Strategy, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def doubled(self: StepByStep, parts: tf.Tensor) -> tf.Tensor:
        replicas = self._strategy.experimental_local_results(parts)
        return len(replicas) * replicas[0]

    monkeypatch.setattr(StepByStep, "_sum", doubled)
    found = judged(mirrored, digits)
    assert (found.mark, found.code) == ("fault", "E-TRAINING")
    # The first of two replicas has a third of the loss, twice of which is two thirds.
    assert found.found == "gradients differ by 3e-01 as trained, 3e-01 without XLA: expected at most 0.05"


@pytest.mark.slow
def test_a_nan_on_the_second_device_is_found(
    mirrored: tf.distribute.Strategy, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: Any) -> tuple[Tensors, Tensors, Totals, tf.Tensor]:
        gradients, *others = gradients_of(*arguments)
        share = 128 * next(part for part in arguments if isinstance(part, ReplicaPart)).weights[0]
        is_second = (share > 0.6) & (share < 0.7)
        return [tf.where(is_second, np.nan, gradient) for gradient in gradients], *others

    monkeypatch.setattr(diagnosis, "gradients_of", broken)
    found = judged(mirrored, digits)
    assert (found.mark, found.found.partition(":")[0]) == (
        "fault",
        "gradients differ by nan as trained, nan without XLA",
    )


def test_a_wrong_copy_and_a_wrong_sum_of_a_vector_are_found(
    mirrored: tf.distribute.Strategy, monkeypatch: pytest.MonkeyPatch
) -> None:
    reduce = type(mirrored).reduce

    def damaged(tensor: Any, device: str) -> tf.Tensor:
        is_damaged = "CPU:0" in tensor.device and "CPU:1" in device
        return moved(tensor, device) * (1.0 - tf.one_hot(7, len(tensor))) if is_damaged else moved(tensor, device)

    monkeypatch.setattr(diagnosis, "moved", damaged)
    wrong = wrong_numbers(mirrored)
    monkeypatch.setattr(type(mirrored), "reduce", lambda *arguments, **named: reduce(*arguments, **named) + 1)
    wrong |= {"sum": wrong_numbers(mirrored)["sum"]}
    found = next(compared("2 GPUs", on_gpus(wrong_numbers=wrong), CPU))
    assert (found.mark, found.code) == ("fault", "E-TRAINING")
    assert found.found == "a known vector has wrong numbers: 1 of CPU:0 to CPU:1, 1,048,576 of sum"


@pytest.mark.slow
def test_growing_memory_is_found(
    mirrored: tf.distribute.Strategy, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, train_chunk = list[mmap.mmap](), Trainer.train_chunk

    def holding(self: Trainer, chunk: Chunk, *arguments: Any, **named: Any) -> TrainedChunk:
        held.append(mmap.mmap(-1, 2 << 20))  # from the kernel: this process may have free memory from earlier tests
        held[-1].write(bytes(2 << 20))
        return train_chunk(self, chunk, *arguments, **named)

    monkeypatch.setattr(Trainer, "train_chunk", holding)
    tried = on_gpus(memory=tuple(memory_after((50, 150), digits, mirrored)))
    found, _ = compared("2 GPUs", tried, CPU)
    assert (found.mark, found.code) == ("fault", "E-OOM")
    assert found.found.endswith(": expected at most 64.0 MB more")


def test_a_process_that_dies_or_hangs_is_an_error_of_every_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "TIMEOUT_SECONDS", 0.05)
    hung = measure(Resources(), tmp_path)
    assert {row.error for row in hung.models.values()} == {"it took more than 0 s"}
    monkeypatch.setattr(gpu, "TIMEOUT_SECONDS", 100)
    monkeypatch.setattr(gpu, "MODULE", ("/bin/false",))
    died = measure(Resources(), tmp_path)
    assert died.models.keys() == MODELS.keys()
    assert all(row.error.startswith("its process ended with exit code 1: ") for row in died.models.values())
    monkeypatch.setattr(gpu, "measure", lambda *arguments: died)
    monkeypatch.chdir(tmp_path)
    *found, report = devices(DoctorOptions(gpu=True))
    assert [finding.what for finding in found] == [f"{name} on the CPU" for name in MODELS]
    assert (report.what, sorted(path.name for path in tmp_path.iterdir())) == ("report", sorted(map(str, FILES)))


@pytest.mark.slow
@pytest.mark.long
def test_mirrored_devices_compute_what_one_does(data_dir: Path) -> None:
    one = measure(Resources(), data_dir, ("keras", "scratch"))
    two = measure(Resources(cpus=2, cpu_replicas=2), data_dir, ("keras", "scratch"))
    found = [*compared("the CPU", one, one), *compared("2 devices, mirrored", two, one)]
    assert [finding.mark for finding in found] == ["ok"] * 8, found
    assert [finding.found.endswith("; exact") for finding in found] == [False, False, True, False] * 2, found


ONE_MODEL = """
import os
from functools import partial
from jobs.doctor import gpu
gpu.measure = partial(gpu.measure, models=("keras",))
os.chdir({!r})
"""


@pytest.mark.slow
@pytest.mark.long
def test_a_machine_without_a_gpu_is_told_so(data_dir: Path, tmp_path: Path) -> None:
    code, found = doctor(
        "--gpu", "--data-dir", data_dir, "--storage", tmp_path, prelude=ONE_MODEL.format(str(tmp_path))
    )
    assert code == 5
    assert found[-2]["found"] == "TensorFlow sees no GPU here"
    assert [finding["mark"] for finding in found if finding["what"].endswith(" on the CPU")] == ["ok"] * 3
    assert (
        found[-1]["found"] == f"send {tmp_path}/doctor-gpu.json and doctor-gpu.txt beside it with a report of a fault"
    )
    report = json.loads((tmp_path / "doctor-gpu.json").read_bytes())
    assert report["findings"] == [*found[-5:-1]]
    assert (tmp_path / "doctor-gpu.txt").read_text().splitlines()[-1].startswith("fault   GPU: TensorFlow sees no GPU")
