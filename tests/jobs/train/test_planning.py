"""The plan that `--plan` prints, compared with the run."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.nodes import LanePlan
from jobs.train.options import TrainOptions
from jobs.train.plan import Plan
from jobs.train.planning import Forecast, forecast
from mnist_lib.data.prepare import prepare
from mnist_lib.objects.local import LocalObjects
from mnist_lib.store.publishing import publish
from tests.support.job import ROOT, train
from tests.support.pictures import classes, write_folder
from tests.support.store.fake_versions import about, files


@pytest.mark.parametrize(
    ("gpus", "deterministic", "expected"),
    [
        (0, False, "weights: the same, bit for bit, if trained again"),
        (1, False, "weights: on GPUs, a trial that is trained again has other weights, unless with --deterministic"),
        (1, True, "weights: the same, bit for bit, if trained again"),
    ],
)
def test_the_plan_says_whether_training_again_gives_the_same_weights(
    gpus: int, deterministic: bool, expected: str
) -> None:
    plan, lanes = Plan.of(TrainOptions(deterministic=deterministic)), LanePlan(lanes=1, cpus=1, gpus=gpus)
    forecast = Forecast(plan=plan, nodes=[], lanes=lanes, volume=None)
    assert expected in forecast.lines()
    assert forecast.document()["exact"] == ("bit for bit" in expected)


@pytest.mark.parametrize(
    ("models", "says_why"), [(None, True), (("keras-resnet",), True), (("keras-resnet", "keras"), False)]
)
def test_the_plan_says_why_pictures_are_trained_on_with_that_network(
    models: tuple[str, ...] | None, says_why: bool
) -> None:
    options = TrainOptions(dataset="./letters", models=models)  # type: ignore[arg-type]  # None: not given
    lanes = LanePlan(lanes=1, cpus=1, gpus=0)
    forecast = Forecast(plan=Plan.of(options), nodes=[], lanes=lanes, volume=None)
    assert (
        any(line.startswith("model: keras-resnet, the default for your own") for line in forecast.lines()) == says_why
    )


def test_the_plan_counts_the_pictures_and_names_the_version(tmp_path: Path) -> None:
    pictures = write_folder(tmp_path / "icons", classes("a", "b", pictures=40))
    objects = LocalObjects(tmp_path)
    publish(objects, "keras-cnn", "r", files(right=150), about(right=150))
    options = TrainOptions(
        dataset=f"{pictures}/", models=("keras-cnn",), storage=str(tmp_path), data_dir=tmp_path, init_from=("@latest",)
    )
    expected = forecast(Plan.of(options))
    assert "defaults for about 68 training images: --epochs=80 --batch-size=16" in expected.lines()
    assert "keras-cnn starts from the weights of keras-cnn@1, trained on mnist" in expected.lines()
    assert (expected.plan.trials[0].epochs, expected.plan.trials[0].init_from) == (80, "keras-cnn@1")
    assert expected.document()["init_from"] == {"keras-cnn": "keras-cnn@1"}
    prepared = prepare(options.data())
    (text,) = (line for line in forecast(Plan.of(options)).lines() if line.startswith("defaults for"))
    assert text == f"defaults for {len(prepared.train)} training images: --epochs=80 --batch-size=16"


@pytest.mark.long
@pytest.mark.slow
def test_a_plan_finds_the_same_cpus_and_gpus_as_ray_without_starting_it(tmp_path: Path) -> None:
    code, stdout, stderr = train("--plan", "--json", "--seeds=3", home=tmp_path)
    assert (code, stderr) == (0, "")
    assert not list(tmp_path.iterdir())  # Ray would have written there
    document = json.loads(stdout)
    assert document["order"] == [f"{model}-s{seed}" for model in ("keras", "scratch") for seed in range(3)]
    assert document["lanes"] == min(6, document["nodes"][0]["cpus"])
    script = (
        "from cluster.session import session; from cluster.nodes import live_nodes\n"
        "with session(None, []): nodes = live_nodes()\n"
        "print(nodes[0].cpus, nodes[0].gpus)"
    )
    found = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    (planned,) = document["nodes"]
    assert found.stdout.split() == [str(planned["cpus"]), str(planned["gpus"])]
