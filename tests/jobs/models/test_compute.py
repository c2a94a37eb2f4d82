"""The commands that run TensorFlow on a stored version: evaluate, reproduce, export."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from jobs.console.options import parser
from jobs.models import __main__ as models
from jobs.models.options import EvaluateOptions
from mnist_lib.data.dataset import Dataset
from mnist_lib.objects.local import LocalObjects
from mnist_lib.results import Accuracy
from mnist_lib.spec import TrialSpec
from mnist_lib.store.champions.challenge import promote
from mnist_lib.store.champions.promotion import Rule
from tests.support.stored import publish_trained, publish_untrained

pytestmark = [pytest.mark.usefixtures("tensorflow"), pytest.mark.slow]


@pytest.fixture(scope="module")
def storage(tensorflow: None, data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage whose champion is scratch@1; scratch@2, with an accuracy below 30%, was not promoted."""
    from mnist_lib.data.prepare import prepare
    from mnist_lib.data.request import DataRequest

    dataset = prepare(DataRequest(dataset="mnist-mini", data_dir=data_dir))
    folder = tmp_path_factory.mktemp("store")
    objects = LocalObjects(folder)
    good = TrialSpec.of("scratch", hidden_units=32, epochs=3)
    promotions = []
    for run, spec in (("a", good), ("b", replace(good, epochs=1, learning_rate=1e-6))):
        version = publish_trained(objects, dataset, run, spec)
        promotions.append(promote(objects, version, Rule(promote="if-better")).promote)
    assert promotions == [True, False]
    assert version.about["test"]["correct"] < 300
    return folder


@pytest.fixture
def command(storage: Path, data_dir: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def run(*arguments: str) -> tuple[int, str, str]:
        capfd.readouterr()
        code = models.main([*arguments, f"--storage={storage}", f"--data-dir={data_dir}"])
        return code, *capfd.readouterr()

    return run


@pytest.mark.long
def test_export_of_a_bare_name_writes_the_champion_not_the_newest_version(
    command: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, stdout, _ = command("export", "scratch", "--format=saved_model")
    assert (code, stdout.split()[0]) == (0, "scratch@1")
    assert [path.name for path in tmp_path.iterdir()] == ["scratch-1.savedmodel"]
    assert command("export", "scratch@latest", "--format=saved_model")[1].startswith("scratch@2 is in ")


def test_evaluate_of_a_bare_name_evaluates_the_champion(command: Callable[..., tuple[int, str, str]]) -> None:
    code, stdout, stderr = command("evaluate", "scratch")
    assert (code, stderr) == (0, "")
    assert stdout.startswith("scratch@1 gives the stored prediction for all 1,000 test images ")
    assert command("evaluate", "scratch@latest")[1].startswith("scratch@2 gives ")


@pytest.mark.long
def test_reproduce_of_a_bare_name_trains_the_champion_again(command: Callable[..., tuple[int, str, str]]) -> None:
    code, stdout, stderr = command("reproduce", "scratch", "--cpus=2")
    assert stdout.startswith("scratch@1 was reproduced: every weight is the same.\n"), stdout
    assert (code, stderr) == (0, "")
    _, stdout, _ = command("reproduce", "scratch@latest", "--cpus=2", "--json")
    assert json.loads(stdout)["stored"]["correct"] < 300


@pytest.mark.parametrize(
    ("verdict", "exact", "shown"),
    [("identical", True, ""), ("within the interval", True, "threads"), ("within the interval", False, "weights")],
)
def test_reproduce_names_the_threads_only_if_nothing_else_explains_other_weights(
    verdict: str,
    exact: bool,
    shown: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from mnist_lib.training import reproduction

    publish_untrained(LocalObjects(tmp_path), "keras")
    again = reproduction.Reproduction(
        verdict, Accuracy(9, 10), (0.8, 1.0), Accuracy(9, 10), {}, seconds=1.0, exact=exact
    )
    monkeypatch.setattr(reproduction, "reproduce", lambda *given: again)
    assert models.main(["reproduce", "keras@1", f"--storage={tmp_path}"]) == 0
    output = capsys.readouterr().out
    assert ("the number of threads (--cpus) may differ" in output) == (shown == "threads")
    assert ("was reproduced within the interval" in output) == (shown == "weights")
    assert ("The weights are not compared: on GPUs" in output) == (shown == "weights")


def test_evaluate_without_the_data_suggests_only_options_that_it_has(
    digits: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mnist = Dataset.of("mnist", "3.0.1", digits.train, digits.test)
    publish_trained(LocalObjects(tmp_path / "store"), mnist, "a", TrialSpec.of("keras", dataset="mnist", epochs=1))
    (tmp_path / "empty").mkdir()
    data = [f"--data-dir={tmp_path}", f"--data-source={tmp_path}/empty", f"--storage={tmp_path}/store"]
    assert models.main(["evaluate", "keras@1", *data]) == 3
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("error[E-DATA-MISSING] mnist: ")
    known = {name for action in parser("evaluate", EvaluateOptions)._actions for name in action.option_strings}
    advised = set(re.findall(r"--[a-z-]+", message))
    assert "--data-source" in advised
    assert advised <= known
