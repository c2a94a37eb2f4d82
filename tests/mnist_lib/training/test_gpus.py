"""Training on GPUs, in whose place there are CPU devices here."""

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
from tensorflow.python.framework.config import disable_op_determinism

from mnist_lib.data.dataset import Dataset
from mnist_lib.results import TrialEvent, TrialFailure, TrialResult, TrialStarted
from mnist_lib.spec import TrialSpec
from mnist_lib.training import gpus, trial
from mnist_lib.training.assignment import Assignment, Resources
from mnist_lib.training.trainer import Trainer
from mnist_lib.training.trial import WorkerPlace, run_trials
from tests.support.digits import few_digits
from tests.support.own_trials import OWN, own, result_of

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("tensorflow")]

A100 = {"device_name": "NVIDIA A100", "compute_capability": (8, 0)}
ABORTING = "import os, sys; print('LLVM ERROR: PTX version 8.5', file=sys.stderr); print('at 0x1', file=sys.stderr)"


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: [f"{kind}:0", f"{kind}:1"])
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda device: A100)
    driver = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.124.06  Release Build  (dvs-builder)\n"
    monkeypatch.setattr(gpus, "DRIVER", tmp_path / "version")
    gpus.DRIVER.write_text(driver)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_deterministic_ops=true")
    monkeypatch.delenv("TF_XLA_FLAGS", raising=False)


@pytest.mark.usefixtures("two_gpus")
def test_what_a_result_on_gpus_depends_on_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = gpus.gpu_facts()
    assert facts.pop("cuda").startswith("12.")
    assert facts.pop("cudnn")
    assert facts == {
        "gpu": "NVIDIA A100",
        "compute_capability": "8.0",
        "gpu_driver": "570.124.06",
        "tensor_float_32": "on",
        "xla_flags": "--xla_gpu_deterministic_ops=true",
    }
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: [])
    assert gpus.gpu_facts() == {}


@pytest.mark.usefixtures("two_gpus")
def test_xla_is_tried_once_in_a_process_that_it_may_abort(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refusal(code: str) -> str:
        monkeypatch.setattr(gpus, "COMMAND", (sys.executable, "-c", code))
        return gpus.refused_by_gpu()

    refused = refusal(f"{ABORTING}; os.abort()")
    (file,) = (tmp_path / "mnist-jobs").iterdir()
    assert refused == (
        "a first compilation on NVIDIA A100 ended with SIGABRT (LLVM ERROR: PTX version 8.5);"
        f" delete {file} to try it again"
    )
    assert refusal("") == refused
    monkeypatch.setattr(tf, "__version__", "2.22.0")
    assert refusal("raise SystemExit(3)").split("; ")[0].endswith("ended with exit code 3")
    monkeypatch.setattr(tf, "__version__", "2.23.0")
    assert refusal("") == refusal(ABORTING + "; os.abort()") == ""
    monkeypatch.setattr(tf, "__version__", "2.24.0")
    monkeypatch.setattr(gpus, "TRY_SECONDS", 0.1)
    assert "took more than 0 s" in refusal("import time; time.sleep(60)")


@pytest.mark.usefixtures("two_gpus")
def test_xla_is_tried_again_on_a_gpu_whose_memory_was_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    error = "RESOURCE_EXHAUSTED: Error: Out of memory while trying to allocate 8 bytes"
    monkeypatch.setattr(gpus, "COMMAND", (sys.executable, "-c", f"raise SystemExit('{error}')"))
    assert gpus.refused_by_gpu().endswith(f"ended with exit code 1 ({error})")
    monkeypatch.setattr(gpus, "COMMAND", (sys.executable, "-c", ""))
    assert gpus.refused_by_gpu() == ""


def test_what_the_child_process_compiles_is_compiled_here() -> None:
    gpus.main()


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bool]]:
    """Return a list that gets, for each function that is made meanwhile, whether XLA compiles it."""
    function, found = tf.function, list[bool]()

    def recorded(*args: Any, **options: Any) -> Any:
        found.append(bool(options.get("jit_compile")))
        return function(*args, **options)

    monkeypatch.setattr(tf, "function", recorded)
    monkeypatch.setattr(trial, "configure_process", lambda *_: None)  # done by the fixture `tensorflow`
    yield found
    disable_op_determinism()


def events_of(spec: TrialSpec, dataset: Dataset) -> list[TrialEvent]:
    assignment = Assignment(spec, source=OWN if spec.source_sha256 else None)
    return [*run_trials([assignment], lambda: dataset, Resources(cpus=2), WorkerPlace(node="here"))]


def test_a_trial_on_a_gpu_that_xla_refuses_is_trained_without_xla(
    digits: Dataset, compiled: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "refused_by_gpu", lambda: "a first compilation ended with SIGABRT")
    events = events_of(TrialSpec.of("keras", hidden_units=8, epochs=1), few_digits(digits))
    (notices,) = [event.notices for event in events if isinstance(event, TrialStarted)]
    assert notices[-1] == "keras is trained without XLA: a first compilation ended with SIGABRT"
    assert isinstance(events[-1], TrialResult)
    assert compiled
    assert not any(compiled)


def test_deterministic_trials_have_equal_weights_without_xla(digits: Dataset, compiled: list[bool]) -> None:
    spec = replace(own("list_of_layers", epochs=1), deterministic=True)
    first, second = (result_of(events_of(spec, few_digits(digits))) for _ in range(2))
    assert first.record.weights_sha256 == second.record.weights_sha256
    assert compiled
    assert not any(compiled)


@pytest.mark.usefixtures("compiled")
def test_an_operation_without_a_deterministic_kernel_is_refused(
    digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorFlow has such operations on GPUs only; this is what it says of one."""
    missing = "Deterministic GPU implementation of unsorted segment reduction op not available."

    def run_once(*given: object) -> None:
        where = 'Detected at node gradients/Sum defined at:\n  File "loop.py", line 1, in run\n\n'
        text = f"Graph execution error:\n\n{where}{missing}\n\t [[{{{{node gradients/Sum}}}}]] [Op:__inference_run_7]"
        raise tf.errors.UnimplementedError(None, None, text)

    monkeypatch.setattr(Trainer, "_run_once", run_once)
    spec = TrialSpec.of("keras", hidden_units=8, epochs=1)
    without, failure = (
        events_of(replace(spec, deterministic=given), few_digits(digits))[-1] for given in (False, True)
    )
    assert isinstance(without, TrialFailure)
    assert isinstance(failure, TrialFailure)
    assert (without.code, failure.code) == ("E-BUG", "E-MODEL")
    assert failure.message == (
        f"keras: expected operations with deterministic kernels, since --deterministic is given, got {missing}; use"
        " another operation, or leave out --deterministic"
    )
