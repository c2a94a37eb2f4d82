"""A model file is read without running it; its code is run only if the user has trusted it."""

from pathlib import Path

import pytest

from mnist_lib.errors import ModelError, SpecError
from mnist_lib.model_file import Call, ModelFile, files_of, is_trusted, name_of, require_trusted, trust, with_folder

TEXT = """
import keras as k
from keras import layers
UNITS = 3
def small(image_shape, num_classes, width=8, *, depth=2): ...
def any_argument(image_shape, num_classes, **arguments): ...
class Big:
    def __init__(self, image_shape, num_classes, height): ...
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "my models.py"
    path.write_text(TEXT)
    return path


def test_a_file_is_read_without_running_it(tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_text("open('created', 'w')\ndef f(s, n): ...")
    assert set(files_of([f"{path}:f"])) == {"f"}
    assert not (tmp_path / "created").exists()


def test_the_functions_of_a_file_are_known_with_their_lines(path: Path) -> None:
    lines = {name: found.lineno for name, found in ModelFile.read(path).functions().items()}
    assert lines == {"small": 5, "any_argument": 6, "Big": 7}


@pytest.mark.parametrize(
    ("function", "arguments"), [("small", ["width", "depth"]), ("Big", ["height"]), ("any_argument", None)]
)
def test_arguments_are_known_before_the_file_is_run(path: Path, function: str, arguments: list[str] | None) -> None:
    for _ in range(2):
        assert ModelFile.read(path).arguments_of(function) == arguments


def test_a_model_has_the_name_of_its_function(path: Path) -> None:
    given = ["keras", f"{path}:small", f"{path}:Big"]
    assert [name_of(model) for model in given] == ["keras", "small", "Big"]
    files = files_of(given)
    assert list(files) == ["small", "Big"]
    assert files["small"] == files["Big"] == ModelFile(name="my models.py", content=TEXT.encode())
    assert with_folder("keras", "sent") == "keras"
    assert with_folder(f"{path}:small", "sent") == "sent/my models.py:small"


def test_a_relative_path_of_a_model_file_becomes_absolute(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    assert with_folder("./my models.py:small") == f"{path}:small"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("{path}", "models: expected a function after the file, as in .*my models.py:my_model, got none"),
        ("{path}:", "models: expected the name of a function of my models.py, got ''"),
        ("{path}:a-b", "models: expected the name of a function of my models.py, got 'a-b'"),
    ],
)
def test_a_file_without_a_function_is_refused(path: Path, given: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        files_of([given.format(path=path)])


def test_m1_a_missing_file_or_function_and_a_syntax_error_are_reported(path: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ModelError, match=r"^models: expected a Python file at .*none.py, got an error: No such file or directory$"
    ):
        files_of([f"{tmp_path}/none.py:f"])
    with pytest.raises(ModelError, match=r"^my models.py: expected a function f, got none; its functions: small, an"):
        files_of([f"{path}:f"])
    path.write_text("x = 1\ndef f(:\n")
    with pytest.raises(
        ModelError, match=r"^my models.py, line 2: expected valid Python, got an error: invalid syntax$"
    ):
        files_of([f"{path}:f"])
    path.write_bytes(b"\0")
    with pytest.raises(ModelError, match=r"^my models.py.*: expected valid Python, .*null"):
        files_of([f"{path}:f"])


def test_two_models_with_the_same_name_are_refused(path: Path, tmp_path: Path) -> None:
    (tmp_path / "b.py").write_text("def small(s, n): ...\ndef scratch(s, n): ...")
    with pytest.raises(SpecError, match=r"small is the name of another model; rename the function in b.py"):
        files_of([f"{path}:small", f"{tmp_path}/b.py:small"])
    with pytest.raises(SpecError, match=r"scratch is the name of another model"):
        files_of([f"{tmp_path}/b.py:scratch"])


def test_a_call_is_trusted_only_after_it_is_added_to_the_list(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    call = Call(ModelFile.read(path), "small", {"width": 4})
    assert not is_trusted(call)
    trust([call, call])
    trust([call])
    assert is_trusted(call)
    listed = (tmp_path / "config/mnist-jobs/trusted-models.txt").read_text()
    assert listed == f"{call.key}  my models.py: small(width=4)\n"


def test_m2_another_function_argument_or_content_is_another_call(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    file = ModelFile.read(path)
    trust([Call(file, "small", {"width": 4, "name": "x"})])
    assert is_trusted(Call(file, "small", {"name": "x", "width": 4}))
    for other in (
        Call(file, "small", {"width": 5, "name": "x"}),
        Call(file, "small", {"width": 4}),
        Call(file, "small", {"width": 4, "name": "x", "path": "/home/me/.profile"}),
        Call(file, "export", {"width": 4, "name": "x"}),
        Call(ModelFile(name=file.name, content=file.content + b"#"), "small", {"width": 4, "name": "x"}),
        Call(file, "small", {"width": 4, "name": "x"}, {"body": "1" * 64}),
    ):
        assert not is_trusted(other)
    trust([Call(file, "small", {}, {"body": "1" * 64})])
    assert is_trusted(Call(file, "small", {}, {"body": "1" * 64}))
    assert not is_trusted(Call(file, "small", {}, {"body": "2" * 64}))


def test_m2_a_file_that_is_listed_without_a_function_and_arguments_is_not_trusted(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    file = ModelFile.read(path)
    (tmp_path / "mnist-jobs").mkdir()
    (tmp_path / "mnist-jobs/trusted-models.txt").write_text(f"{file.sha256}  my models.py\n")
    with pytest.raises(ModelError, match=r"built by small\(\), which was not trained here"):
        require_trusted(Call(file, "small", {}), "small@1", None)


def test_a_file_name_with_a_line_break_adds_no_second_file_to_the_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    other = Call(ModelFile(name="other.py", content=b""), "f", {})
    for separator in "\n\r\v\f\x1c\x85\u2028\udcff":
        text = f"x{separator}{other.key}  y.py"
        file = ModelFile(name=text, content=separator.encode(errors="surrogateescape"))
        trust([Call(file, "f", {}), Call(file, "f", {"name": text})])
    assert not is_trusted(other)


def test_a_relative_folder_of_settings_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", "config")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    trust([Call(ModelFile(name="x.py", content=b""), "f", {})])
    assert (tmp_path / "home/.config/mnist-jobs/trusted-models.txt").exists()
    assert not (tmp_path / "config").exists()


def test_m2_the_code_of_a_version_runs_only_if_its_call_is_given_or_trusted(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    file, edited = ModelFile.read(path), ModelFile(name="edited.py", content=b"x = 1")
    stored = Call(file, "small", {"width": 4, "text": "a b"})
    require_trusted(stored, "small@1", file, {"text": "a b", "width": 4})
    built = rf"got one with sha256 {file.sha256}, built by small\(width=4, text='a b'\), "
    advice = r"""--model-file FILE\.py --model-arg width=4 --model-arg '{"text": "a b"}'"""
    with pytest.raises(ModelError, match=rf"^small@1: expected a trusted model, {built}.*: {advice}$"):
        require_trusted(stored, "small@1", None)
    for arguments in (None, {"width": 4}, {"width": 4, "text": "b"}):
        with pytest.raises(ModelError, match=r"expected a trusted model, got one with sha256 \w+, built by small"):
            require_trusted(stored, "small@1", file, arguments)
    with pytest.raises(ModelError, match=f"sha256 {file.sha256}, got edited.py with {edited.sha256}$"):
        require_trusted(stored, "small@1", edited, stored.arguments)
    trust([stored])
    require_trusted(stored, "small@1", None)
    require_trusted(stored, "small@1", edited)  # edited since


def test_no_call_becomes_trusted_if_the_list_cannot_be_written(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", "/proc/none")
    call = Call(ModelFile.read(path), "small", {})
    trust([call])
    assert "the stored models will need --model-file, since the list of trusted calls cannot be written" in caplog.text
    assert not is_trusted(call)
