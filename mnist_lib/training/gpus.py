"""The GPUs of a process: what a result on them depends on, and whether XLA works on them.

XLA aborts the process in which it compiles for some GPUs, such as those of compute capability 12.0 with TensorFlow 2.21
(tensorflow/tensorflow#111958), and no `except` catches that. So it is tried in a child process first.
"""

import contextlib
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import tensorflow as tf

from mnist_lib.environment import MODULE
from mnist_lib.model_file import user_folder
from mnist_lib.objects.output_file import replacement

DRIVER = Path("/proc/driver/nvidia/version")
FLAGS = ("XLA_FLAGS", "TF_XLA_FLAGS")
OUT_OF_MEMORY = re.compile("RESOURCE_EXHAUSTED|out of memory", re.IGNORECASE)
TRY_SECONDS = 300.0  # to start TensorFlow and to compile; on some GPUs, XLA takes a minute for a matrix product
# -P: modules are found as in this process, not in the working folder.
COMMAND = (*MODULE, "mnist_lib.training.gpus")


def gpu_facts() -> dict[str, str]:
    """Return what a result depends on if this process uses GPUs, by name, besides the versions of packages.

    It is empty if this process uses none.
    """
    details = [tf.config.experimental.get_device_details(gpu) for gpu in tf.config.get_visible_devices("GPU")]
    if not details:
        return {}
    driver = None
    build = tf.sysconfig.get_build_info()
    with contextlib.suppress(OSError):  # WSL does not have the file
        driver = re.search(r"\d+\.[\d.]+", DRIVER.read_text())
    capabilities = [".".join(map(str, each.get("compute_capability", ("unknown",)))) for each in details]
    return {
        "gpu": ", ".join(dict.fromkeys(each.get("device_name", "unknown") for each in details)),
        "compute_capability": ", ".join(dict.fromkeys(capabilities)),
        "gpu_driver": driver[0] if driver else "unknown",
        **{name: str(build[f"{name}_version"]) for name in ("cuda", "cudnn") if f"{name}_version" in build},
        "tensor_float_32": "on" if tf.config.experimental.tensor_float_32_execution_enabled() else "off",
        **{name.lower(): os.environ[name] for name in FLAGS if os.environ.get(name)},
    }


def refused_by_gpu() -> str:
    """Return why XLA cannot be used on the GPUs of this process, or "" if it can be, or if there are none.

    A child process tries it once for each kind of GPU, driver, version of TensorFlow and XLA flags, and the result is
    stored in the user's folder, unless the GPU had too little free memory. The child uses the GPU, so call this before
    TensorFlow does here.
    """
    facts = gpu_facts()
    if not facts:
        return ""
    key = hashlib.sha256(json.dumps({**facts, "tensorflow": tf.__version__}).encode()).hexdigest()
    with contextlib.suppress(OSError, RuntimeError):  # RuntimeError: there is no home folder
        return (user_folder() / f"xla-{key[:16]}.txt").read_text()
    refusal = _refusal(f"a first compilation on {facts['gpu']}")
    if OUT_OF_MEMORY.search(refusal):  # another process may use the GPU just now
        return refusal
    with contextlib.suppress(OSError, RuntimeError):
        path = user_folder() / f"xla-{key[:16]}.txt"
        refusal = refusal and f"{refusal}; delete {path} to try it again"
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacement(path) as temporary:
            temporary.write_text(refusal)
    return refusal


def _refusal(what: str) -> str:
    """Return how a child process that uses XLA ended, as the end of `what`, or "" if it succeeded."""
    environment = {"PYTHONPATH": os.pathsep.join(sys.path), "TF_FORCE_GPU_ALLOW_GROWTH": "true"}
    try:
        child = subprocess.run(
            COMMAND, env={**os.environ, **environment}, capture_output=True, text=True, timeout=TRY_SECONDS
        )
    except subprocess.TimeoutExpired:
        return f"{what} took more than {TRY_SECONDS:.0f} s"
    if child.returncode == 0:
        return ""
    how = signal.Signals(-child.returncode).name if child.returncode < 0 else f"exit code {child.returncode}"
    errors = [line.strip() for line in child.stderr.splitlines() if "error" in line.lower()]
    return f"{what} ended with {how}{''.join(f' ({line[:200]})' for line in errors[-1:])}"


@tf.function(jit_compile=True, autograph=False)
def _small_training(images: tf.Tensor, kernel: tf.Tensor, dense: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Train a convolution, [3, 3, 1, 4], and a matrix, [196, 10], for three steps."""

    def step(index: tf.Tensor, kernel: tf.Tensor, dense: tf.Tensor) -> tuple[tf.Tensor, ...]:
        with tf.GradientTape() as tape:
            tape.watch((kernel, dense))
            features = tf.nn.max_pool2d(tf.nn.relu(tf.nn.conv2d(images, kernel, 1, "SAME")), 4, 4, "SAME")
            loss = tf.reduce_logsumexp(tf.reshape(features, [images.shape[0], -1]) @ dense)
        by_kernel, by_dense = tape.gradient(loss, (kernel, dense))
        return index + 1, kernel - 0.1 * by_kernel, dense - 0.1 * by_dense

    return tf.while_loop(lambda index, *_: index < 3, step, (tf.constant(0), kernel, dense))[1:]


def main() -> None:
    """Use XLA for what training consists of: products, a convolution and their gradients, in a loop."""
    images, kernel, dense = (
        tf.random.stateless_normal(shape, [0, 0]) for shape in ((8, 28, 28, 1), (3, 3, 1, 4), (196, 10))
    )
    for weights in _small_training(images, kernel, dense):
        tf.debugging.assert_all_finite(weights, "expected finite weights from XLA, got others")


if __name__ == "__main__":
    main()
