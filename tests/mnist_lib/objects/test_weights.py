"""Files of weights are read as numbers: damaged and hostile ones are refused, and blank ones have the same form."""

import io
import json
import pickle
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any
from unittest import mock

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from mnist_lib import read_weights
from mnist_lib.errors import IntegrityError, ModelError
from mnist_lib.objects.archives import KERAS_WEIGHTS
from mnist_lib.objects.weights import FORMATS
from mnist_lib.pretrained import Pretrained, WeightsFile
from tests.support.memory import peak_bytes

ARRAYS: dict[str, NDArray[Any]] = {"one": np.linspace(1, 2, 12, dtype=np.float32).reshape(3, 4), "two": np.arange(1, 6)}


def hdf5(arrays: dict[str, NDArray[Any]] = ARRAYS, **options: str) -> bytes:
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        for name, array in arrays.items():
            file.create_dataset(f"layers/{name}", data=array, **options)
    return content.getvalue()


def keras_archive() -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("config.json", "{}")
        archive.writestr(KERAS_WEIGHTS, hdf5())
    return content.getvalue()


def npz(**arrays: Any) -> bytes:
    content = io.BytesIO()
    np.savez(content, **arrays)
    return content.getvalue()


def npy(array: NDArray[Any]) -> bytes:
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


def safetensors(**changed: object) -> bytes:
    header: dict[str, dict[str, object]] = {}
    numbers = b""
    for name, array in ARRAYS.items():
        kind = {"float32": "F32", "int64": "I64"}[array.dtype.name]
        ends = [len(numbers), len(numbers) + array.nbytes]
        header[name] = {"dtype": kind, "shape": [*array.shape], "data_offsets": ends}
        numbers += array.tobytes()
    header["one"] |= changed
    text = json.dumps({**header, "__metadata__": {"format": "np"}}).encode()
    return struct.pack("<Q", len(text)) + text + numbers


FILES: dict[str, bytes] = {
    ".weights.h5": hdf5(),
    ".h5": hdf5(),
    ".keras": keras_archive(),
    ".npz": npz(one=np.asfortranarray(ARRAYS["one"]), two=ARRAYS["two"]),
    ".safetensors": safetensors(),
}


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_file_of_each_format_has_its_arrays_and_a_blank_one_has_zeros_in_their_place(
    suffix: str, tmp_path: Path
) -> None:
    path = tmp_path / f"digits{suffix}"
    path.write_bytes(FILES[suffix])
    arrays = read_weights(path)
    assert [name.removeprefix("/layers/") for name in sorted(arrays)] == sorted(ARRAYS)
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, ARRAYS[name.removeprefix("/layers/")])
    file = WeightsFile.read(path)
    blank = WeightsFile.read_blank(suffix, file.blank(), "blank")
    zeros = FORMATS[suffix].arrays(blank.content, "blank")
    assert {name: (array.dtype, array.shape) for name, array in zeros.items()} == {
        name: (array.dtype, array.shape) for name, array in arrays.items()
    }
    assert not any(array.any() for array in zeros.values())


def test_a_blank_file_that_another_has_written_has_neither_code_nor_numbers() -> None:
    forged = WeightsFile(".keras", keras_archive())
    assert "config.json" in zipfile.ZipFile(io.BytesIO(forged.content)).namelist()
    read = WeightsFile.read_blank(".keras", zlib.compress(forged.content), "keras@1")
    assert zipfile.ZipFile(io.BytesIO(read.content)).namelist() == [KERAS_WEIGHTS]
    assert not any(array.any() for array in FORMATS[".keras"].arrays(read.content, "blank").values())


def test_the_blank_files_of_a_version_are_limited_together(monkeypatch: pytest.MonkeyPatch) -> None:
    weights, content = {"one": "1" * 64, "two": "2" * 64}, WeightsFile(".npz", FILES[".npz"]).blank()
    monkeypatch.setattr("mnist_lib.pretrained.MAX_FILE_BYTES", 2 * len(zlib.decompress(content)) - 1)
    files = {f"blank.{name}.npz.zlib": content for name in weights}
    assert len(Pretrained.read_blanks({"one": "1" * 64}, files, "net@1").files) == 1
    with pytest.raises(IntegrityError, match=r"net@1: blank.two.npz.zlib: expected at most \d+ bytes"):
        Pretrained.read_blanks(weights, files, "net@1")


