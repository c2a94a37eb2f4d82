"""Exported versions: each format is written, and then run by its own runtime."""

import functools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs.models import __main__ as models
from mnist_lib.api import load_stored
from mnist_lib.catalog import EXPORT_FORMATS
from mnist_lib.data.dataset import Dataset
from mnist_lib.objects.local import LocalObjects
from mnist_lib.store.contents import StoredModel
from tests.support.job import ROOT
from tests.support.stored import publish_untrained

pytestmark = [pytest.mark.usefixtures("tensorflow"), pytest.mark.slow]

IMAGES = slice(200, 507)  # of the test split
# Each model in a format, and each format with convolutions and without.
CASES = (
    *[("saved_model", "scratch"), ("litert", "keras"), ("onnx", "keras-cnn")],
    *(
        pytest.param(form, name, marks=pytest.mark.long)
        for form, name in (("saved_model", "keras-best"), ("litert", "keras-resnet"), ("onnx", "scratch"))
    ),
)


@pytest.fixture(scope="module")
def storage(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage with one version of each model of CASES, with initial weights; the dataset has been prepared."""
    from mnist_lib.data.prepare import prepare
    from mnist_lib.data.request import DataRequest

    prepare(DataRequest(dataset="mnist-mini", data_dir=data_dir))
    folder = tmp_path_factory.mktemp("store")
    for name in ("keras", "scratch", "keras-cnn", "keras-best", "keras-resnet"):
        publish_untrained(LocalObjects(folder), name)
    return folder


@pytest.fixture(scope="module")
def expected_of(storage: Path, digits: Dataset) -> Callable[[str], np.ndarray]:
    """Return a function that returns what the stored version of a model predicts for IMAGES, computed once."""
    from mnist_lib.store.versions import find

    @functools.cache
    def expected(name: str) -> np.ndarray:
        version = find(LocalObjects(storage), name, 1)
        assert version
        return load_stored(StoredModel.read(LocalObjects(storage), version))(digits.test.images[IMAGES])

    return expected


@pytest.fixture
def export(
    storage: Path, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Any:
    """Return a function that runs the command in an empty folder and returns (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        capfd.readouterr()
        code = models.main(["export", *arguments, f"--storage={storage}", f"--data-dir={data_dir}"])
        return code, *capfd.readouterr()

    return run


def require(form: str) -> None:
    for module in EXPORT_FORMATS[form].modules:
        pytest.importorskip(module, reason=f"{form} needs the extra `export`: pip install '.[export]'")


def deployed(form: str, path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function that predicts with the runtime of the format, without this project."""
    if form == "saved_model":
        import tensorflow as tf

        loaded = tf.saved_model.load(str(path))
        return lambda images: loaded.serve(images)["probabilities"].numpy()
    if form == "litert":
        from ai_edge_litert.interpreter import Interpreter

        runner = Interpreter(str(path)).get_signature_runner()
        return lambda images: runner(pixels=images)["probabilities"]
    import onnxruntime

    session = onnxruntime.InferenceSession(path)
    return lambda images: session.run(None, {"pixels": images})[0]


@pytest.mark.parametrize(("form", "name"), CASES)
def test_an_exported_version_predicts_the_same_as_the_stored_one_at_any_batch_size(
    form: str, name: str, export: Any, expected_of: Callable[[str], np.ndarray], digits: Dataset
) -> None:
    require(form)
    code, stdout, stderr = export(f"{name}@1", "--format", form, "--json")
    assert (code, stderr) == (0, "")
    path = Path.cwd() / f"{name}-1{EXPORT_FORMATS[form].suffix}"
    found = json.loads(stdout)
    assert (found["path"], found["tried"], list(Path.cwd().iterdir())) == (str(path), 100, [path])
    assert found["bytes"] == sum(file.stat().st_size for file in [path, *path.rglob("*")] if file.is_file())
    images, expected, run = digits.test.images[IMAGES], expected_of(name), deployed(form, path)
    np.testing.assert_allclose(run(images), expected, atol=1e-3)
    np.testing.assert_allclose(run(images[:1]), expected[:1], atol=1e-3)
    assert (run(images).argmax(axis=1) == expected.argmax(axis=1)).all()


def with_other_weights(write: Callable[[Any, Path, Any], None]) -> Callable[[Any, Path, Any], None]:
    def written(served: Any, to: Path, classes: Any) -> None:
        for variable in served.weights:
            variable.assign(variable[..., ::-1])
        write(served, to, classes)

    return written


def cut_short(write: Callable[[Any, Path, Any], None]) -> Callable[[Any, Path, Any], None]:
    def written(served: Any, to: Path, classes: Any) -> None:
        write(served, to, classes)
        for path in [to] if to.is_file() else to.rglob("*.pb"):
            path.write_bytes(path.read_bytes()[:1_000])

    return written


@pytest.mark.long
@pytest.mark.parametrize(
    ("form", "sabotage", "message"),
    [
        ("saved_model", with_other_weights, "expected the predictions of the stored version, got another class for "),
        ("onnx", with_other_weights, "expected the predictions of the stored version, got another class for "),
        ("litert", cut_short, "its own runtime cannot run it: "),
    ],
)
def test_an_export_that_cannot_run_or_predicts_differently_is_refused_and_deleted(
    form: str, sabotage: Any, message: str, export: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    require(form)
    from mnist_lib import loading

    write, run = loading.WRITERS[form]
    monkeypatch.setitem(loading.WRITERS, form, (sabotage(write), run))
    code, stdout, stderr = export("keras@1", "--format", form)
    assert (code, stdout) == (7, "")
    assert stderr.startswith(f"error[E-INTEGRITY] {Path.cwd()}/keras-1{EXPORT_FORMATS[form].suffix}: {message}")
    assert stderr.count("\n") == 1
    assert not list(Path.cwd().iterdir())


def test_an_existing_file_folder_or_link_is_not_overwritten(export: Any, tmp_path: Path) -> None:
    Path("file").write_text("mine")
    Path("folder").mkdir()
    Path("link").symlink_to("nowhere")
    for name in ("file", "folder", "link"):
        code, _, stderr = export("scratch@1", "--format=saved_model", "--to", name)
        advice = "expected nothing at this path, got a file or folder; remove it, or name another"
        assert (code, stderr) == (2, f"error[E-USAGE] {tmp_path}/{name}: {advice}\n")
    assert (Path("file").read_text(), list(Path("folder").iterdir()), Path("link").exists()) == ("mine", [], False)


def test_a_folder_that_appears_during_the_export_is_not_overwritten(
    export: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mnist_lib import loading

    write, run = loading.WRITERS["saved_model"]

    def slowly(served: Any, to: Path, classes: Any) -> None:
        Path("there").mkdir()
        write(served, to, classes)

    monkeypatch.setitem(loading.WRITERS, "saved_model", (slowly, run))
    code, _, stderr = export("scratch@1", "--format=saved_model", "--to=there")
    assert (code, "expected nothing at this path" in stderr) == (2, True)
    assert [path.name for path in Path.cwd().rglob("*")] == ["there"]


def test_a_path_that_cannot_be_written_gives_one_error_line(export: Any) -> None:
    Path("file").touch()
    for to in ("absent/keras", "file/keras"):
        code, _, stderr = export("scratch@1", "--format=saved_model", "--to", to)
        place = Path.cwd() / to
        expected = f"error[E-OUTPUT] {place}: expected a folder {place.parent}, got none; name another place\n"
        assert (code, stderr) == (74, expected)
    assert [path.name for path in Path.cwd().iterdir()] == ["file"]


def test_a_missing_package_is_named_with_the_command_that_installs_it(
    export: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    code, stdout, stderr = export("keras@latest", "--format=litert")
    assert (code, stdout) == (2, "")
    assert stderr == (
        "error[E-USAGE] format: litert needs ai_edge_litert; install the extra: pip install '.[export]'\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["keras@1"], "format: expected one of saved_model, litert, onnx, got none; see --help"),
        (["keras@1", "--format=savedmodel"], "format: 'savedmodel' is not known; did you mean saved_model?"),
        (["--format=onnx"], "version: expected a value (version, such as keras (the champion)"),
        (["keras", "--format=onnx"], "keras has no champion in "),
        (["keras@7", "--format=onnx"], "there is no keras@7 in "),
    ],
)
def test_a_wrong_command_line_gives_one_error_line(arguments: list[str], message: str, export: Any) -> None:
    code, _, stderr = export(*arguments)
    assert (code, stderr.count("\n")) == (2, 1)
    assert message in stderr


@pytest.mark.long
def test_the_command_prints_where_the_model_is_and_nothing_on_stderr(
    storage: Path, data_dir: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "jobs.models", "export", "keras@1", "--format=saved_model"]
    options = [f"--to={tmp_path}/served", f"--storage={storage}", f"--data-dir={data_dir}"]
    done = subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"keras@1 is in {tmp_path}/served (")
