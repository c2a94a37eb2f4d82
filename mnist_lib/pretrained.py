"""Weights that trials start from: in files that the user names, and of stored versions.

Files are read as numbers, without running code. A stored version has each file with zeros in place of its numbers:
the function that builds its model still finds the file, and the numbers are those that were trained.
"""

import contextlib
import functools
import hashlib
import io
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mnist_lib.errors import IntegrityError, ModelError, SpecError
from mnist_lib.model_file import ModelFile
from mnist_lib.objects.protocol import MAX_FILE_BYTES
from mnist_lib.objects.weights import FORMATS

BLANK = "blank."  # begins the names of such files in a version
COMPRESSED = ".zlib"  # ends them


@dataclass(frozen=True)
class WeightsFile:
    """A file with weights. It is read once: what is checked is what is used."""

    suffix: str  # one of `FORMATS`
    content: bytes = field(repr=False)

    @classmethod
    def read(cls, path: Path) -> "WeightsFile":
        """Read a file. Raises ModelError if it cannot be read, is too large, or contains something but numbers."""
        suffix = suffix_of(path)
        if suffix is None:
            raise ModelError(f"weights: expected a file that ends in {', '.join(FORMATS)}, got {path}; convert it")
        try:
            with path.expanduser().open("rb") as file:
                size = file.seek(0, io.SEEK_END)
                if size > MAX_FILE_BYTES:
                    raise ModelError(f"weights: {path}: expected at most {MAX_FILE_BYTES:,} bytes, got {size:,}")
                FORMATS[suffix].check(file, f"weights: {path}")
                file.seek(0)
                return cls(suffix, file.read(size))
        except IntegrityError as error:
            raise ModelError(f"{error}; save the weights again") from error
        except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: no such home, as in ~nobody/x.npz
            reason = error.strerror if isinstance(error, OSError) else error
            raise ModelError(f"weights: expected a file at {path}, got an error: {reason}") from error

    @functools.cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    def blank(self) -> bytes:
        """Return the file with zeros in place of its numbers, compressed."""
        return zlib.compress(FORMATS[self.suffix].blank(self.content))

    @classmethod
    def read_blank(cls, suffix: str, content: bytes, name: str, limit: int = MAX_FILE_BYTES) -> "WeightsFile":
        """Return the file that `blank` has written, blanked again, since anybody may have written another one.

        Raises IntegrityError if it is damaged, or larger than `limit` in bytes.
        """
        try:
            unpacked = zlib.decompressobj().decompress(content, limit + 1)
        except zlib.error as error:
            raise IntegrityError(f"{name}: expected a compressed file: {error}") from error
        if len(unpacked) > limit:
            raise IntegrityError(f"{name}: expected at most {limit:,} bytes, got more")
        FORMATS[suffix].check(io.BytesIO(unpacked), name)
        return cls(suffix, FORMATS[suffix].blank(unpacked))


@dataclass(frozen=True)
class StoredWeights:
    """The weights of a stored version, without its code."""

    name: str  # such as keras@3
    files: Mapping[str, bytes]  # as `Model.read` takes them
    image_shape: tuple[int, int, int]
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Pretrained:
    """What the trials of a run start from. Each worker gets it once."""

    files: Mapping[str, WeightsFile] = field(default_factory=dict)  # by sha256
    versions: Mapping[str, StoredWeights] = field(default_factory=dict)  # by the sha256 of the weights

    @contextlib.contextmanager
    def paths(self, weights: Mapping[str, str]) -> Iterator[dict[str, str]]:
        """Write files to a temporary folder, and return their paths by argument.

        Args:
            weights: the sha256 of each file, by the argument that gets its path.

        Raises:
            ModelError: a file is missing.
        """
        for name, sha256 in weights.items():
            if sha256 not in self.files:
                raise ModelError(
                    f"weights: expected a file for {name} with sha256 {sha256}, got none; add --weights {name}=FILE"
                )
        with tempfile.TemporaryDirectory(prefix="weights-") as folder:
            paths = {name: Path(folder, f"{name}{self.files[sha256].suffix}") for name, sha256 in weights.items()}
            for name, path in paths.items():
                path.write_bytes(self.files[weights[name]].content)
            yield {name: str(path) for name, path in paths.items()}

    def blanks(self, weights: Mapping[str, str]) -> dict[str, bytes]:
        """Return the files that a stored version needs in place of these, by path."""
        files = {name: self.files[sha256] for name, sha256 in weights.items()}
        return {f"{BLANK}{name}{file.suffix}{COMPRESSED}": file.blank() for name, file in files.items()}

    def blanked(self, weights: Mapping[str, str]) -> "Pretrained":
        """Return what a stored version is built with."""
        return self.read_blanks(weights, self.blanks(weights), "weights")

    @classmethod
    def read_blanks(cls, weights: Mapping[str, str], files: Mapping[str, bytes], version: str) -> "Pretrained":
        """Return the files that `blanks` has written.

        Raises IntegrityError if one is missing or damaged, or if they are larger together than a file may be.
        """
        found, left = dict[str, WeightsFile](), MAX_FILE_BYTES
        for name, sha256 in weights.items():
            paths = {suffix: f"{BLANK}{name}{suffix}{COMPRESSED}" for suffix in FORMATS}
            suffix = next((suffix for suffix, path in paths.items() if path in files), None)
            if suffix is None:
                raise IntegrityError(f"{version}: expected a file {paths['.npz']} or of another format, got none")
            file = WeightsFile.read_blank(suffix, files[paths[suffix]], f"{version}: {paths[suffix]}", left)
            found[sha256], left = file, left - len(file.content)
        return cls(files=found)


NOTHING = Pretrained()


def suffix_of(path: Path) -> str | None:
    """Return the suffix of a file of weights, or None if the file has another one."""
    return next((suffix for suffix in FORMATS if path.name.endswith(suffix)), None)


def files_by_model(sources: Mapping[str, ModelFile], given: Mapping[str, Path]) -> dict[str, dict[str, WeightsFile]]:
    """Return the weights files of each of the user's models, by the argument that gets the path.

    Args:
        given: the path of each file, by argument.

    Raises:
        SpecError: no function has that argument.
        ModelError: a file cannot be read.
    """
    read = functools.cache(WeightsFile.read)
    known = {model: source.arguments_of(model) for model, source in sources.items()}
    for name in given:
        if not any(names is None or name in names for names in known.values()):
            have = ", ".join(dict.fromkeys(each for names in known.values() for each in names or ())) or "none"
            models = " or ".join(sources) or "a function of yours, as in --models FILE.py:FUNCTION"
            raise SpecError(f"weights: expected an argument of {models}, got {name}; arguments: {have}")
    return {
        model: {name: read(path) for name, path in given.items() if names is None or name in names}
        for model, names in known.items()
    }
