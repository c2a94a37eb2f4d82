"""The files that deploy the job are validated by published schemas. There is no Kubernetes or cloud to run them."""

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
    JOB_SCHEMA,
    LAUNCHERS,
    MAX_RAYJOB_NAME,
    OBJECTS,
    RAY_PODS,
    RAYJOB,
)

KUBERNETES = ("1.31", kubernetes_validate.latest_version())  # podFailurePolicy is stable since 1.31


@pytest.mark.parametrize("made", [made for (kind, _), made in OBJECTS.items() if not kind.startswith("Ray")])
@pytest.mark.parametrize("version", KUBERNETES)
def test_every_object_of_kubernetes_is_valid_by_the_published_schema(version: str, made: Any) -> None:
    kubernetes_validate.validate(made, version, strict=True)


@pytest.mark.parametrize("template", RAY_PODS)
@pytest.mark.parametrize("version", KUBERNETES)
def test_every_pod_template_of_a_cluster_is_valid(version: str, template: Any) -> None:
    pod = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "any"}, "template": template}
    kubernetes_validate.validate(pod, version, strict=True)


def test_a_misspelt_field_deep_in_a_pod_is_found() -> None:
    template = copy.deepcopy(RAY_PODS[0])
    template["spec"]["containers"][0]["volumeMount"] = []
    wrong = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "any"}, "template": template}
    with pytest.raises(kubernetes_validate.ValidationError, match="volumeMount"):
        kubernetes_validate.validate(wrong, KUBERNETES[0], strict=True)


def test_the_cluster_and_the_job_have_only_fields_of_kuberay() -> None:
    for made, schema in ((CLUSTER, CLUSTER_SCHEMA), (RAYJOB, JOB_SCHEMA)):
        assert made["apiVersion"] == "ray.io/v1"
        jsonschema.validate(made["spec"], schema)


def test_the_job_follows_the_rules_of_kuberay() -> None:
    """The rules of its `ValidateRayJobSpec` that no schema expresses."""
    spec = RAYJOB["spec"]
    assert re.fullmatch(rf"[a-z][a-z0-9-]{{0,{MAX_RAYJOB_NAME - 2}}}[a-z0-9]", RAYJOB["metadata"]["name"])
    assert spec["shutdownAfterJobFinishes"], "ttlSecondsAfterFinished requires it"
    assert spec["submissionMode"] == "HTTPMode", "the Job of a submitter would need a valid pod template"


@pytest.mark.parametrize("file", LAUNCHERS, ids=lambda file: str(file.name))
def test_every_launcher_file_is_valid_by_the_schema_of_ray(file: Path) -> None:
    validate_config(prepare_config(yaml.safe_load(file.read_text())))


@pytest.mark.parametrize("file", LAUNCHERS, ids=lambda file: str(file.name))
def test_a_misspelt_key_of_a_launcher_file_is_found(file: Path) -> None:
    with pytest.raises(jsonschema.ValidationError, match="file_mount"):
        validate_config(prepare_config({**yaml.safe_load(file.read_text()), "file_mount": {}}))
