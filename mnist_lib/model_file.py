"""Models in a user's Python file: what its source says without being run, and whether its code may be run.

A stored version contains the source. It is run only if the user names the same file and arguments now, or if its
content, function and arguments are in a list outside the storage, since others may write to the storage.
"""

import ast
import functools
import hashlib
import json
import logging
import os
import re
import shlex
import traceback
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from mnist_lib.catalog import MODELS
from mnist_lib.errors import ModelError, SpecError
from mnist_lib.wording import one_line

SOURCE_FILE = "model.py"  # in a version
MAX_SOURCE_BYTES = 1_000_000
FILE_MODEL = re.compile(r"(?P<file>.+\.py):(?P<function>[^:/]*)")  # as in ./my_models.py:small_resnet
MODEL_NAME = re.compile("[A-Za-z_][A-Za-z0-9_]{0,59}", re.ASCII)  # a user's model has the name of its function
TRUSTED = "trusted-models.txt"

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ModelFile:
    """A Python file with models, or with a builder of TFDS. It is read once: what is checked is what is run."""

    name: str  # the name of the file, used in messages
    content: bytes
    path: Path | None = field(default=None, compare=False)  # where it was read

    @classmethod
    def read(cls, path: Path, option: str = "models") -> "ModelFile":
        """Read the file that an option names. Raises ModelError if it cannot be read, or is not valid Python."""
        try:
            with path.expanduser().open("rb") as file:
                content = file.read(MAX_SOURCE_BYTES + 1)
        except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: no such home, as in ~nobody/models.py
            reason = error.strerror if isinstance(error, OSError) else error
            raise ModelError(f"{option}: expected a Python file at {path}, got an error: {reason}") from error
        if len(content) > MAX_SOURCE_BYTES:
            raise ModelError(f"{option}: {path}: expected at most {MAX_SOURCE_BYTES:,} bytes, got more")
        source = cls(name=path.name, content=content, path=path.expanduser().absolute())
        source.functions()
        return source

    @functools.cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def traceback_name(self) -> str:
        """The unique name of the file in tracebacks."""
        return f"<{self.name} {self.sha256[:12]}>"

    def functions(self) -> "dict[str, ast.FunctionDef | ast.ClassDef]":
        """Return the functions and classes at the top level. Raises ModelError if the file is not valid Python."""
        try:
            return _functions(self.content)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            where = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
            reason = error.msg if isinstance(error, SyntaxError) else one_line(error)
            raise ModelError(f"{self.name}{where}: expected valid Python, got an error: {reason}") from error

    def require_function(self, function: str) -> None:
        """Raise ModelError unless the file defines a function or a class of that name."""
        if function not in self.functions():
            known = ", ".join(self.functions()) or "none"
            raise ModelError(f"{self.name}: expected a function {function}, got none; its functions: {known}")

    def arguments_of(self, function: str) -> list[str] | None:
        """Return the arguments besides the image shape and the number of classes, or None if any may be accepted."""
        definition, others = self.functions()[function], 2
        if isinstance(definition, ast.ClassDef):
            methods = {method.name: method for method in definition.body if isinstance(method, ast.FunctionDef)}
            if "__init__" not in methods:
                return None
            definition, others = methods["__init__"], 3  # with self
        known = definition.args
        if known.kwarg is not None:
            return None
        return [argument.arg for argument in ([*known.posonlyargs, *known.args][others:] + known.kwonlyargs)]

    def place(self, function: str) -> str:
        """Return where a function begins, for messages."""
        return f"{self.name}, line {self.functions()[function].lineno}: {function}"

    @contextmanager
    def blamed(self, function: str) -> Iterator[None]:
        """Turn every exception that a function raises, including SystemExit, into a ModelError that names its line.

        Lack of memory is not the function's fault, and is raised as it is.
        """
        try:
            yield
        except (ModelError, MemoryError):
            raise
        except (Exception, SystemExit) as error:
            if type(error).__name__ == "ResourceExhaustedError":  # TensorFlow's, which this module does not import
                raise
            place = self.place_of(error) or self.place(function)
            if "URL fetch failure on " in str(error):  # by Keras, as with weights="imagenet"
                raise ModelError(
                    f"{place}: expected weights from a file, got weights that Keras downloads, which is not possible"
                    f" here ({one_line(error)}); save them where there is a network, and add --weights: see"
                    " docs/fine-tune.md"
                ) from error
            raise ModelError(f"{place}: {type(error).__name__}: {one_line(error)}") from error

    def place_of(self, error: BaseException) -> str | None:
        """Return the file and line of an exception, or None if this file did not cause it."""
        lines = [
            frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == self.traceback_name
        ]
        # The text of an error in a compiled function names the line that created the operation.
        lines += map(int, re.findall(rf'{re.escape(self.traceback_name)}", line (\d+)', str(error)))
        return f"{self.name}, line {lines[-1]}" if lines else None


@functools.lru_cache
def _functions(content: bytes) -> dict[str, ast.FunctionDef | ast.ClassDef]:
    definitions = (each for each in ast.parse(content).body if isinstance(each, ast.FunctionDef | ast.ClassDef))
    return {definition.name: definition for definition in definitions}


