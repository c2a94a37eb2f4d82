"""Manifests of Kubernetes and KubeRay, checked by published schemas."""

import dataclasses
import re
from pathlib import Path

import hypothesis
import jsonschema  # type: ignore[import-untyped]
import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml

from cluster.deploy.schedulers import SchedulerError, kubernetes
from cluster.deploy.schedulers.kubernetes import STORAGE, cronjob, raycronjob
from tests.support.deploy_files import JOB_SCHEMA
from tests.support.emitted import (
    COMMAND,
    FREE_TEXT,
    PRINTF,
    WORDS,
    hostile,
    kubernetes_words,
    pod_of,
    timer,
)

RAY_CRON_JOB_SCHEMA = {  # raycronjob_types.go of KubeRay; timeZone is missing in its first versions
    "type": "object",
    "properties": {
        "schedule": {"type": "string"},
        "timeZone": {"type": "string"},
        "suspend": {"type": "boolean"},
        "jobTemplate": JOB_SCHEMA,
    },
    "required": ["schedule", "jobTemplate"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def short_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CronJob with only the fields that `cronjob` fills in, since PyYAML takes 0.1 s to read the whole template."""
    template = tmp_path_factory.mktemp("templates") / "cronjob.yaml"
    container = {"env": [{"name": "MNIST_JOBS_NOTIFY"}]}
    job = {"podFailurePolicy": {"rules": [{"onExitCodes": {}}]}, "template": {"spec": {"containers": [container]}}}
    spec = {"jobTemplate": {"spec": job}}
    template.write_text(yaml.safe_dump({"kind": "CronJob", "metadata": {"labels": {}}, "spec": spec}))
    return template


@pytest.mark.parametrize("version", ["1.31", kubernetes_validate.latest_version()])
def test_the_cron_job_is_valid_by_the_published_schema(version: str) -> None:
    made = yaml.safe_load(cronjob(timer(starting_deadline=600), "an-image:1"))
    kubernetes_validate.validate(made, version, strict=True)
    assert made["spec"]["timeZone"] == "Europe/Berlin"
    assert made["spec"]["startingDeadlineSeconds"] == 600
    (container,) = made["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    assert kubernetes_words(cronjob(timer(), "an-image:1")) == list(COMMAND)
    assert container["image"] == "an-image:1"


@pytest.mark.parametrize(("zone", "expected"), [("UTC", None), ("Europe/Berlin", "Europe/Berlin")])
def test_the_ray_cron_job_has_only_fields_of_kuberay(zone: str, expected: str | None) -> None:
    made = yaml.safe_load(raycronjob(timer(zone=zone), "an-image:1"))
    assert (made["apiVersion"], made["kind"]) == ("ray.io/v1", "RayCronJob")
    jsonschema.validate(made["spec"], RAY_CRON_JOB_SCHEMA)
    assert made["spec"].get("timeZone") == expected
    assert made["spec"]["jobTemplate"]["entrypoint"].startswith("/usr/bin/python3 -m jobs.retrain --once")
    assert set(re.findall(r"image: (\S+)", yaml.dump(made))) == {"an-image:1"}


@pytest.mark.parametrize("name", ["a_", "x" * 60, "A.B", "nightly"])
def test_the_name_of_the_object_is_valid_in_kubernetes(name: str) -> None:
    for text in (
        cronjob(dataclasses.replace(timer(), name=name), "i"),
        raycronjob(dataclasses.replace(timer(), name=name), "i"),
    ):
        assert re.fullmatch("[a-z0-9]([-a-z0-9]{0,50}[a-z0-9])?", yaml.safe_load(text)["metadata"]["name"])


def test_schedules_whose_names_differ_get_different_objects_in_kubernetes() -> None:
    names = ["a-b", "a.b", "a_b", "A-b", "x" * 60, "x" * 61]
    made = [yaml.safe_load(cronjob(dataclasses.replace(timer(), name=name), "i"))["metadata"]["name"] for name in names]
    assert len({*made}) == len(names)
    assert made[0] == "mnist-a-b"


@pytest.mark.parametrize(("cron", "schedule"), [("0 3 * * 7", "0 3 * * 0"), ("0 3 * * 5-7", "0 3 * * 0,5,6")])
def test_sunday_is_0_in_kubernetes(cron: str, schedule: str) -> None:
    assert yaml.safe_load(cronjob(timer(cron), "i"))["spec"]["schedule"] == schedule
    assert yaml.safe_load(raycronjob(timer(cron), "i"))["spec"]["schedule"] == schedule


def test_a_timetable_that_kubernetes_does_not_understand_is_refused() -> None:
    with pytest.raises(SchedulerError, match="Kubernetes does not understand L, LW or #"):
        cronjob(timer("0 3 L * *"), "i")


@pytest.mark.fuzz
@hypothesis.given(WORDS, FREE_TEXT, FREE_TEXT)
def test_u9_any_argument_comes_back_from_a_manifest(
    short_template: Path, words: list[str], image: str, notify: str
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kubernetes, "CRONJOB", short_template)
        text = cronjob(hostile(words, notify=notify), image)
    assert kubernetes_words(text) == [*PRINTF, *words]
    assert pod_of(text)["containers"][0]["image"] == image
    secret, _ = yaml.load_all(text, yaml.CSafeLoader)
    assert secret["stringData"] == {"url": notify}


def test_both_manifests_mount_a_volume_where_a_storage_is_accepted() -> None:
    for manifest in (cronjob(timer(), "i"), raycronjob(timer(), "i")):
        (mount,) = [m for m in pod_of(manifest)["containers"][0]["volumeMounts"] if m["mountPath"] == str(STORAGE)]
        (volume,) = [volume for volume in pod_of(manifest)["volumes"] if volume["name"] == mount["name"]]
        assert "persistentVolumeClaim" in volume
