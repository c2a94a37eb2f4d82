"""The job on hosts that share no files, submitted with a token from a host outside the cluster."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.bounds import GROUP_SECONDS, wait_until
from tests.support.hosts import Host, available, hosts, start_ray
from tests.support.job import ROOT, SETTINGS, hashes, history_of
from tests.support.pictures import classes, write_folder

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(600)]  # four hosts share the CPUs

TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "canary-of-a-token-" + 32 * "b"}
TRAINING = (*SETTINGS, "--checkpoint-seconds=0", "--json", "--seeds=2")


@pytest.fixture(scope="module")
def machines() -> Iterator[list[Host]]:
    """A head, two workers and a laptop."""
    if not available():
        pytest.skip("network namespaces need root and iproute2")
    with hosts(["head", "worker1", "worker2", "laptop"]) as made:
        (made[0].folder / "tfds").mkdir()
        for host in made[:-1]:
            start_ray(host, made[0], TOKEN)
        yield made


def submission(machines: list[Host], run: str, *more: str) -> list[str]:
    head = machines[0]
    own = ["python", "-m", "jobs.submit", f"--address=http://{head.address}:8265", "--"]
    return [
        *own,
        *TRAINING,
        f"--storage={head.folder}/storage",
        f"--data-dir={head.folder}/tfds",
        f"--run-name={run}",
        *more,
    ]


def test_pictures_and_a_model_of_the_laptop_are_used_on_hosts_that_share_no_files(machines: list[Host]) -> None:
    *cluster, laptop = machines
    write_folder(laptop.folder / "work/icons", classes("round", "square", pictures=40, mode="RGB"))
    shutil.copy(ROOT / "tests/support/own_models.py", laptop.folder / "work/mine.py")
    models = ("--models=./mine.py:small_resnet,scratch", "--model-arg=width=4")
    command = submission(machines, "icons", *models, "--batch-size=16", "--dataset=./icons")
    code, stdout, stderr = laptop.run(*command, environment=TOKEN)
    assert code == 0, stderr
    assert "MB of code" in stderr
    assert "canary" not in stdout + stderr
    summary = json.loads(stdout)
    assert sorted(summary["models"]) == ["scratch", "small_resnet"]
    assert {trial["node"].partition("/")[0] for trial in summary["trials"]} == {host.name for host in cluster}
    (images,) = (cluster[0].folder / "tfds/.prepared").glob("*.pixels")
    for host in cluster[1:]:  # they hold the images, but neither pictures nor results
        (copy,) = (host.folder / "home/tensorflow_datasets/.prepared").glob("*.pixels")
        assert (copy.name, copy.read_bytes()) == (images.name, images.read_bytes())
        assert not [*host.folder.rglob("*.png"), *host.folder.rglob("?*.keras")]
    assert not list(laptop.folder.rglob("?*.keras"))
    alone = ("--models=scratch", "--batch-size=16", "--dataset=./icons", f"--storage={laptop.folder}/storage")
    code, stdout, stderr = laptop.run("python", "-m", "jobs.train", *TRAINING, *alone, environment={})
    assert code == 0, stderr
    assert hashes(stdout).items() <= {trial["id"]: trial["weights_sha256"] for trial in summary["trials"]}.items()


def test_a_host_cut_off_during_training_does_not_change_the_result(
    machines: list[Host], gpu_run: tuple[dict[str, Any], Path]
) -> None:
    """The host is disconnected for longer than the head waits for its answer. `gpu_run` has the same trials."""
    head, worker, *_, laptop = machines
    run = head.folder / "storage/runs/cut"
    submitted = laptop.start(*submission(machines, "cut"), environment=TOKEN)
    wait_until(lambda: worker.name in trained_on(run), f"no trial is trained on {worker.name}")
    worker.set_link("down")
    stdout, stderr = submitted.communicate(timeout=GROUP_SECONDS)
    worker.set_link("up")
    assert submitted.returncode == 0, stderr
    assert "(node lost); resuming after" in stderr, stderr
    assert hashes(stdout) == {trial["id"]: trial["weights_sha256"] for trial in gpu_run[0]["trials"]}


def trained_on(run: Path) -> set[str]:
    """Return the hosts on which a trial has reached its fifth epoch."""
    host_of: dict[str, str] = {}
    found: set[str] = set()
    for event in history_of(run):
        if event["event"] == "started":
            host_of[event["trial"]] = event["node"].partition("/")[0]
        elif event["event"] == "epoch" and event["epoch"] >= 5:
            found.add(host_of[event["trial"]])
    return found
