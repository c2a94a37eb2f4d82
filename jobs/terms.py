"""The terms of a run: all that its result depends on, beside the data."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from jobs.options import TrainOptions
from mnist_lib.environment import package_versions
from mnist_lib.spec import TrialSpec


def terms_of(options: TrainOptions, trials: Sequence[TrialSpec], code: Mapping[str, Any]) -> dict[str, Any]:
    """`code`: as `code_version` gives it."""
    return {
        "trials": {trial.id: asdict(trial) for trial in trials},
        "rule": asdict(options.rule()),
        "gpus_per_trial": options.gpus_per_trial,
        "nodes_per_trial": options.nodes_per_trial,
        "cpu_replicas": options.cpu_replicas,
        "max_seconds": options.max_seconds,
        "finish_by": options.finish_by,
        "code": code["sha256"],
        "versions": package_versions(),
    }
