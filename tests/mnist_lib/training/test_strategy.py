"""What a process asks of TensorFlow; GPUs, which are not here, are pretended by name."""

from types import SimpleNamespace
from typing import Any

import pytest
import tensorflow as tf

from mnist_lib.errors import GpuInvisibleError
from mnist_lib.spec import Group, Resources
from mnist_lib.training import strategy


class Config:
    """tf.config with so many GPUs; remembers what was asked of it."""

    def __init__(self, gpus: int) -> None:
        self.asked: list[tuple[str, Any]] = []
        self.threading = SimpleNamespace(
            set_intra_op_parallelism_threads=lambda threads: self.asked.append(("threads", threads))
        )
        self.experimental = SimpleNamespace(set_memory_growth=lambda gpu, on: self.asked.append(("growth", gpu)))
        self.LogicalDeviceConfiguration = object
        self._devices = {"GPU": [f"GPU:{i}" for i in range(gpus)], "CPU": ["CPU:0"]}

    def list_physical_devices(self, kind: str) -> list[str]:
        return self._devices[kind]

    def set_visible_devices(self, devices: list[str], kind: str) -> None:
        self.asked.append(("visible", (kind, devices)))

    def set_logical_device_configuration(self, device: str, configurations: list[object]) -> None:
        self.asked.append(("logical", (device, len(configurations))))


def asked_of(monkeypatch: pytest.MonkeyPatch, gpus: int, resources: Resources) -> dict[str, Any]:
    config = Config(gpus)
    monkeypatch.setattr(tf, "config", config)
    strategy.configure_process(resources)
    return dict(config.asked)


def test_without_gpus_granted_those_of_the_node_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = asked_of(monkeypatch, gpus=4, resources=Resources(cpus=3, cpu_replicas=2))
    assert asked == {"threads": 1, "visible": ("GPU", []), "logical": ("CPU:0", 2)}


def test_granted_gpus_are_used_and_their_memory_is_taken_as_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert asked_of(monkeypatch, gpus=1, resources=Resources(gpus=1)) == {"threads": 1, "growth": "GPU:0"}


@pytest.mark.parametrize("seen", [0, 1, 3])
def test_another_number_of_gpus_than_granted_is_refused(monkeypatch: pytest.MonkeyPatch, seen: int) -> None:
    with pytest.raises(GpuInvisibleError, match=rf"2 GPU\(s\) granted, TensorFlow sees {seen}"):
        asked_of(monkeypatch, gpus=seen, resources=Resources(gpus=2))


def test_where_it_is_allowed_cpu_devices_stand_in_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = asked_of(monkeypatch, gpus=1, resources=Resources(gpus=2, allow_cpu=True))
    assert asked == {"threads": 1, "visible": ("GPU", []), "logical": ("CPU:0", 2)}


@pytest.mark.parametrize("gpus", [0, 2])
def test_a_group_takes_the_gpus_that_are_visible_and_a_cpu_only_without(
    monkeypatch: pytest.MonkeyPatch, gpus: int
) -> None:
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: ["GPU"] * gpus)
    resolver = strategy.resolver_of(Group(addresses=("10.0.0.1:1", "10.0.0.2:1"), rank=1))
    assert resolver.num_accelerators("worker", 1) == {"GPU": gpus}
    assert (resolver.task_id, resolver.cluster_spec().num_tasks("worker")) == (1, 2)
