"""Models on the devices of a machine, with logical CPU devices in place of GPUs."""

from pathlib import Path

import pytest

from jobs.doctor import checks
from jobs.doctor.checks import Devices, Measurement, compared, measure
from mnist_lib.assignment import Resources
from mnist_lib.catalog import MODELS
from tests.jobs.doctor.test_doctor import doctor

CPU = Devices(2, {"keras": Measurement(0.5, 1_000.0)})


def test_each_model_is_compared_with_the_cpu() -> None:
    (found,) = compared("1 GPU", Devices(1, {"keras": Measurement(0.51, 4_200.0)}), CPU)
    assert (found.mark, found.what) == ("ok", "keras on 1 GPU")
    assert found.found == "4,200 images/s, 4.2 times the CPU; loss 0.5100, on the CPU 0.5000"


def test_a_model_that_learns_less_than_on_the_cpu_is_a_fault() -> None:
    (found,) = compared("1 GPU", Devices(1, {"keras": Measurement(0.6, 4_200.0)}), CPU)
    assert (found.mark, found.code) == ("fault", "E-TRAINING")
    assert found.found == "loss 0.6000, on the CPU 0.5000: expected a difference of at most 5%"


def test_an_error_on_a_device_is_a_fault_with_its_reason() -> None:
    (found,) = compared("1 GPU", Devices(1, {"keras": Measurement(error="E-OOM too large")}), CPU)
    assert (found.mark, found.found) == ("fault", "E-OOM too large")


def test_a_process_that_dies_or_hangs_is_an_error_of_every_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "TIMEOUT_SECONDS", 0.05)
    hung = measure(Resources(), tmp_path)
    assert {row.error for row in hung.models.values()} == {"it took more than 0 s"}
    monkeypatch.setattr(checks, "TIMEOUT_SECONDS", 100)
    died = measure(Resources(), tmp_path, PYTHONHOME="/absent")
    assert died.models.keys() == MODELS.keys()
    assert all(row.error.startswith("its process ended with exit code 1: ") for row in died.models.values())


@pytest.mark.slow
@pytest.mark.long
def test_mirrored_devices_learn_as_one_does(data_dir: Path) -> None:
    one = measure(Resources(), data_dir, ("keras", "scratch"))
    two = measure(Resources(cpus=2, cpu_replicas=2), data_dir, ("keras", "scratch"))
    found = [*compared("the CPU", one, one), *compared("2 devices, mirrored", two, one)]
    assert [finding.mark for finding in found] == ["ok"] * 4, found


ONE_MODEL = """
from functools import partial
from jobs.doctor import checks
checks.measure = partial(checks.measure, models=("keras",))
"""


@pytest.mark.slow
@pytest.mark.long
def test_a_machine_without_a_gpu_is_told_so(data_dir: Path, tmp_path: Path) -> None:
    code, found = doctor("--gpu", "--data-dir", data_dir, "--storage", tmp_path, prelude=ONE_MODEL)
    assert code == 5
    assert found[-1]["found"] == "TensorFlow sees no GPU here"
    assert [finding["mark"] for finding in found if finding["what"] == "keras on the CPU"] == ["ok"]