def files_of(models: Collection[str]) -> dict[str, ModelFile]:
    """Return the files of the models that are given as FILE.py:FUNCTION, by the function's name.

    Raises:
        SpecError: a function's name is that of another model.
        ModelError: a file cannot be read, is not valid Python, or has no such function.
    """
    found: dict[str, ModelFile] = {}
    for model in models:
        match = FILE_MODEL.fullmatch(model)
        if match is None:
            if model.endswith(".py"):
                raise SpecError(f"models: expected a function after the file, as in {model}:my_model, got none")
            continue
        source, function = ModelFile.read(Path(match["file"])), match["function"]
        if not MODEL_NAME.fullmatch(function):
            raise SpecError(f"models: expected the name of a function of {source.name}, got {function!r}")
        if function in MODELS or function in found:
            raise SpecError(f"models: {function} is the name of another model; rename the function in {source.name}")
        source.require_function(function)
        found[function] = source
    return found


def name_of(model: str) -> str:
    """Return the name of a model that is given by name or as FILE.py:FUNCTION."""
    match = FILE_MODEL.fullmatch(model)
    return match["function"] if match else model


def with_folder(model: str, folder: str | None = None) -> str:
    """Return FILE.py:FUNCTION with the file in `folder`, or with its absolute path; return a bare name unchanged."""
    match = FILE_MODEL.fullmatch(model)
    if match is None:
        return model
    path = Path(match["file"]).expanduser().absolute()
    return f"{Path(folder, path.name) if folder else path}:{match['function']}"


class Call(NamedTuple):
    """A call of code in a user's file. It is trusted as a whole: another function or argument may do harm."""

    file: ModelFile
    function: str
    arguments: Mapping[str, Any]
    weights: Mapping[str, str] = MappingProxyType({})  # the sha256 of the files whose paths are further arguments

    @property
    def key(self) -> str:
        """The hash of the file's content, the function and the arguments, as in the list of trusted calls."""
        weights = [dict(self.weights)] if self.weights else []  # without files: as in lists of earlier releases
        content = json.dumps([self.file.sha256, self.function, self.arguments, *weights], sort_keys=True, default=str)
        return hashlib.sha256(content.encode()).hexdigest()

    def __str__(self) -> str:
        files = {name: f"file with sha256 {sha256[:12]}" for name, sha256 in self.weights.items()}
        return (
            f"{self.function}({', '.join(f'{name}={value!r}' for name, value in {**self.arguments, **files}.items())})"
        )


def trust(calls: Collection[Call]) -> None:
    """Add calls to the list of trusted ones: those that are made if a stored version asks for them.

    If the list cannot be written, this logs a warning.
    """
    new = {call.key: call for call in calls if not is_trusted(call)}
    try:
        if new:
            path = _list_of_trusted()
            path.parent.mkdir(parents=True, exist_ok=True)
            lines = [f"{key}  {ascii(f'{call.file.name}: {call}')[1:-1]}\n" for key, call in new.items()]
            with path.open("a") as file:  # one write, so that lines of two processes do not mix
                file.write("".join(lines))
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home folder
        log.warning(
            "the stored models will need --model-file, since the list of trusted calls cannot be written (%s)", error
        )


def is_trusted(call: Call) -> bool:
    """Return whether the list of trusted calls has this one."""
    try:
        lines = _list_of_trusted().read_bytes().split(b"\n")
    except (OSError, RuntimeError):  # RuntimeError: there is no home folder
        return False
    return any(line.split(b" ")[0] == call.key.encode() for line in lines)


def require_trusted(
    stored: Call, version: str, given: ModelFile | None, arguments: Mapping[str, Any] | None = None
) -> None:
    """Raise ModelError unless the call that builds a version is trusted, or is one of the given file.

    Args:
        arguments: those that the user names with the given file.
    """
    same = given is not None and Call(given, stored.function, arguments or {}, stored.weights).key == stored.key
    if is_trusted(stored) or same:
        return
    file = stored.file
    if given is not None and given.sha256 != file.sha256:
        raise ModelError(f"{version}: expected a file with sha256 {file.sha256}, got {given.name} with {given.sha256}")
    words = ["--model-file FILE.py"]
    for name, value in stored.arguments.items():
        text = json.dumps({name: value}) if isinstance(value, str) else f"{name}={value}"  # so that "7" remains a text
        words.append(f"--model-arg {shlex.quote(text)}")
    raise ModelError(
        f"{version}: expected a trusted model, got one with sha256 {file.sha256}, built by {stored}, which was not"
        f" trained here; to run it, name the file that it was trained from: {' '.join(words)}"
    )


def _list_of_trusted() -> Path:
    """Return the path of the list of trusted calls. Raises RuntimeError if there is no home folder."""
    return user_folder() / TRUSTED


def user_folder() -> Path:
    """Return the folder for what this program notes on this machine. Raises RuntimeError without a home folder."""
    home = os.environ.get("XDG_CONFIG_HOME", "")
    folder = Path(home) if Path(home).is_absolute() else Path.home() / ".config"
    return folder / "mnist-jobs"