def test_a_member_is_not_unpacked_beyond_its_declared_size() -> None:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("one.npy", npy(np.zeros(10**6)))
    declared = (10**6 * 8 + 128).to_bytes(4, "little")
    assert content.getvalue().count(declared) == 2
    small = content.getvalue().replace(declared, (128).to_bytes(4, "little"))
    with pytest.raises(IntegrityError, match="weights: expected a zip archive: Bad CRC-32"):
        FORMATS[".npz"].blank(small)


def deflated(content: bytes) -> bytes:
    """Return a zip archive with the same members, compressed."""
    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as archive, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as written:
        for name in archive.namelist():
            written.writestr(name, archive.read(name))
    return packed.getvalue()


WRONG: dict[str, tuple[str, bytes, str]] = {
    "a pickle as .npz": (".npz", pickle.dumps(ARRAYS), "expected a zip archive"),
    "a pickle as .h5": (".h5", pickle.dumps(ARRAYS), "expected an HDF5 file"),
    "a pickle as .safetensors": (".safetensors", pickle.dumps(ARRAYS), "expected a safetensors file, got a header of"),
    "a pickle in .npz": (".npz", npz(one=np.array([{}], object)), "expected a NumPy header of numbers"),
    "text in HDF5": (".h5", hdf5({"one": np.array([b"text"], object)}), "bytes of numbers, .*got /layers/one"),
    "compressed": (".h5", hdf5(compression="gzip"), "bytes of numbers, .*neither compressed .*got /layers/one"),
    "another archive": (".keras", npz(**ARRAYS), "expected a member model.weights.h5, got none"),
    "compressed weights": (".keras", deflated(FILES[".keras"]), "model.weights.h5: expected it stored, as Keras saves"),
    "an unknown type": (".safetensors", safetensors(dtype="BF16"), "one: expected a type of F64, F32, .*, got BF16"),
    "a gap": (".safetensors", safetensors(data_offsets=[8, 56]), "one: expected bytes 40 to 88|bytes 0 to 48, got"),
    "a huge shape": (".safetensors", safetensors(shape=[10**9, 10**9]), "expected bytes .*, got"),
    "too many numbers": (".safetensors", safetensors() + b"more", "bytes of numbers, got"),
    **{f"half a {suffix}": (suffix, content[: len(content) // 2], "expected a") for suffix, content in FILES.items()},
}


@pytest.mark.parametrize(("suffix", "content", "expected"), WRONG.values(), ids=WRONG)
def test_a_file_that_is_not_numbers_is_refused_in_one_line(
    suffix: str, content: bytes, expected: str, tmp_path: Path
) -> None:
    path = tmp_path / f"digits{suffix}"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=expected) as refused:
        WeightsFile.read(path)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_numbers_of_a_file_are_not_read_before_its_form_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "digits.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("one.npy", "w") as member:
        member.write(b"no header of NumPy")
        for _ in range(20):
            member.write(bytes(10**7))
    code = f"""
try:
    WeightsFile.read(Path({str(path)!r}))
except ModelError:
    pass
"""
    setup = """
from pathlib import Path
from typing import Any
from unittest import mock
from mnist_lib.errors import IntegrityError, ModelError
from mnist_lib.pretrained import WeightsFile
"""
    assert peak_bytes(setup, code) < 50_000_000


def test_an_archive_of_many_members_is_refused_before_they_are_listed(tmp_path: Path) -> None:
    path, listed = tmp_path / "digits.npz", mock.Mock(side_effect=AssertionError)
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(1_001):
            archive.writestr(f"{number}.npy", b"")
    with (
        mock.patch("mnist_lib.objects.archives.zipfile.ZipFile", listed),
        mock.patch("mnist_lib.objects.archives.PART_BYTES", 11),
        pytest.raises(ModelError, match=r"digits.npz: expected a zip archive of at most 1,000 members, got more"),
    ):
        WeightsFile.read(path)


def test_a_file_of_10_gb_is_refused_without_reading_it(tmp_path: Path) -> None:
    path = tmp_path / "digits.npz"
    with path.open("wb") as file:
        file.truncate(10 * 10**9)
    with pytest.raises(ModelError, match="expected at most 1,000,000,000 bytes, got 10,000,000,000"):
        WeightsFile.read(path)


def test_a_missing_file_and_an_unknown_format_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"expected a file at .*none.npz, got an error: No such file"):
        WeightsFile.read(tmp_path / "none.npz")
    with pytest.raises(ModelError, match=r"expected a file that ends in .weights.h5, .*, got .*digits.pkl"):
        WeightsFile.read(tmp_path / "digits.pkl")
