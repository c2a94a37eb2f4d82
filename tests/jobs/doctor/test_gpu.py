"""What devices compute, with logical CPU devices in place of GPUs, and each fault put into it on purpose."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from jobs.doctor import gpu
from jobs.doctor.checks import Finding
from jobs.doctor.gpu import Devices, DevicesError, Measurement, compared, measure
from mnist_lib.data.batches import ReplicaPart
from mnist_lib.data.dataset import Dataset
from mnist_lib.models.model import Tensors
from mnist_lib.training import diagnosis
from mnist_lib.training.assignment import Resources
from mnist_lib.training.diagnosis import gradient_difference, moved, wrong_numbers
from mnist_lib.training.steps import Steps, Totals, gradients_of
from tests.jobs.doctor.test_doctor import doctor

MEASURED = Measurement(0.5, 1_000.0, 3e-7)
CPU = Devices({"keras": MEASURED})


def on_gpus(measured: Measurement = MEASURED, **fields: Any) -> Devices:
    return Devices({"keras": measured}, **fields)


@pytest.fixture
def mirrored(tensorflow: None) -> tf.distribute.Strategy:
    return tf.distribute.MirroredStrategy(["/CPU:0", "/CPU:1"])


def judged(mirrored: tf.distribute.Strategy, digits: Dataset) -> Finding:
    """Measure the gradients of a model on two devices, and return what is found."""
    difference = gradient_difference("scratch", digits, mirrored, xla=True)
    _, found = compared("2 GPUs", on_gpus(replace(MEASURED, gradient_difference=difference)), CPU)
    return found


def test_each_model_is_compared_with_the_cpu() -> None:
    _, found = compared("1 GPU", on_gpus(replace(MEASURED, loss=0.51, images_per_second=4_200.0)), CPU)
    assert (found.mark, found.what) == ("ok", "keras on 1 GPU")
    text = "4,200 images/s; loss 0.5100, on the CPU 0.5000; gradients differ by 3e-07"
    assert found.found == text


def test_a_model_that_learns_less_than_on_the_cpu_is_a_fault() -> None:
    _, found = compared("1 GPU", on_gpus(replace(MEASURED, loss=0.6)), CPU)
    assert (found.mark, found.code) == ("fault", "E-TRAINING")
    assert found.found == "loss 0.6000, on the CPU 0.5000: expected a difference of at most 15%"


def test_an_error_on_a_device_is_a_fault_with_its_reason() -> None:
    _, found = compared("1 GPU", on_gpus(Measurement(error="E-OOM too large")), CPU)
    assert (found.mark, found.found) == ("fault", "E-OOM too large")


def test_a_gpu_that_xla_cannot_use_is_named() -> None:
    found, *_ = compared("1 GPU", on_gpus(refused_by_gpu="a first compilation on A ended with SIGABRT"), CPU)
    text = "training does without it: a first compilation on A ended with SIGABRT"
    assert (found.mark, found.what, found.found) == ("warning", "XLA on 1 GPU", text)


@pytest.mark.slow
def test_two_devices_without_a_fault_compute_what_one_does(mirrored: tf.distribute.Strategy, digits: Dataset) -> None:
    assert judged(mirrored, digits).mark == "ok"
    measured = on_gpus(wrong_numbers=wrong_numbers(mirrored))
    copies = ["CPU:0 to CPU:0", "CPU:0 to CPU:1", "CPU:1 to CPU:0", "CPU:1 to CPU:1"]
    assert list(measured.wrong_numbers) == [*copies, "sum"]
    assert [found.mark for found in compared("2 GPUs", measured, CPU)] == ["ok"] * 2


@pytest.mark.slow
def test_a_sum_that_lacks_a_replica_is_found_in_the_gradients(
    mirrored: tf.distribute.Strategy, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def doubled(self: Steps, parts: tf.Tensor) -> tf.Tensor:
        replicas = self._strategy.experimental_local_results(parts)
        return len(replicas) * replicas[0]

    monkeypatch.setattr(Steps, "_sum", doubled)
    found = judged(mirrored, digits)
    assert (found.mark, found.code) == ("fault", "E-TRAINING")
    # The first of two replicas has a third of the loss, twice of which is two thirds.
    assert found.found == "gradients differ by 3e-01: expected at most 0.05"


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
    assert (found.mark, found.found) == ("fault", "gradients differ by nan: expected at most 0.05")


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


def test_a_process_that_dies_or_hangs_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "TIMEOUT_SECONDS", 0.05)
    with pytest.raises(DevicesError, match="training on the CPU took more than 0 s; install"):
        measure(Resources(), tmp_path)
    monkeypatch.setattr(gpu, "TIMEOUT_SECONDS", 100)
    monkeypatch.setattr(gpu, "MODULE", ("/bin/false",))
    with pytest.raises(DevicesError, match=r"on 2 GPUs ended with exit code 1: ; install requirements/gpu\.lock"):
        measure(Resources(gpus=2), tmp_path)


@pytest.mark.slow
@pytest.mark.long
def test_mirrored_devices_compute_what_one_does(data_dir: Path) -> None:
    one = measure(Resources(), data_dir, ("keras", "scratch"))
    two = measure(Resources(cpus=2, cpu_replicas=2), data_dir, ("keras", "scratch"))
    found = [*compared("the CPU", one, one), *compared("2 devices, mirrored", two, one)]
    assert [finding.mark for finding in found] == ["ok"] * 6, found


ONE_MODEL = """
from functools import partial
from jobs.doctor import gpu
gpu.measure = partial(gpu.measure, models=("keras",))
"""


@pytest.mark.slow
@pytest.mark.long
def test_a_machine_without_a_gpu_is_told_so(data_dir: Path, tmp_path: Path) -> None:
    code, found = doctor("--gpu", "--data-dir", data_dir, "--storage", tmp_path, prelude=ONE_MODEL)
    assert code == 5
    assert found[-1]["found"] == "TensorFlow sees no GPU here"
    assert [finding["mark"] for finding in found if finding["what"].endswith(" on the CPU")] == ["ok"] * 2
