"""What a lane is given: its resources, and one trial after the other."""

from __future__ import annotations

import math
import pickle
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

from msgspec import Meta

from mnist_lib.environment import steady_time
from mnist_lib.errors import SpecError
from mnist_lib.model_file import ModelFile
from mnist_lib.results import EpochDone
from mnist_lib.settings import CheckedFields, option
from mnist_lib.spec import TrialSpec
from mnist_lib.wording import counted

CHECKPOINT_SECONDS = 60.0  # by default, the minimum time between two checkpoints of a trial

CPUs = Annotated[int, Meta(ge=1, le=4_096)]
GPUs = Annotated[int, Meta(ge=0, le=64)]
Replicas = Annotated[int, Meta(ge=1, le=64)]


@dataclass(frozen=True, kw_only=True)
class Resources(CheckedFields):
    """What a trial runs on: one replica per GPU or, without GPUs, one on each of `cpu_replicas` logical CPU devices.

    `cpus` decides the number of threads of a trial, which on some processors changes its weights. So a run that is
    resumed on smaller nodes keeps its `cpus`.
    """

    cpus: CPUs = option(1, "CPUs", name="cpus_per_trial")
    gpus: GPUs = option(0, "GPUs", name="gpus_per_trial")
    cpu_replicas: Replicas = 1
    allow_cpu: bool = False  # use CPU devices in place of GPUs that TensorFlow does not see

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gpus and self.cpu_replicas > 1:
            got = f"{self.cpu_replicas} with {counted(self.gpus, 'GPU')}"
            raise SpecError(
                f"cpu_replicas: expected 1 on GPUs, got {got}; use --gpus-per-trial 0, or leave out --cpu-replicas"
            )

    def threads_for(self, spec: TrialSpec | None = None) -> int:
        """Return the number of threads that share an operation of a trial. Without a spec, assume no microbatches.

        Logical CPU devices and microbatches share the CPUs, and each adds a thread of its own.
        """
        return max(1, self.cpus // self._side_by_side(spec))

    def in_this_process(self, spec: TrialSpec) -> Resources:
        """Return resources with which a trial needs the threads of a process that was configured without a spec."""
        return replace(self, cpus=self.threads_for() * self._side_by_side(spec))

    def _side_by_side(self, spec: TrialSpec | None) -> int:
        """Return how many computations share the CPUs: one per CPU device or, on a single one, one per microbatch."""
        is_one_cpu_device = self.cpu_replicas == 1 and not self.gpus
        return spec.microbatches if spec and is_one_cpu_device else self.cpu_replicas


@dataclass(frozen=True)
class Assignment:
    """A trial as it is given to a lane."""

    spec: TrialSpec
    checkpoint: bytes | None = None  # the newest one of an earlier attempt
    source: ModelFile | None = None  # the file that defines its model, unless the model is in the catalog
    # By `steady_time`: the trial ends before a chunk that would leave too little time to evaluate it.
    deadline: float = math.inf
    # End after this epoch, at the learning rates of the full trial. A configuration of a search then ends with
    # `RungDone`, without an evaluation on the test images.
    until: int | None = None
    epochs: Sequence[EpochDone] = ()  # epochs already done, at least up to the checkpoint; not needed with `until`
    images: int | None = None  # end its last epoch after the chunk with this image; None: after the last chunk

    def __reduce__(self) -> tuple[Any, ...]:
        """Let Ray send the checkpoint without copying it; the receiver sees it as a memoryview.

        The seconds left are sent in place of the deadline, since the clocks of two machines may differ.
        """
        checkpoint = None if self.checkpoint is None else pickle.PickleBuffer(self.checkpoint)
        left = self.deadline - steady_time()
        return _from_seconds_left, (left, self.spec, checkpoint, self.source, self.until, self.epochs, self.images)


def _from_seconds_left(
    seconds: float, spec: TrialSpec, checkpoint: bytes | None, source: ModelFile | None, *others: Any
) -> Assignment:
    return Assignment(spec, checkpoint, source, steady_time() + seconds, *others)
