"""The job on hosts that share no files, submitted with a token from a host outside the cluster."""

import csv
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import S3_SETTINGS
from tests.support.builders import builder_file
from tests.support.clusters import wait_until
from tests.support.hosts import Host, available, hosts, start_ray
from tests.support.job import ROOT, SETTINGS, hashes, history_of
from tests.support.pictures import classes, write_folder

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(600)]  # four hosts share the CPUs

TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "canary-of-a-token-" + 32 * "b"}
S3_PORT = 5_000
TRAINING = (*SETTINGS, "--checkpoint-seconds=0", "--json")


@pytest.fixture(scope="module")
def machines() -> Iterator[list[Host]]:
    """A head, two workers and a laptop."""
    if not available():
        pytest.skip("network namespaces need root and iproute2")
    with hosts(["head", "worker1", "worker2", "laptop"]) as made:
        (made[0].folder / "tfds").mkdir()
        for host in made[:-1]:
            start_ray(host, made[0], {**TOKEN, **bucket_settings(made)})
        yield made


def bucket_settings(machines: list[Host]) -> dict[str, str]:
    """Return the environment that leads to the buckets on the head."""
    return {**S3_SETTINGS, "AWS_ENDPOINT_URL": f"http://{machines[0].address}:{S3_PORT}"}


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


@pytest.fixture(scope="module")
def calm(machines: list[Host]) -> tuple[str, str]:
    """What the laptop sees of an undisturbed run that it submits: standard output and standard error."""
    code, stdout, stderr = machines[-1].run(*submission(machines, "calm", "--seeds=2"), environment=TOKEN)
    assert code == 0, stderr
    return stdout, stderr


def test_a_job_submitted_from_outside_trains_on_hosts_that_share_no_files(
    calm: tuple[str, str], machines: list[Host]
) -> None:
    *cluster, laptop = machines
    stdout, stderr = calm
    assert "MB of code" in stderr
    assert len(trained_on(cluster[0].folder / "storage/runs/calm")) == 3
    assert "canary" not in stdout + stderr
    for host in cluster[1:]:  # they hold neither data nor results
        assert not list(host.folder.rglob("*.tfrecord*")) + list(host.folder.rglob("?*.keras"))
    assert not list(laptop.folder.rglob("?*.keras"))


def test_pictures_a_builder_and_a_model_of_the_laptop_are_used_on_hosts_that_share_no_files(
    machines: list[Host],
) -> None:
    *cluster, laptop = machines
    work = laptop.folder / "work"
    write_folder(work / "icons", classes("round", "square", pictures=40, mode="RGB"))
    shutil.copy(ROOT / "tests/support/own_models.py", work / "mine.py")
    builder = builder_file(work, "TreeImages", fixed=True)
    trained = ("--models=./mine.py:small_resnet,scratch", "--model-arg=width=4", "--seeds=2", "--batch-size=16")
    trees = ("--dataset=tfds:tree_images", f"--tfds-import=./{builder.name}", "--train-split=training")
    for run, options in (
        ("icons", (*trained, "--dataset=./icons")),
        ("trees", ("--models=scratch", "--batch-size=16", *trees, "--test-split=evaluation")),
    ):
        code, stdout, stderr = laptop.run(*submission(machines, run, *options), environment=TOKEN)
        assert code == 0, stderr
        summary = json.loads(stdout)
        if run == "icons":
            assert sorted(summary["models"]) == ["scratch", "small_resnet"]
            assert {trial["node"].partition("/")[0] for trial in summary["trials"]} == {host.name for host in cluster}
        for host in cluster[1:]:
            assert not [*host.folder.rglob("*.png"), *host.folder.rglob("*.tfrecord*"), *host.folder.rglob("?*.keras")]


UPLOAD = """
import sys, urllib.request
from pathlib import Path
from mnist_lib.objects.storage import open_storage
endpoint, folder = sys.argv[1:]
urllib.request.urlopen(urllib.request.Request(f"{endpoint}/icons", method="PUT"))
objects = open_storage("s3://icons/pictures")
for path in Path(folder).rglob("*.png"):
    objects.create(path.relative_to(folder).as_posix(), path.read_bytes())
"""


def test_the_next_run_on_hosts_that_share_no_files_uses_labels_that_a_laptop_wrote_into_a_bucket(
    machines: list[Host],
) -> None:
    head, *_, laptop = machines
    work, settings = laptop.folder / "work", {**TOKEN, **bucket_settings(machines)}
    write_folder(work / "small", classes("round", "square", pictures=40))
    with (head.folder / "s3.log").open("w") as log:
        server = ("python", "-m", "moto.server", "-H", head.address, "-p", str(S3_PORT))
        head.start(*server, environment={}, log=log)
        upload = ("python", "-c", UPLOAD, settings["AWS_ENDPOINT_URL"], "small")
        wait_until(lambda: laptop.run(*upload, environment=settings)[0] == 0, "the bucket does not answer")

    data = ("--dataset=s3://icons/pictures", "--storage=s3://icons/results")

    def train(run: str) -> dict[str, Any]:
        command = submission(machines, run, "--models=scratch", "--batch-size=16", *data)
        code, stdout, stderr = laptop.run(*command, environment=settings)
        assert code == 0, stderr
        summary: dict[str, Any] = json.loads(stdout)
        return summary

    before = train("before")
    for command in (
        ("jobs.review", *data, "--to=review.csv", "--count=3", "--model=scratch@latest"),
        ("jobs.review", "apply", "review.csv", data[1]),
    ):
        code, _, stderr = laptop.run("python", "-m", *command, environment=settings)
        assert code == 0, stderr
        if command[1] != "apply":
            decide(work / "review.csv")
    after = train("after")
    found = after["dataset"]["corrections"]
    assert (found["applied"], found["removed"], found["confirmed"]) == (1, 1, 1)
    assert after["dataset"]["changes"]["since"] == "before"
    sizes = [sum(run["dataset"][split] for split in ("train", "validation", "test")) for run in (before, after)]
    assert sizes == [80, 79]


def decide(table: Path) -> None:
    """Give the first picture in a table the other class, remove the second one, and confirm the third."""
    with table.open(newline="") as file:
        rows = [*csv.DictReader(file)]
    rows[0]["label"] = "round" if rows[0]["current"] == "square" else "square"
    rows[1]["label"], rows[2]["label"] = "none", rows[2]["current"]
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def test_a_host_cut_off_during_training_does_not_change_the_result(calm: tuple[str, str], machines: list[Host]) -> None:
    """The host is disconnected for longer than the head waits for its answer."""
    head, worker, *_, laptop = machines
    run = head.folder / "storage/runs/cut"
    submitted = laptop.start(*submission(machines, "cut", "--seeds=2"), environment=TOKEN)
    wait_until(lambda: worker.name in trained_on(run), f"no trial is trained on {worker.name}")
    worker.set_link("down")
    stdout, stderr = submitted.communicate(timeout=400)
    worker.set_link("up")
    assert submitted.returncode == 0, stderr
    assert "(node lost); resuming at epoch" in stderr, stderr
    assert hashes(stdout) == hashes(calm[0])


def trained_on(run: Path) -> dict[str, set[str]]:
    """Return for each host the trials that reached their fifth epoch on it."""
    host_of: dict[str, str] = {}
    found: dict[str, set[str]] = {}
    for event in history_of(run):
        if event["event"] == "started":
            host_of[event["trial"]] = event["node"].partition("/")[0]
        elif event["event"] == "epoch" and event["epoch"] >= 5:
            found.setdefault(host_of[event["trial"]], set()).add(event["trial"])
    return found
