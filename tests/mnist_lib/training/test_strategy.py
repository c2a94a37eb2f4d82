"""The settings of TensorFlow in a process. GPUs are simulated by name."""

from types import SimpleNamespace
from typing import Any

import pytest
import tensorflow as tf

from mnist_lib.errors import GpuInvisibleError
from mnist_lib.spec import TrialSpec
from mnist_lib.training import strategy
from mnist_lib.training.assignment import Resources


class Config:
    """A tf.config with a number of GPUs that records the settings made."""

    def __init__(self, gpus: int) -> None:
        self.settings: list[tuple[str, Any]] = []
        self.threading = SimpleNamespace(
            set_intra_op_parallelism_threads=lambda threads: self.settings.append(("threads", threads))
        )
        self.experimental = SimpleNamespace(set_memory_growth=lambda gpu, on: self.settings.append(("growth", gpu)))
        self.LogicalDeviceConfiguration = object
        self._devices = {"GPU": [f"GPU:{i}" for i in range(gpus)], "CPU": ["CPU:0"]}

    def list_physical_devices(self, kind: str) -> list[str]:
        return self._devices[kind]

    def set_visible_devices(self, devices: list[str], kind: str) -> None:
        self.settings.append(("visible", (kind, devices)))

    def set_logical_device_configuration(self, device: str, configurations: list[object]) -> None:
        self.settings.append(("logical", (device, len(configurations))))


def settings_of(
    monkeypatch: pytest.MonkeyPatch, gpus: int, resources: Resources, spec: TrialSpec | None = None
) -> dict[str, Any]:
    config = Config(gpus)
    monkeypatch.setattr(tf, "config", config)
    strategy.configure_process(resources, spec)
    return dict(config.settings)


def test_a_process_without_granted_gpus_hides_those_of_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of(monkeypatch, gpus=4, resources=Resources(cpus=3, cpu_replicas=2))
    assert settings == {"threads": 1, "visible": ("GPU", []), "logical": ("CPU:0", 2)}


def test_the_parts_of_a_batch_share_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings_of(monkeypatch, gpus=0, resources=Resources(cpus=6), spec=TrialSpec.of("keras-cnn"))["threads"] == 3


def test_granted_gpus_allocate_memory_as_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings_of(monkeypatch, gpus=1, resources=Resources(gpus=1)) == {"threads": 1, "growth": "GPU:0"}


@pytest.mark.parametrize("seen", [0, 1, 3])
def test_a_number_of_gpus_other_than_granted_is_refused(monkeypatch: pytest.MonkeyPatch, seen: int) -> None:
    with pytest.raises(GpuInvisibleError, match=f"expected TensorFlow to see 2 GPUs, got {seen}"):
        settings_of(monkeypatch, gpus=seen, resources=Resources(gpus=2))


def test_with_allow_cpu_logical_cpu_devices_replace_missing_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of(monkeypatch, gpus=1, resources=Resources(gpus=2, allow_cpu=True))
    assert settings == {"threads": 1, "visible": ("GPU", []), "logical": ("CPU:0", 2)}
