"""A version in other formats: each is written for real, and run by the runtime of those who deploy it."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs.models import __main__ as models
from mnist_lib.catalog import EXPORT_FORMATS, MODELS
from mnist_lib.data.split import Dataset
from mnist_lib.spec import TrialSpec
from mnist_lib.store.local import LocalObjects
from mnist_lib.store.publishing import publish
from tests.support.job import ROOT

pytestmark = [pytest.mark.usefixtures("tensorflow"), pytest.mark.slow]


@pytest.fixture(scope="module")
def storage(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A version of each model with its initial weights; what it is tried on is prepared."""
    from mnist_lib.data.prepare import prepare
    from mnist_lib.models.model import build_model

    prepare("mnist-mini", data_dir, None)
    folder = tmp_path_factory.mktemp("store")
    for name in MODELS:
        spec = TrialSpec.of(name, hidden_units=16)
        model = build_model(spec, (28, 28, 1))
        weights = model.initial_weights(1)
        about = {"dataset": {"name": "mnist-mini", "image_shape": [28, 28, 1]}}
        manifest = {**about, "spec": asdict(spec), "weights_sha256": model.stored(weights).sha256()}
        files = {**model.files(weights), "manifest.json": json.dumps(manifest).encode()}
        publish(LocalObjects(folder), name, "r", files, about)
    return folder


@pytest.fixture
def export(
    storage: Path, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Any:
    """-> (exit code, standard output, standard error); in an empty folder of its own."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")  # as the command does, but not for good
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
    """As somebody runs it who has the file and its runtime, and nothing of this project."""
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


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("form", EXPORT_FORMATS)
def test_an_exported_version_takes_any_number_of_raw_images_and_gives_the_stored_probabilities(
    form: str, name: str, export: Any, storage: Path, digits: Dataset
) -> None:
    require(form)
    from mnist_lib.export.loading import load
    from mnist_lib.store.versions import find

    code, stdout, stderr = export(name, "--format", form, "--json")
    assert (code, stderr) == (0, "")
    path = Path.cwd() / f"{name}-1{EXPORT_FORMATS[form].suffix}"
    found = json.loads(stdout)
    assert (found["path"], found["tried"], list(Path.cwd().iterdir())) == (str(path), 100, [path])
    assert found["bytes"] == sum(file.stat().st_size for file in [path, *path.rglob("*")] if file.is_file())
    version = find(LocalObjects(storage), name, 1)
    assert version
    images = digits.test.images[200:507]
    expected, run = load(LocalObjects(storage), version)(images), deployed(form, path)
    np.testing.assert_allclose(run(images), expected, atol=1e-3)
    np.testing.assert_allclose(run(images[:1]), expected[:1], atol=1e-3)
    assert (run(images).argmax(axis=1) == expected.argmax(axis=1)).all()


def with_other_weights(write: Callable[[Any, Path], None]) -> Callable[[Any, Path], None]:
    def written(served: Any, to: Path) -> None:
        for variable in served.trainable:
            variable.assign(variable[..., ::-1])
        write(served, to)

    return written


def cut_short(write: Callable[[Any, Path], None]) -> Callable[[Any, Path], None]:
    def written(served: Any, to: Path) -> None:
        write(served, to)
        for path in [to] if to.is_file() else to.rglob("*.pb"):
            path.write_bytes(path.read_bytes()[:1_000])

    return written


@pytest.mark.parametrize(
    ("sabotage", "message"),
    [
        (with_other_weights, "expected the answers of the stored version, got others to "),
        (cut_short, "its own runtime refuses it: "),
    ],
)
@pytest.mark.parametrize("form", EXPORT_FORMATS)
def test_what_answers_otherwise_than_the_stored_version_is_refused_and_removed(
    form: str, sabotage: Any, message: str, export: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    require(form)
    from mnist_lib.export import formats as exporting

    write, run = exporting.WRITERS[form]
    monkeypatch.setitem(exporting.WRITERS, form, (sabotage(write), run))
    code, stdout, stderr = export("keras@1", "--format", form)
    assert (code, stdout) == (7, "")
    assert stderr.startswith(f"error[E-INTEGRITY] {Path.cwd()}/keras-1{EXPORT_FORMATS[form].suffix}: {message}")
    assert stderr.count("\n") == 1
    assert not list(Path.cwd().iterdir())


def test_nothing_that_is_there_is_overwritten(export: Any, tmp_path: Path) -> None:
    Path("file").write_text("mine")
    Path("folder").mkdir()
    Path("link").symlink_to("nowhere")
    for name in ("file", "folder", "link"):
        code, _, stderr = export("scratch", "--format=saved_model", "--to", name)
        assert (code, stderr) == (
            2,
            f"error[E-USAGE] {tmp_path}/{name}: expected nothing there yet; remove it, or name another place\n",
        )
    assert (Path("file").read_text(), list(Path("folder").iterdir()), Path("link").exists()) == ("mine", [], False)


def test_what_comes_to_be_there_meanwhile_is_not_overwritten_either(
    export: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mnist_lib.export import formats as exporting

    write, run = exporting.WRITERS["saved_model"]

    def slowly(served: Any, to: Path) -> None:
        Path("there").mkdir()
        write(served, to)

    monkeypatch.setitem(exporting.WRITERS, "saved_model", (slowly, run))
    code, _, stderr = export("scratch", "--format=saved_model", "--to=there")
    assert (code, "expected nothing there yet" in stderr) == (2, True)
    assert [path.name for path in Path.cwd().rglob("*")] == ["there"]


def test_a_place_that_cannot_be_written_is_told_in_one_line(export: Any) -> None:
    Path("file").touch()
    for to in ("absent/keras", "file/keras"):
        code, _, stderr = export("scratch", "--format=saved_model", "--to", to)
        place = Path.cwd() / to
        assert (code, stderr) == (6, f"error[E-STORE] {place}: expected a folder {place.parent}; name another place\n")
    assert [path.name for path in Path.cwd().iterdir()] == ["file"]


def test_a_lacking_package_is_told_with_the_command_that_installs_it(
    export: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    code, stdout, stderr = export("keras", "--format=litert")
    assert (code, stdout) == (2, "")
    assert stderr == (
        "error[E-USAGE] format: litert needs ai_edge_litert; install the extra: pip install '.[export]'\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["keras"], "format: expected one of saved_model, litert, onnx"),
        (["keras", "--format=savedmodel"], "format: 'savedmodel' is not known; did you mean saved_model?"),
        (["--format=onnx"], "version: expected one, as in keras@3"),
        (["keras@7", "--format=onnx"], "there is no keras@7 in "),
    ],
)
def test_what_cannot_be_understood_is_one_line(arguments: list[str], message: str, export: Any) -> None:
    code, _, stderr = export(*arguments)
    assert (code, stderr.count("\n")) == (2, 1)
    assert message in stderr


def test_a_process_of_its_own_says_where_the_model_is_and_nothing_else(
    storage: Path, data_dir: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "jobs.models", "export", "keras", "--format=saved_model"]
    options = [f"--to={tmp_path}/served", f"--storage={storage}", f"--data-dir={data_dir}"]
    done = subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"keras@1 is in {tmp_path}/served (")
