"""Stored models, as those use them who do not have this project."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

LOADED_WITHOUT_THIS_PROJECT = {
    "keras": "import keras; predict = keras.saving.load_model(f'{folder}/model.keras').predict",
    "scratch": "import tensorflow as tf; s = tf.saved_model.load(f'{folder}/saved_model'); predict = s.serve",
}


def correct_of_stored(summary: dict[str, Any], storage: Path, images: np.ndarray, labels: np.ndarray) -> dict[str, int]:
    """By model, in a process that knows nothing of this project."""
    np.savez(storage / "raw.npz", images=images, labels=labels)
    counts = {}
    for name, model in summary["models"].items():
        script = (
            f"import numpy as np; folder = 'models/{name}/versions/{model['version']}'; raw = np.load('raw.npz');"
            f"{LOADED_WITHOUT_THIS_PROJECT[name]};"
            "print(int((np.asarray(predict(raw['images'])).argmax(1) == raw['labels']).sum()))"
        )
        done = subprocess.run([sys.executable, "-c", script], cwd=storage, capture_output=True, text=True, check=True)
        counts[name] = int(done.stdout.split()[-1])
    return counts


def counts_of_summary(summary: dict[str, Any]) -> dict[str, int]:
    correct = {trial["id"]: trial["test"]["correct"] for trial in summary["trials"]}
    return {name: correct[model["best_trial"]] for name, model in summary["models"].items()}
