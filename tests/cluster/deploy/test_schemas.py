"""The files that deploy the job are held to published schemas. None is run: there is no Kubernetes, no cloud."""

import copy
import re
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from tests.support.deploy_files import (
    CLUSTER,
    CLUSTER_SCHEMA,
    CRON,
    JOB_SCHEMA,
    LAUNCHERS,
    LONGEST_RAYJOB,
    OBJECTS,
    RAY_PODS,
    RAYJOB,
)

KUBERNETES = ("1.31", kubernetes_validate.latest_version())  # podFailurePolicy is stable as of the first


@pytest.mark.parametrize("made", [made for (kind, _), made in OBJECTS.items() if not kind.startswith("Ray")])
@pytest.mark.parametrize("version", KUBERNETES)
def test_every_object_of_kubernetes_own_kinds_is_as_it_has_published_them(version: str, made: Any) -> None:
    kubernetes_validate.validate(made, version, strict=True)


@pytest.mark.parametrize("template", RAY_PODS)
@pytest.mark.parametrize("version", KUBERNETES)
def test_every_pod_template_of_a_cluster_is_one(version: str, template: Any) -> None:
    pod = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "any"}, "template": template}
    kubernetes_validate.validate(pod, version, strict=True)


def test_a_misspelt_field_deep_in_a_pod_is_found() -> None:
    wrong = copy.deepcopy(CRON)
    wrong["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]["volumeMount"] = []
    with pytest.raises(kubernetes_validate.ValidationError, match="volumeMount"):
        kubernetes_validate.validate(wrong, KUBERNETES[0], strict=True)


def test_the_cluster_and_the_job_have_only_fields_that_kuberay_knows() -> None:
    for made, schema in ((CLUSTER, CLUSTER_SCHEMA), (RAYJOB, JOB_SCHEMA)):
        assert made["apiVersion"] == "ray.io/v1"
        jsonschema.validate(made["spec"], schema)


def test_the_job_is_one_that_kuberay_accepts() -> None:
    """Rules of its `ValidateRayJobSpec` that no schema tells."""
    spec = RAYJOB["spec"]
    assert re.fullmatch(rf"[a-z][a-z0-9-]{{0,{LONGEST_RAYJOB - 2}}}[a-z0-9]", RAYJOB["metadata"]["name"])
    assert spec["shutdownAfterJobFinishes"], "without it ttlSecondsAfterFinished is refused"
    assert spec["submissionMode"] == "HTTPMode", "a submitter's Job would want a pod template, checked above"


@pytest.mark.parametrize("file", LAUNCHERS, ids=lambda file: str(file.name))
def test_every_launcher_file_is_valid_by_rays_own_schema(file: Path) -> None:
    validate_config(prepare_config(yaml.safe_load(file.read_text())))


@pytest.mark.parametrize("file", LAUNCHERS, ids=lambda file: str(file.name))
def test_a_misspelt_key_of_a_launcher_file_is_found(file: Path) -> None:
    with pytest.raises(jsonschema.ValidationError, match="file_mount"):
        validate_config(prepare_config({**yaml.safe_load(file.read_text()), "file_mount": {}}))
