"""Stored models for tests, and stored models used without this project."""

import functools
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from mnist_lib.catalog import MODELS
from mnist_lib.data.dataset import Dataset
from mnist_lib.models.pretrained import NOTHING, Pretrained
from mnist_lib.objects.protocol import Objects
from mnist_lib.results import TrialResult
from mnist_lib.spec import TrialSpec
from mnist_lib.store.contents import contents_of, stored_weights
from mnist_lib.store.publishing import publish
from mnist_lib.store.versions import Version
from mnist_lib.training.assignment import Assignment, Resources
from tests.support.store.fake_versions import DATASET, about, small_manifest

LARGEST = "keras-efficientnet"  # of the catalog: what tests do with it takes ten seconds and more
LOADED_WITHOUT_THIS_PROJECT = {
    "keras": "import keras; predict = keras.saving.load_model(f'{folder}/model.keras').predict",
    "scratch": "import tensorflow as tf; s = tf.saved_model.load(f'{folder}/saved_model'); predict = s.serve",
}


def publish_trained(
    objects: Objects, dataset: Dataset, run: str, spec: TrialSpec, origin: Version | None = None
) -> Version:
    """Train a trial in this process and publish it as a run does. Needs the fixture `tensorflow`.

    Args:
        origin: the version whose weights the trial starts from.
    """
    from mnist_lib.training.trial import WorkerPlace, run_trials

    resources = Resources(cpus=2, cpu_replicas=2)  # as in the fixture
    pretrained = NOTHING
    if origin is not None:
        sha256 = origin.facts.weights_sha256
        spec = replace(spec, init_from=origin.name, init_sha256=sha256)
        pretrained = Pretrained(versions={sha256: stored_weights(objects, origin)})
    place = WorkerPlace(node="here")
    (*_, result) = run_trials([Assignment(spec)], lambda: dataset, resources, place, pretrained=lambda: pretrained)
    assert isinstance(result, TrialResult), result
    files, about = contents_of(result, dataset, run, {"sha256": "0" * 64})
    return publish(objects, spec.model, run, files, about)


def small_spec(model: str, size: int = 16, **shared: Any) -> TrialSpec:
    """Return a trial of a model with few weights."""
    smallest = {"width": size // 4, "hidden_units": size, "min_side": 32}
    arguments = {name: value for name, value in smallest.items() if name in MODELS[model].arguments}
    return TrialSpec.of(model, arguments=arguments, **shared)


def publish_untrained(
    objects: Objects, model: str, change: Callable[[dict[str, bytes]], object] = lambda files: None
) -> Version:
    """Publish a version with initial weights, whose files are changed before they are committed."""
    files = dict(_untrained_files(model))
    dataset = json.loads(files["manifest.json"])["dataset"]
    change(files)
    return publish(objects, model, "r", files, {**about(), "dataset": dataset})


@functools.cache
def _untrained_files(model: str) -> Mapping[str, bytes]:
    from mnist_lib.models.building import build_model

    spec = small_spec(model)
    built = build_model(spec, (28, 28, 1), 10)
    weights = built.initial_weights(1)
    sha256 = built.stored(weights).sha256()
    manifest = small_manifest(spec=asdict(spec), dataset={**DATASET, "name": "mnist-mini"}, weights_sha256=sha256)
    return {**built.files(weights), "manifest.json": json.dumps(manifest).encode()}


def correct_of_stored(summary: dict[str, Any], storage: Path, images: np.ndarray, labels: np.ndarray) -> dict[str, int]:
    """Return how many images each stored model predicts correctly in a process without this project."""
    counts = {}
    with tempfile.NamedTemporaryFile(suffix=".npz") as raw:
        np.savez(raw, images=images, labels=labels)
        raw.flush()
        for name, model in summary["models"].items():
            script = (
                f"import numpy as np; raw = np.load({raw.name!r});"
                f"folder = 'models/{name}/versions/{model['version']}';"
                f"{LOADED_WITHOUT_THIS_PROJECT[name]};"
                "print(int((np.asarray(predict(raw['images'])).argmax(1) == raw['labels']).sum()))"
            )
            command = [sys.executable, "-c", script]
            done = subprocess.run(command, cwd=storage, capture_output=True, text=True, check=True)
            counts[name] = int(done.stdout.split()[-1])
    return counts


def counts_of_summary(summary: dict[str, Any]) -> dict[str, int]:
    """Return how many test images the best trial of each model predicts correctly."""
    correct = {trial["id"]: trial["test"]["correct"] for trial in summary["trials"]}
    return {name: correct[model["best_trial"]] for name, model in summary["models"].items()}
