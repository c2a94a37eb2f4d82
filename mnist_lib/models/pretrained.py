"""Weights that trials start from: in files that the user names, and of stored versions.

Files are read as numbers, without running code. A stored version has no such files: the function that builds its model
gets None for each path, and the numbers are those that were trained.
"""

import contextlib
import functools
import hashlib
import io
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from mnist_lib.catalog import MODELS, entry_of
from mnist_lib.errors import IntegrityError, ModelError, SpecError
from mnist_lib.model_file import ModelFile
from mnist_lib.objects.archives import FORMATS, numbers_in
from mnist_lib.objects.protocol import MAX_FILE_BYTES

# Versions of earlier releases have each file with zeros in place of its numbers, as `blank.<argument><suffix>.zlib`.
EMPTIED, COMPRESSED = "blank.", ".zlib"


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
                file.seek(0)
                content = file.read(size)
            for _ in numbers_in(content, suffix, f"weights: {path}"):
                pass
            return cls(suffix, content)
        except IntegrityError as error:
            raise ModelError(f"{error}; save the weights again") from error
        except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: no such home, as in ~nobody/x.npz
            reason = error.strerror if isinstance(error, OSError) else error
            raise ModelError(f"weights: expected a file at {path}, got an error: {reason}") from error

    @functools.cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


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

    files: Mapping[str, WeightsFile | None] = field(default_factory=dict)  # by sha256; None: see `of_version`
    versions: Mapping[str, StoredWeights] = field(default_factory=dict)  # by the sha256 of the weights

    @contextlib.contextmanager
    def paths(self, weights: Mapping[str, str]) -> Iterator[dict[str, str | None]]:
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
            paths = dict[str, str | None](dict.fromkeys(weights))
            for name, sha256 in weights.items():
                if (file := self.files[sha256]) is not None:
                    path = Path(folder, f"{name}{file.suffix}")
                    path.write_bytes(file.content)
                    paths[name] = str(path)
            yield paths

    @classmethod
    def of_version(cls, weights: Mapping[str, str], stored: Mapping[str, bytes] = MappingProxyType({})) -> "Pretrained":
        """Return what a stored version is built with: None in place of each weights file.

        Args:
            stored: the files of the version, by name; those of earlier releases have emptied weights files.
        """
        files = dict[str, WeightsFile | None](dict.fromkeys(weights.values()))
        for name, sha256 in weights.items():
            for suffix in FORMATS:
                if content := stored.get(f"{EMPTIED}{name}{suffix}{COMPRESSED}"):
                    files[sha256] = WeightsFile(suffix, zlib.decompressobj().decompress(content, MAX_FILE_BYTES))
        return cls(files=files)


NOTHING = Pretrained()


def suffix_of(path: Path) -> str | None:
    """Return the suffix of a file of weights, or None if the file has another one."""
    return next((suffix for suffix in FORMATS if path.name.endswith(suffix)), None)


def files_by_model(
    models: Iterable[str], sources: Mapping[str, ModelFile], given: Mapping[str, Path]
) -> dict[str, dict[str, WeightsFile]]:
    """Return the weights files of each model that takes some, by the argument that gets the path.

    Args:
        sources: the files that define models which are not in the catalog, by model.
        given: the path of each file, by argument.

    Raises:
        SpecError: no function has that argument.
        ModelError: a file cannot be read.
    """
    read = functools.cache(WeightsFile.read)
    known = {
        model: sources[model].arguments_of(model) if model in sources else [*entry_of(model).weights]
        for model in models
    }
    for name in given:
        if not any(names is None or name in names for names in known.values()):
            have = ", ".join(dict.fromkeys(each for names in known.values() for each in names or ())) or "none"
            with_files = ", ".join(name for name, entry in MODELS.items() if entry.weights)
            raise SpecError(
                f"weights: expected an argument of {' or '.join(known)} that takes a file, got {name}; arguments:"
                f" {have}; models that take one: {with_files}, and a function of yours, as in --models FILE.py:FUNCTION"
            )
    return {
        model: {name: read(path) for name, path in given.items() if names is None or name in names}
        for model, names in known.items()
    }
